"""What the processes of one aggregator instance say to each other over ZeroMQ (docs/architecture.md §2, §4).

Sockets, all ``ipc://`` in a private run directory; names carry the incarnations of both ends, so nothing queued for a dead process can
reach its successor. ``F`` and ``W`` are the epochs of front and worker, counted by the supervisor.

| name | type | direction | carries |
|---|---|---|---|
| ``w{i}-F-W.data`` | PUSH → PULL | front (binds) → worker | ``ToWorker`` header + payload frames, in one ordered stream |
| ``w{i}-F-W.acks`` | PUSH → PULL | worker → front (binds) | ``Acked``, with ack frames ready for the sockets |
| ``w{i}-F-W.sup`` | PAIR | worker ↔ supervisor (binds) | ``FromWorker`` + payload frames; ``ToWorkerDirect`` |
| ``front-F.sup`` | PAIR | front ↔ supervisor (binds) | ``ToFront``; ``FromFront`` |

Frame 0 of a message is the msgpack of one struct below, further frames are raw arrays. No process ever sends blockingly.
The payload of a large batch is not sent at all: it lies in memory of the front that workers map (``memory_path``), and is read there.
A command that changes what a worker does with samples (``Command``) travels supervisor → front → worker, and the front stamps it: it takes
effect after every batch stamped earlier and before every later one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.lists import ListId
from m3metrics.growth import GrowthReport
from m3metrics.traffic import TrafficReport
from m3x.shared_memory import as_writeable, mapped


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages: encoded as arrays, tagged by class name."""


# --- commands: supervisor → front → worker ------------------------------------------------------------------------------------------


class ShardBounds(_Message, frozen=True):
    """Flush bounds that a group of shards shares (docs/m3/aggregation.md, flushing a list)."""

    shards: list[int]
    """Shard ids; empty: every shard of the worker that no other group names."""
    target_ns: int
    """now − delay of the list: windows up to here are due."""
    cutover_ns: int
    cutoff_ns: int


class Flush(_Message, frozen=True, tag="flush"):
    """Flush one list of all shards of a worker up to the bounds of each shard."""

    id: int
    """Echoed in ``Flushed``; unique for the life of the supervisor."""
    list_id: ListId
    emit: bool
    """True: as leader; False: as follower, everything due is consumed and thrown away (state advances alike)."""
    bounds: list[ShardBounds]


class Reopen(_Message, frozen=True, tag="reopen"):
    """A term begins: the next ``Flush`` of this list emits again what is still kept of windows that end after ``since_ns``."""

    id: int
    """From the same numbers as ``Flush.id``."""
    list_id: ListId
    since_ns: int
    """Up to here the KV covers the list on every shard of the worker; 0: nothing is covered."""


class Commit(_Message, frozen=True, tag="commit"):
    """Flush times in KV now cover this list up to ``through_ns`` for these shards: what was kept to emit again may go."""

    list_id: ListId
    shards: list[int]
    through_ns: int


class OwnedShard(_Message, frozen=True):
    """A shard that a worker serves; writes are accepted in ``[cutover − buffer before, cutoff + buffer after)``."""

    id: int
    cutover_ns: int
    cutoff_ns: int


class Shards(_Message, frozen=True, tag="shards"):
    """The shards of a worker and the shard count of the placement. The first command that any worker gets."""

    num_shards: int
    topic_shards: int
    owned: list[OwnedShard]


class RuntimeOptions(_Message, frozen=True, tag="runtime"):
    """Limits that change at run time (docs/m3/aggregation.md, runtime options)."""

    values_per_metric_limit_per_second: int
    new_metric_limit_per_shard_per_second: int


class Expire(_Message, frozen=True, tag="expire"):
    """Walk all entries once and collect those idle for longer than the entry TTL."""


class Grace(_Message, frozen=True, tag="grace"):
    """Until then no forwarded value is too late whose window has not been flushed: its source is flushed again after a replay and in a
    new term, and a follower's windows are open until its leader has flushed them."""

    until_ns: int


