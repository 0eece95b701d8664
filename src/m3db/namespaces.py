"""Namespaces as M3DB's registry in the KV has them, and what the coordinator makes of them (docs/m3/m3db_cluster.md, namespaces)."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from m3db.errors import M3DBError
from m3x.golang import go_duration
from m3x.protobuf import Enum, Field, Kind, Message, MessageValue, marshal, unmarshal

__all__ = [
    "REGISTRY_KEY",
    "Aggregation",
    "Index",
    "Namespace",
    "Namespaces",
    "RegistryError",
    "Retention",
    "StagingState",
    "Target",
    "decode_registry",
    "encode_registry",
    "targets_of",
]

REGISTRY_KEY = "m3db.node.namespaces"
"""Below ``_kv/{env}``."""


class RegistryError(M3DBError, ValueError):
    """A registry that M3 would not load; its text where M3 has one."""


class StagingState(enum.IntEnum):
    """Whether a namespace is ready; numbers as on the wire. The coordinator uses READY ones only."""

    UNKNOWN = 0
    INITIALIZING = 1
    READY = 2


@dataclass(frozen=True, slots=True)
class Retention:
    """How long data stays, and which times are taken; all in nanoseconds."""

    period_ns: int
    block_size_ns: int
    buffer_future_ns: int = 0
    buffer_past_ns: int = 0
    block_data_expiry: bool = False
    expiry_after_not_accessed_ns: int = 0
    future_period_ns: int = 0


@dataclass(frozen=True, slots=True)
class Index:
    """The index of tags."""

    enabled: bool = False
    block_size_ns: int = 0


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One kind of values that a namespace keeps: raw samples (resolution 0), or aggregated ones."""

    resolution_ns: int = 0
    downsample_all: bool = True

    @property
    def aggregated(self) -> bool:
        """Whether these are aggregated values."""
        return self.resolution_ns > 0


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace of M3DB."""

    name: str
    retention: Retention
    index: Index = Index()
    bootstrap_enabled: bool = False
    flush_enabled: bool = False
    writes_to_commit_log: bool = False
    cleanup_enabled: bool = False
    repair_enabled: bool = False
    snapshot_enabled: bool = False
    cold_writes_enabled: bool = False
    cache_blocks_on_retrieve: bool = False
    aggregations: tuple[Aggregation, ...] = ()
    staging: StagingState = StagingState.UNKNOWN
    more: Mapping[str, MessageValue] = field(default_factory=dict)
    """Messages that are kept as they are: ``schema_options``, ``runtime_options``, ``extended_options``."""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """A registry by name; ``version`` is that of its key."""

    by_name: Mapping[str, Namespace]
    version: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Where values of one resolution and retention go; resolution 0: raw samples."""

    namespace: Namespace
    resolution_ns: int
    retention_ns: int
    downsample_all: bool


