"""Sections that size Go's object pools: M3's keys with their types, which all are without effect here."""

from m3x.config import Rate, Section, Text

__all__ = [
    "BucketConfig",
    "BucketizedPoolConfig",
    "MessagePoolConfig",
    "ObjectPoolConfig",
    "PoolSize",
    "WatermarkConfig",
]


class PoolSize(Text):
    """``dynamic``, or a number of objects."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        if text != "dynamic" and not (text.isascii() and text.removeprefix("+").isdigit() and int(text) < 1 << 63):
            raise ValueError(f"expected a number that is not negative, or dynamic (found {text!r})")


class BucketConfig(Section, frozen=True, kw_only=True):
    """``buckets[]``."""

    count: PoolSize | None = None
    capacity: int = 0


class WatermarkConfig(Section, frozen=True, kw_only=True):
    """``watermark``."""

    low: Rate = 0.0
    high: Rate = 0.0


class BucketizedPoolConfig(Section, frozen=True, kw_only=True):
    """A pool of slices of several sizes."""

    buckets: list[BucketConfig] = []
    watermark: WatermarkConfig | None = None


class MessagePoolConfig(Section, frozen=True, kw_only=True):
    """``messagePool``."""

    size: PoolSize | None = None
    watermark: WatermarkConfig | None = None
    max_buffer_reuse_size: int = 0


class ObjectPoolConfig(Section, frozen=True, kw_only=True):
    """A pool of objects."""

    size: PoolSize | None = None
    watermark: WatermarkConfig | None = None