Command = Flush | Reopen | Commit | Shards | RuntimeOptions | Expire | Grace

# --- front → worker -----------------------------------------------------------------------------------------------------------------


class Batch(_Message, frozen=True, tag="batch"):
    """Samples: complete m3msg frames, length prefixes included, of one or several connections one after another.

    They are in frame 1, or, if there is none, in the front's memory until the batch is acked.
    """

    seq: int
    """Grows by one per batch; echoed in ``Acked``. What a dead incarnation had not acked is given to the next one as it was."""
    now_ns: int
    """When the front read these bytes (wall clock), non-decreasing per worker."""
    connections: list[int]
    sizes: list[int]
    """Bytes that belong to each connection, in order."""
    counts: list[int] = []
    """Messages of each connection."""
    front: int = 0
    """A number that no other front process has: ``seq`` counts from 0 for each, over the incarnations of the worker."""
    settled: int = -1
    """Of batches up to this ``seq`` no producer sends a message again: their systems have taken the acks."""
    hosts: list[int] = []
    """Of each connection: a number of 32 bits for the peer's host, the same over connections and fronts."""
    since_ns: int = 0
    """Since when, at the earliest, producers wait for these acks (``CLOCK_MONOTONIC``); 0: not known."""
    at: int = -1
    """Where in the front's memory they begin; -1: they are in frame 1."""


class Cut(_Message, frozen=True, tag="cut"):
    """Connections ended before it was known that they have got all acks: their producers may send some messages again."""

    connections: dict[int, int]
    """Each with the first ``seq`` of the same front of which that is so."""


class Order(_Message, frozen=True, tag="order"):
    """A command of the supervisor, stamped."""

    now_ns: int
    command: Command


class Goodbye(_Message, frozen=True, tag="goodbye"):
    """No more data will come: answer what is left, then exit 0."""


ToWorker = Batch | Cut | Order | Goodbye

# --- worker → front -----------------------------------------------------------------------------------------------------------------


class Acked(_Message, frozen=True, tag="acked"):
    """Batch ``seq`` is applied."""

    seq: int
    nbytes: int
    """Size of the batch: the credit that returns to the front."""
    sizes: list[int]
    """Ack bytes per connection, in the order of ``Batch.connections``."""
    frames: memoryview
    """Ack frames for the connections of that batch, one after another; when decoded a part of what was decoded."""


# --- worker ↔ supervisor ------------------------------------------------------------------------------------------------------------


class NewList(_Message, frozen=True):
    """A list that came to be on a shard; ``now_ns`` is the stamp of the batch that made it."""

    shard: int
    list_id: ListId
    now_ns: int


class Replaying(_Message, frozen=True, tag="replaying"):
    """The worker applies its journal, or waits for it; ``Ready`` follows."""

    part: float
    """How much is done, 0 to 1."""
    seconds_left: float
    waits: str = ""
    """What it waits for; empty: it does not."""


class Ready(_Message, frozen=True, tag="ready"):
    """The worker has loaded its kernels, holds what its journal says, and reads its sockets."""

    worker: int
    pid: int
    lists: list[NewList] = []
    """Those that the journal has brought back."""
    samples: int = 0
    """How many samples were replayed."""
    lost: int = 0
    """How many of the journal could not be read, as far as is known."""
    journal: str = ""
    """Why there is no journal though one is wanted; empty: there is, or none is wanted."""
    through_ns: int = 0
    """The newest stamp in the journal: what was stamped before is there; 0: there was nothing in it."""
    late: int = 0
    """As in ``WorkerStats``."""


class Lists(_Message, frozen=True, tag="lists"):
    """New lists of a worker: the supervisor schedules their flushes."""

    lists: list[NewList]


