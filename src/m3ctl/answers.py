"""The bodies that are read: M3's admin API (docs/m3/cluster.md, placement API), port 6001
(docs/m3/aggregation.md, HTTP port), and ours.

Only what is used is named; other fields are passed over, so newer releases do no harm. Times are Unix nanoseconds.
"""

from typing import Any

import msgspec

__all__ = [
    "Consumer",
    "CoordinatorReady",
    "Environment",
    "Environments",
    "Flow",
    "Instance",
    "Lane",
    "ListRow",
    "Placement",
    "PlacementAnswer",
    "QueryAnswer",
    "Ready",
    "Service",
    "Shard",
    "ShardRow",
    "Shards",
    "SinkRow",
    "Sinks",
    "Status",
    "Step",
    "Topic",
    "TopicAnswer",
]


class Shard(msgspec.Struct, frozen=True, rename="camel"):
    """One shard of a placement's instance."""

    id: int
    state: str = "UNKNOWN"
    source_id: str = ""
    cutover_nanos: int = 0
    cutoff_nanos: int = 0


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """``debugPort``: where the instance serves HTTP; 0: not said."""

    debug_port: int = 0


class Instance(msgspec.Struct, frozen=True, rename="camel"):
    """One instance of a placement."""

    id: str
    isolation_group: str = ""
    zone: str = ""
    weight: int = 0
    endpoint: str = ""
    shards: list[Shard] = []
    shard_set_id: int = 0
    hostname: str = ""
    port: int = 0
    metadata: Metadata | None = None

    @property
    def host(self) -> str:
        """The host of its endpoint."""
        return self.endpoint.rpartition(":")[0] or self.hostname

    @property
    def cutover_ns(self) -> int:
        """When the last of its shards is cut over."""
        return max((shard.cutover_nanos for shard in self.shards), default=0)


class Placement(msgspec.Struct, frozen=True, rename="camel"):
    """A placement as the admin API answers it."""

    instances: dict[str, Instance] = {}
    replica_factor: int = 0
    num_shards: int = 0
    is_sharded: bool = False
    is_mirrored: bool = False

    def shard_sets(self) -> dict[int, list[Instance]]:
        """The instances by shard set, in order."""
        found: dict[int, list[Instance]] = {}
        for one in sorted(self.instances.values(), key=lambda i: (i.shard_set_id, i.id)):
            found.setdefault(one.shard_set_id, []).append(one)
        return found


class PlacementAnswer(msgspec.Struct, frozen=True):
    """``GET …/placement``."""

    placement: Placement
    version: int = 0


class Service(msgspec.Struct, frozen=True):
    """Names a service of the cluster."""

    name: str = ""
    environment: str = ""
    zone: str = ""


class Consumer(msgspec.Struct, frozen=True, rename="camel"):
    """A consumer service of a topic."""

    service_id: Service = Service()
    consumption_type: str = "UNKNOWN"
    message_ttl_nanos: int = 0
    filters: Any = None


class Topic(msgspec.Struct, frozen=True, rename="camel"):
    """A topic as the admin API answers it."""

    name: str = ""
    number_of_shards: int = 0
    consumer_services: list[Consumer] = []


class TopicAnswer(msgspec.Struct, frozen=True):
    """``GET /api/v1/topic``."""

    topic: Topic
    version: int = 0


class _FlushStatus(msgspec.Struct, frozen=True, rename="camel"):
    election_state: str
    can_lead: bool


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    flush_status: _FlushStatus


class Status(msgspec.Struct, frozen=True):
    """``/status`` of an aggregator."""

    status: _Status


class Ready(msgspec.Struct, frozen=True):
    """``/ready`` of our aggregator."""

    ready: bool
    reasons: list[str] = []
    notes: list[str] = []


class CoordinatorReady(msgspec.Struct, frozen=True):
    """``/ready`` of a coordinator; reasons and problems are ours."""

    reasons: list[str] = []
    problems: list[str] = []


class SinkRow(msgspec.Struct, frozen=True, rename="camel"):
    """One sink in ``/api/v1/sinks`` of our coordinator."""

    name: str
    waiting_values: int = 0
    waiting_bytes: int = 0
    most_bytes: int = 0
    age_s: float = 0.0
    rate_in: float = 0.0
    rate_out: float = 0.0
    error: str = ""
    held: bool = False
    full: bool = False


class Environment(msgspec.Struct, frozen=True):
    """One environment of the KV, and what is in it: ``placement m3aggregator``, ``topic aggregated_metrics``."""

    name: str
    has: list[str] = []


class Environments(msgspec.Struct, frozen=True):
    """``/api/v1/environments`` of a coordinator of ours."""

    environments: list[Environment] = []


class Sinks(msgspec.Struct, frozen=True):
    """``/api/v1/sinks`` of our coordinator; M3's has no such document. Queues without a sink are among the problems of its ``/ready``."""

    sinks: list[SinkRow] = []


class ShardRow(msgspec.Struct, frozen=True, rename="camel"):
    """One shard in ``/shards`` of our aggregator."""

    shard: int
    worker: int = -1
    worker_up: bool = True
    state: str = ""
    cutover_ns: int = 0
    entries: int = 0
    open_windows: int = 0
    last_flush_ns: int = 0
    flushed_through_ns: int = 0
    lag_ns: int = 0


class ListRow(msgspec.Struct, frozen=True, rename="camel"):
    """One list in ``/shards`` of our aggregator."""

    name: str
    resolution_ns: int
    shards: int
    flushed_through_ns: int
    newest_flushed_through_ns: int | None = None


class Step(msgspec.Struct, frozen=True):
    """A stage of the way of the data, or (``kind`` edge) what goes from the one before it to the one behind."""

    kind: str
    name: str = ""
    lines: list[str] = []
    rate: float | None = None
    unit: str = ""
    waiting: str = ""
    trouble: str = ""


class Lane(msgspec.Struct, frozen=True):
    """One way, from its source to its end."""

    name: str
    steps: list[Step]


class Flow(msgspec.Struct, frozen=True):
    """``/flow`` of our services."""

    lanes: list[Lane]


class ProcessLoad(msgspec.Struct, frozen=True, rename="camel"):
    """How busy a process of an aggregator is."""

    name: str
    cpu_share: float | None
    """Of a core."""
    waiting_bytes: float
    unacked_bytes: float


class Loads(msgspec.Struct, frozen=True):
    """``/status/load`` of an aggregator of ours."""

    processes: list[ProcessLoad]


class Point(msgspec.Struct, frozen=True, array_like=True):
    """Seconds since 1970, and the value as text."""

    time_s: float
    value: str


class PointsOfSeries(msgspec.Struct, frozen=True):
    """A series of a matrix."""

    metric: dict[str, str]
    values: list[Point]


class Matrix(msgspec.Struct, frozen=True, rename="camel"):
    """``data`` of an answer with a range of points."""

    result_type: str
    result: list[PointsOfSeries]


class QueryAnswer(msgspec.Struct, frozen=True):
    """Prometheus' answer to a query."""

    data: Matrix


class Shards(msgspec.Struct, frozen=True, rename="camel"):
    """``/shards`` of our aggregator."""

    shards: list[ShardRow]
    lists: list[ListRow] = []
    instance_id: str = ""
