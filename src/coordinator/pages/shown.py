"""What the pages of a coordinator look at."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from coordinator.config import CoordinatorConfig
from coordinator.downsample import Downsampler
from coordinator.query import ReadOptions, Source
from coordinator.sinks.hub import Hub
from coordinator.write import Grown
from coordinator.write.remembered import Page
from m3cluster.kv import Store
from m3msg.producer import Producer
from m3x.pages import History

__all__ = ["Shown"]


@dataclass(frozen=True, slots=True)
class Shown:
    """The parts of one coordinator; ``history`` has ``overview.FIGURES``. ``reasons``, ``problems``, ``notes``: as ``/ready`` says them."""

    history: History
    downsampler: Downsampler
    store: Store
    environment: str
    reasons: Callable[[], list[str]]
    problems: Callable[[], list[str]]
    notes: Callable[[], list[str]]
    producer: Producer | None
    """None: nothing is sent to aggregators."""
    hub: Hub | None
    source: Source | None
    """What stored series are read from; None: nothing can be."""
    read_options: ReadOptions
    config: CoordinatorConfig
    remembered: Callable[[int], Awaitable[Page]] | None
    """Series that each process that takes writes has met, page by page; None: none does."""
    grown: Callable[[], Awaitable[Iterable[Grown]]]
    """Which names grow, as each process that takes writes has seen them."""
    namespaces: Callable[[], list[str]]
    """Names of those there are now."""