class Flushed(_Message, frozen=True, tag="flushed"):
    """A part of the answer to ``Flush``. Frames: the columns of a ``MessageBatch``.

    They are payload uint8, offsets int64, shards uint32, policies uint16 (empty: none), origins uint32: the shard of the placement that
    each message comes from (empty: not told). A flush without output has one part with ``last`` set and no frames. Parts wait in the
    worker until output credit of their class allows them.
    """

    id: int
    last: bool
    values: int
    """Messages in this part."""
    forwarded: bool
    """True: ``MetricWithMetadatas`` for the ``aggregator_ingest`` topic (rollups), shards of the placement; False: final output for
    ``aggregated_metrics``, shards of that topic."""
    policy_names: list[str]
    discarded: int = 0
    """With ``last``: values that were thrown away (follower, before cutover, NaN)."""


class Passed(_Message, frozen=True, tag="passed"):
    """Passthrough metrics, which need no aggregation. Frames as those of ``Flushed``, final output; they take its credit."""

    values: int
    policy_names: list[str]


class Refused(_Message, frozen=True, tag="refused"):
    """A command that this worker cannot do; the supervisor sends it again or gives it up."""

    id: int
    reason: str


class ShardStats(_Message, frozen=True):
    """What ``/shards`` shows of one shard."""

    id: int
    entries: int
    open_windows: int
    last_flush_ns: int
    """Newest target flushed on any list of the shard; 0: never."""


class WorkerStats(_Message, frozen=True, tag="stats"):
    """Once a second: counters since the start of the worker (M3's metric names, tags as ``name{k=v}``), gauges, shards."""

    counters: dict[str, int]
    gauges: dict[str, float]
    shards: list[ShardStats]
    trouble: str = ""
    """Why the journal takes nothing, so that nothing is acked; empty: it does."""
    late: int = 0
    """How many timed and forwarded values were refused since the start, or in the journal, as they came too late."""
    growth: GrowthReport = GrowthReport()
    """Which names have grown of late."""
    histograms: list[tuple[tuple[str, tuple[tuple[str, str], ...]], list[int], float]] = []
    """Durations since the start of the worker (``m3x.instrument.Report``)."""
    traffic: TrafficReport = TrafficReport()
    """Which names send most, cost most and are refused most."""


FromWorker = Replaying | Ready | Lists | Flushed | Passed | Refused | WorkerStats


class OutputCredit(_Message, frozen=True, tag="credit"):
    """The supervisor takes this many more bytes of ``Flushed`` payload, of final output or of forwarded metrics."""

    nbytes: int
    forwarded: bool = False


class Stop(_Message, frozen=True, tag="stop"):
    """Exit 0 after what is in hand."""


class Attach(_Message, frozen=True, tag="attach"):
    """A new front runs: close the data and ack sockets (what they still hold is lost with the old front) and connect to its names."""

    front_epoch: int


ToWorkerDirect = OutputCredit | Stop | Attach

# --- supervisor ↔ front -------------------------------------------------------------------------------------------------------------


class WorkerUp(_Message, frozen=True, tag="worker_up"):
    """A worker incarnation to bind for; replaces an earlier one of the same index. ``owned`` are the shards routed to it."""

    worker: int
    epoch: int
    owned: list[int]


class WorkerDown(_Message, frozen=True, tag="worker_down"):
    """The worker process is gone: close its sockets, and keep what it had not acked for its successor."""

    worker: int
    epoch: int


class Route(_Message, frozen=True, tag="route"):
    """Shard ownership: ``owners[s]`` is the worker of shard ``s``, −1 for a shard of another instance (those go to worker 0, which
    counts and acks them as M3 does)."""

    num_shards: int
    owners: list[int]


class Relay(_Message, frozen=True, tag="relay"):
    """A command for one worker incarnation, to be stamped and put in its ordered stream."""

    worker: int
    epoch: int
    command: Command


class Drain(_Message, frozen=True, tag="drain"):
    """SIGTERM: stop listening and reading, wait for outstanding acks up to ``timeout_ns``, say goodbye to the workers, exit 0."""

    timeout_ns: int