_BOOL = Message("google.protobuf.BoolValue", (Field(1, "value", Kind.BOOL),))
_DOUBLE = Message("google.protobuf.DoubleValue", (Field(1, "value", Kind.DOUBLE),))
_RETENTION = Message(
    "namespace.RetentionOptions",
    (
        Field(1, "retention_period_nanos", Kind.INT64),
        Field(2, "block_size_nanos", Kind.INT64),
        Field(3, "buffer_future_nanos", Kind.INT64),
        Field(4, "buffer_past_nanos", Kind.INT64),
        Field(5, "block_data_expiry", Kind.BOOL),
        Field(6, "block_data_expiry_after_not_access_period_nanos", Kind.INT64),
        Field(7, "future_retention_period_nanos", Kind.INT64),
    ),
)
_INDEX = Message("namespace.IndexOptions", (Field(1, "enabled", Kind.BOOL), Field(2, "block_size_nanos", Kind.INT64)))
_DOWNSAMPLE = Message("namespace.DownsampleOptions", (Field(1, "all", Kind.BOOL),))
_ATTRIBUTES = Message(
    "namespace.AggregatedAttributes",
    (Field(1, "resolution_nanos", Kind.INT64), Field(2, "downsample_options", Kind.MESSAGE, _DOWNSAMPLE)),
)
_AGGREGATION = Message(
    "namespace.Aggregation",
    (Field(1, "aggregated", Kind.BOOL), Field(2, "attributes", Kind.MESSAGE, _ATTRIBUTES)),
)
_AGGREGATIONS = Message(
    "namespace.AggregationOptions", (Field(1, "aggregations", Kind.MESSAGE, _AGGREGATION, repeated=True),)
)
_STAGING = Message(
    "namespace.StagingState",
    (Field(1, "status", Kind.ENUM, Enum("namespace.StagingStatus", {"UNKNOWN": 0, "INITIALIZING": 1, "READY": 2})),),
)
_RUNTIME = Message(
    "namespace.NamespaceRuntimeOptions",
    (
        Field(1, "write_indexing_per_cpu_concurrency", Kind.MESSAGE, _DOUBLE),
        Field(2, "flush_indexing_per_cpu_concurrency", Kind.MESSAGE, _DOUBLE),
    ),
)
_FILES = Message(
    "namespace.FileDescriptorSet",
    (
        Field(1, "deploy_id", Kind.STRING),
        Field(2, "prev_id", Kind.STRING),
        Field(3, "file_descriptors", Kind.BYTES, repeated=True),
    ),
)
_HISTORY = Message("namespace.SchemaHistory", (Field(1, "schemas", Kind.MESSAGE, _FILES, repeated=True),))
_SCHEMA = Message(
    "namespace.SchemaOptions",
    (Field(1, "history", Kind.MESSAGE, _HISTORY), Field(2, "default_message_name", Kind.STRING)),
)
_EXTENDED = Message("namespace.ExtendedOptions", (Field(1, "type", Kind.STRING), Field(2, "options", Kind.BYTES)))
"""``options`` is a google.protobuf.Struct, which nobody here looks into."""
_OPTIONS = Message(
    "namespace.NamespaceOptions",
    (
        Field(1, "bootstrap_enabled", Kind.BOOL),
        Field(2, "flush_enabled", Kind.BOOL),
        Field(3, "writes_to_commit_log", Kind.BOOL),
        Field(4, "cleanup_enabled", Kind.BOOL),
        Field(5, "repair_enabled", Kind.BOOL),
        Field(6, "retention_options", Kind.MESSAGE, _RETENTION),
        Field(7, "snapshot_enabled", Kind.BOOL),
        Field(8, "index_options", Kind.MESSAGE, _INDEX),
        Field(9, "schema_options", Kind.MESSAGE, _SCHEMA),
        Field(10, "cold_writes_enabled", Kind.BOOL),
        Field(11, "runtime_options", Kind.MESSAGE, _RUNTIME),
        Field(12, "cache_blocks_on_retrieve", Kind.MESSAGE, _BOOL),
        Field(13, "aggregation_options", Kind.MESSAGE, _AGGREGATIONS),
        Field(14, "staging_state", Kind.MESSAGE, _STAGING),
        Field(1000, "extended_options", Kind.MESSAGE, _EXTENDED),
    ),
)
_REGISTRY = Message("namespace.Registry", (Field(1, "namespaces", Kind.MESSAGE, _OPTIONS, map_key=Kind.STRING),))
_SAME_NAME = (
    "bootstrap_enabled", "flush_enabled", "writes_to_commit_log", "cleanup_enabled", "repair_enabled", "snapshot_enabled",
    "cold_writes_enabled",
)  # fmt: skip
_KEPT = ("schema_options", "runtime_options", "extended_options")


def decode_registry(data: bytes, version: int = 0) -> Namespaces:
    """The namespaces of a stored registry. Raises ``RegistryError`` or ``DecodeError``: one bad namespace makes all unusable, as in M3."""
    found = unmarshal(_REGISTRY, data)["namespaces"]
    if not found:
        raise RegistryError("no namespace metadata provided")
    namespaces = {}
    for name in sorted(found):
        try:
            namespaces[name] = _namespace(name, found[name])
        except RegistryError as error:
            raise RegistryError(f"namespace {name}: {error}") from None
    return Namespaces(namespaces, version)


def encode_registry(namespaces: Iterable[Namespace]) -> bytes:
    """The bytes of a registry as M3's API stores them, but for the order of namespaces, which is random there."""
    return marshal(_REGISTRY, {"namespaces": {one.name: _message(one) for one in namespaces}})


def targets_of(namespaces: Namespaces) -> tuple[dict[tuple[int, int], Target], list[str]]:
    """What may be written to, by resolution and retention in ns ((0, 0): raw samples), and a line for each thing that is left out.

    Of several namespaces for the same the last one by name counts; in M3 it is one by chance.
    """
    targets: dict[tuple[int, int], Target] = {}
    problems: list[str] = []
    for name, one in sorted(namespaces.by_name.items()):
        if not one.aggregations:
            problems.append(f"no aggregations present for namespace {name}")
        elif one.staging is not StagingState.READY:
            problems.append(
                f"namespace {name} has non-ready staging state status ({one.staging.name.lower()}): mark it ready"
            )
        else:
            for kept in one.aggregations:
                target = Target(one, kept.resolution_ns, one.retention.period_ns, kept.downsample_all)
                key = (kept.resolution_ns, target.retention_ns) if kept.aggregated else (0, 0)
                if key in targets:
                    problems.append(_duplicate(target, targets[key]))
                targets[key] = target
    return targets, problems


