"""Blocks that several sections of the file share: retries, names of services, places in the KV.

docs/m3/aggregation.md, top-level sections.
"""

from m3x.config import Duration, Meaningless, Section
from m3x.retry import Backoff

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
MINUTE = 60 * SECOND


class RetryConfig(Section, frozen=True, kw_only=True):
    """M3's generic retry block: a zero in YAML means the default (docs/m3/aggregation.md, top-level sections)."""

    initial_backoff: Duration = Duration(0)
    backoff_factor: float = 0.0
    max_backoff: Duration = Duration(0)
    """0: unbounded."""
    max_retries: int = 0
    forever: bool | None = None
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.initial_backoff < 0 or self.max_backoff < 0 or self.backoff_factor < 0 or self.max_retries < 0:
            raise ValueError("initialBackoff, maxBackoff, backoffFactor and maxRetries must not be negative")

    def backoff(self) -> Backoff:
        """The delays that this block asks for."""
        return Backoff(
            initial_s=(self.initial_backoff or Duration(SECOND)).seconds,
            factor=self.backoff_factor or 2.0,
            max_s=self.max_backoff.seconds or float("inf"),
            jitter=self.jitter,
        )


class ServiceIDConfig(Section, frozen=True, kw_only=True):
    """``serviceID: {name, environment, zone}``."""

    name: str = ""
    environment: str = ""
    zone: str = ""


class CodecConfig(Section, frozen=True, kw_only=True):
    """Largest frame, length prefix included."""

    max_message_size: int = 4 << 20
    bytes_pool: Meaningless = None