ToFront = WorkerUp | WorkerDown | Route | Relay | Drain


class Listening(_Message, frozen=True, tag="listening"):
    """The front accepts connections on this address."""

    address: str
    pid: int


class Stale(_Message, frozen=True, tag="stale"):
    """A relayed command named an incarnation that is not the current one, or found its stream closed: not delivered."""

    worker: int
    epoch: int
    command: Command


ONE_WAY = "rawtcp "
"""What ``Peer.host`` begins with for connections without acks: what was on its way to a front that ended is lost."""


class Peer(_Message, frozen=True):
    """A host that sends samples."""

    host: str
    connections: int
    used: int
    """On how many of them anything was acked."""


class FrontStats(_Message, frozen=True, tag="front_stats"):
    """Once a second: counters since the start of the front and gauges, named as in ``WorkerStats``."""

    counters: dict[str, int]
    gauges: dict[str, float]
    peers: list[Peer] = []
    """Who is connected."""
    through_ns: int = 0
    """What was read before is acked by the workers."""


class Stalled(_Message, frozen=True, tag="stalled"):
    """The front was not run for so long: what producers sent meanwhile is stamped too late."""

    seconds: float


FromFront = Listening | Stale | FrontStats | Stalled


def data_address(run_dir: str, worker: int, front_epoch: int, worker_epoch: int) -> str:
    """Where the front gives one worker incarnation its ordered stream."""
    return f"ipc://{run_dir}/w{worker}-{front_epoch}-{worker_epoch}.data"


def acks_address(run_dir: str, worker: int, front_epoch: int, worker_epoch: int) -> str:
    """Where the front takes the acks of one worker incarnation."""
    return f"ipc://{run_dir}/w{worker}-{front_epoch}-{worker_epoch}.acks"


def memory_path(run_dir: str, front_epoch: int) -> str:
    """The memory of one front incarnation that its workers read (``m3x.shared_memory``)."""
    return f"{run_dir}/front-{front_epoch}.memory"


def worker_address(run_dir: str, worker: int, front_epoch: int, worker_epoch: int) -> str:
    """Where the supervisor meets one worker incarnation; ``front_epoch`` is the one that the worker was started with, for life."""
    return f"ipc://{run_dir}/w{worker}-{front_epoch}-{worker_epoch}.sup"


def front_address(run_dir: str, front_epoch: int) -> str:
    """Where the supervisor meets one front incarnation."""
    return f"ipc://{run_dir}/front-{front_epoch}.sup"


class Payloads:
    """Where a worker finds the payloads of what one front incarnation sends."""

    def __init__(self, run_dir: str, front_epoch: int) -> None:
        self._path = Path(memory_path(run_dir, front_epoch))
        self._memory: NDArray[np.uint8] | None = None
        """From the first batch on that lies there."""

    def of(self, message: ToWorker, frames: Sequence[Any]) -> NDArray[np.uint8]:
        """The payload of a message, by the frames (buffers) that came behind it.

        Raises ``OSError`` if it was in memory of a front that has ended.
        """
        if frames:
            return np.frombuffer(frames[0], np.uint8)
        if not isinstance(message, Batch):
            return _NO_PAYLOAD
        if self._memory is None:
            self._memory = as_writeable(mapped(self._path))
        return self._memory[message.at : message.at + sum(message.sizes)]


_NO_PAYLOAD = np.zeros(0, np.uint8)


def encode(message: Any) -> bytes:
    """Frame 0 of a message."""
    return _encoder.encode(message)


_encoder = msgspec.msgpack.Encoder()
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_acked = msgspec.msgpack.Decoder(Acked).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode
decode_to_worker_direct = msgspec.msgpack.Decoder(ToWorkerDirect).decode
decode_to_front = msgspec.msgpack.Decoder(ToFront).decode
decode_from_front = msgspec.msgpack.Decoder(FromFront).decode