def _duplicate(target: Target, other: Target) -> str:
    what = "unaggregated namespace"
    if target.resolution_ns:
        retention, resolution = go_duration(target.retention_ns), go_duration(target.resolution_ns)
        what = f"aggregated namespace for retention={retention}, resolution={resolution}"
    return f"more than one {what}: {target.namespace.name} is used, {other.namespace.name} is not"


def _namespace(name: str, message: MessageValue | None) -> Namespace:
    if message is None:
        raise RegistryError("namespace options must be set")
    if not name:
        raise RegistryError("namespace ID is not set")
    retention = _retention(message["retention_options"])
    index = Index(block_size_ns=retention.block_size_ns)
    if (options := message["index_options"]) is not None:
        index = Index(options["enabled"], options["block_size_nanos"])
    _check_index(index, retention)
    status = (message["staging_state"] or {"status": 0})["status"]
    if status not in set(StagingState):
        raise RegistryError(f"invalid namespace status: {status}")
    return Namespace(
        name=name,
        retention=retention,
        index=index,
        cache_blocks_on_retrieve=(message["cache_blocks_on_retrieve"] or {"value": False})["value"],
        aggregations=_aggregations(message["aggregation_options"]),
        staging=StagingState(status),
        more={key: message[key] for key in _KEPT if message[key] is not None},
        **{key: message[key] for key in _SAME_NAME},
    )


def _retention(message: MessageValue | None) -> Retention:
    if message is None:
        raise RegistryError("retention options must be set")
    found = Retention(
        period_ns=message["retention_period_nanos"],
        block_size_ns=message["block_size_nanos"],
        buffer_future_ns=message["buffer_future_nanos"],
        buffer_past_ns=message["buffer_past_nanos"],
        block_data_expiry=message["block_data_expiry"],
        expiry_after_not_accessed_ns=message["block_data_expiry_after_not_access_period_nanos"],
        future_period_ns=message["future_retention_period_nanos"],
    )
    if found.buffer_future_ns < 0:
        raise RegistryError("buffer future must be non-negative")
    if found.buffer_past_ns < 0:
        raise RegistryError("buffer past must be non-negative")
    if found.block_size_ns <= 0:
        raise RegistryError("block size must positive")
    if found.buffer_future_ns >= found.block_size_ns:
        raise RegistryError("buffer future must be smaller than block size")
    if found.buffer_past_ns >= found.block_size_ns:
        raise RegistryError("buffer past must be smaller than block size")
    if found.period_ns < found.block_size_ns:
        raise RegistryError("retention period must not be smaller than block size")
    return found


def _check_index(index: Index, retention: Retention) -> None:
    if not index.enabled:
        return
    if index.block_size_ns <= 0:
        raise RegistryError("index block size must positive")
    if retention.period_ns < index.block_size_ns or 0 != retention.future_period_ns < index.block_size_ns:
        raise RegistryError("index block size needs to be <= namespace retention period")
    if index.block_size_ns % retention.block_size_ns:
        raise RegistryError("index block size must be a multiple of data block size")


def _aggregations(message: MessageValue | None) -> tuple[Aggregation, ...]:
    found = []
    for one in message["aggregations"] if message is not None else ():
        attributes = one["attributes"]
        if not one["aggregated"]:
            found.append(Aggregation())
        elif attributes is None:
            raise RegistryError("must set Attributes when aggregated is true")
        elif (resolution := attributes["resolution_nanos"]) <= 0:
            raise RegistryError(f"invalid resolution {go_duration(resolution)}. must be greater than 0")
        else:
            downsample = attributes["downsample_options"]
            found.append(Aggregation(resolution, downsample is None or downsample["all"]))
    return tuple(found)


def _message(one: Namespace) -> MessageValue:
    """With all messages that M3's API writes, the empty ones too."""
    retention = one.retention
    return {
        **{key: getattr(one, key) for key in _SAME_NAME},
        "retention_options": {
            "retention_period_nanos": retention.period_ns,
            "block_size_nanos": retention.block_size_ns,
            "buffer_future_nanos": retention.buffer_future_ns,
            "buffer_past_nanos": retention.buffer_past_ns,
            "block_data_expiry": retention.block_data_expiry,
            "block_data_expiry_after_not_access_period_nanos": retention.expiry_after_not_accessed_ns,
            "future_retention_period_nanos": retention.future_period_ns,
        },
        "index_options": {"enabled": one.index.enabled, "block_size_nanos": one.index.block_size_ns},
        "cache_blocks_on_retrieve": {"value": one.cache_blocks_on_retrieve},
        "aggregation_options": {"aggregations": [_aggregation(kept) for kept in one.aggregations]},
        "staging_state": {"status": int(one.staging)},
        **one.more,
    }


def _aggregation(kept: Aggregation) -> MessageValue:
    if not kept.aggregated:
        return {}
    return {
        "aggregated": True,
        "attributes": {
            "resolution_nanos": kept.resolution_ns,
            "downsample_options": {"all": kept.downsample_all},
        },
    }
