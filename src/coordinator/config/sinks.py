"""``sinks`` and ``sinkQueue``: stores beside the one that ``backend`` names, and the queues before them. Not keys of M3."""

from typing import Literal

from m3metrics.errors import PolicyError
from m3metrics.policy import StoragePolicy
from m3x.config import Duration, Section

__all__ = ["UNAGGREGATED_POLICY", "QueueConfig", "QueueOverrides", "SinkConfig"]

UNAGGREGATED_POLICY = "unaggregated"
"""How samples that are not aggregated are named where a policy is expected."""
_LEAST_BYTES = 1 << 20


class QueueConfig(Section, frozen=True):
    """``sinkQueue``: what holds for the queue of every sink that does not say otherwise (docs/storage.md, the queue)."""

    directory: str = "queues"
    """Has a folder for each sink. A relative path is taken below the data directory."""
    max_bytes: int = 1 << 30
    """On disk, for each sink."""
    segment_bytes: int = 1 << 26
    """Of one file, at most an eighth of ``max_bytes``; whole files are deleted once all that is in them is delivered."""
    sync: Literal["os", "interval", "always"] = "os"
    """When what is appended counts as safe: at once (it survives the death of the process), or after the next sync to disk."""
    sync_interval: Duration = Duration(100_000_000)
    on_full: Literal["wait", "dropOldest"] = "wait"
    window_bytes: int = 1 << 26
    """What of a queue is in memory."""

    def __post_init__(self) -> None:
        if not self.directory:
            raise ValueError("directory must not be empty")
        _check_sizes(self.max_bytes, self.segment_bytes, self.window_bytes)
        if self.sync_interval <= 0:
            raise ValueError(f"syncInterval must be positive, found {self.sync_interval}")


class QueueOverrides(Section, frozen=True):
    """``queue`` of one sink: what is different there from ``sinkQueue``."""

    max_bytes: int | None = None
    segment_bytes: int | None = None
    sync: Literal["os", "interval", "always"] | None = None
    sync_interval: Duration | None = None
    on_full: Literal["wait", "dropOldest"] | None = None
    window_bytes: int | None = None

    def over(self, common: QueueConfig) -> QueueConfig:
        """``common`` with what is said here. Raises ``ValueError`` where that cannot be."""
        return QueueConfig(
            directory=common.directory,
            max_bytes=common.max_bytes if self.max_bytes is None else self.max_bytes,
            segment_bytes=common.segment_bytes if self.segment_bytes is None else self.segment_bytes,
            sync=common.sync if self.sync is None else self.sync,
            sync_interval=common.sync_interval if self.sync_interval is None else self.sync_interval,
            on_full=common.on_full if self.on_full is None else self.on_full,
            window_bytes=common.window_bytes if self.window_bytes is None else self.window_bytes,
        )


class SinkConfig(Section, frozen=True):
    """``sinks[]``: a store that gets values beside the one of ``backend``."""

    type: Literal["embedded", "file"]
    name: str = ""
    """Names its queue, its figures and its lines in ``/ready``; empty: its type."""
    path: str = ""
    """``file``: what is appended to; ``-`` is standard output."""
    policies: list[str] = []
    """Storage policies (``10s:48h``), or ``unaggregated``; empty: all that there are."""
    queue: QueueOverrides = QueueOverrides()

    def __post_init__(self) -> None:
        if self.type == "file" and not self.path:
            raise ValueError("a sink of type file needs a path (or - for standard output)")
        if self.type != "file" and self.path:
            raise ValueError(f"path is for sinks of type file; found it with type {self.type}")
        check_sink_name(self.called)
        for text in self.policies:
            if text != UNAGGREGATED_POLICY:
                try:
                    StoragePolicy.parse(text)
                except PolicyError as error:
                    raise ValueError(f"policies: {text!r}: {error}; write 10s:48h, or {UNAGGREGATED_POLICY}") from error

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or self.type

    @property
    def attributes(self) -> frozenset[tuple[int, int]] | None:
        """Resolution and retention of the policies in ns, (0, 0) for unaggregated samples; None: all."""
        if not self.policies:
            return None
        parsed = [None if text == UNAGGREGATED_POLICY else StoragePolicy.parse(text) for text in self.policies]
        return frozenset((0, 0) if one is None else (one.window_ns, one.retention_ns) for one in parsed)


def check_sink_name(name: str) -> None:
    """Raises ``ValueError`` where it cannot be the name of a folder."""
    if not name or not name.isascii() or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise ValueError(f"the name of a sink has letters, digits, - and _ only; found {name!r}")


def _check_sizes(max_bytes: int, segment_bytes: int, window_bytes: int) -> None:
    if segment_bytes < _LEAST_BYTES or window_bytes < _LEAST_BYTES:
        raise ValueError(f"segmentBytes and windowBytes must be at least {_LEAST_BYTES}")
    if max_bytes < 8 * _LEAST_BYTES:
        raise ValueError(f"maxBytes must be at least {8 * _LEAST_BYTES}, found {max_bytes}")
