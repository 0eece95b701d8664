"""Metadata bytes, parsed once: what the aggregations of a metric are and how their values are emitted.

Senders repeat the same few metadatas with every sample. ``MetadataTable.intern`` parses unseen bytes and fills the tables ``metas``,
``stages``, ``stage_specs``, ``specs``, ``outputs``, ``attrs`` and ``text``, which kernels read; from then on no metric with these bytes
needs Python.

A *spec* stands for an aggregation key (aggregation id, storage policy, pipeline, times forwarded, prefix kind) of one metric type and
category (docs/m3/aggregation.md, aggregation keys). Two keys are equal when their specs are, or are twins: the same key with and
without state. ``attrs`` are what may change without changing the key: routing policy and the resend flag. A *target* is what a rollup
forwards to.
"""

from typing import Any

import mmh3
import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.engine import reasons as why
from aggregator.engine.options import EngineOptions
from aggregator.engine.tables import layout
from aggregator.engine.tables.layout import Tables
from aggregator.engine.tables.ranges import Numbers, Ranges, expand
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, KIND_TIMED, ListId
from m3metrics.aggregation import AggregationType, TypesOptions, is_valid_for, parse_type
from m3metrics.codec import (
    aggregated_policy_fields,
    decode_forward_metadata,
    decode_staged_metadatas,
    decode_timed_metadata,
    encode_forward_metadata,
)
from m3metrics.errors import MetricsError
from m3metrics.metadata import (
    ForwardMetadata,
    PipelineMetadata,
    StagedMetadata,
    StagedMetadatas,
    is_default,
    is_drop_policy_set,
)
from m3metrics.metric import MetricType
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp, TransformationType, with_resets
from m3metrics.policy import StoragePolicy
from m3metrics.rows import Payload
from m3x.byte_table import ByteTable
from m3x.golang import YEAR_ONE_NS

MAX_METADATA_BYTES = 1 << 16
"""A metadata that is longer is refused: no rule set makes one, and parsing it is not the hot path's."""
MAX_STAGES = 256
_SPARE_TEXT = 2 * MAX_METADATA_BYTES
"""More than one spec can need. Those of one metadata together may need much more: what follows a rollup is kept for every policy."""
_SPARE_SPECS = 1 << 16
_SPARE_OUTPUTS = 1 << 18
_SPARE_POLICIES = 1 << 13
"""More than one metadata of ``MAX_METADATA_BYTES`` can need."""
_MAX_POLICIES = 1 << 16
_SQUARES = (AggregationType.SUM_SQ, AggregationType.STDEV)
_OF_SUM = {AggregationType.SUM, AggregationType.COUNT, AggregationType.MEAN}
_BINARY = (TransformationType.PER_SECOND, TransformationType.INCREASE)


class Key(msgspec.Struct, frozen=True):
    """An aggregation key, with what decides its list."""

    aggregation_id: int
    policy: StoragePolicy
    kind: int
    """``KIND_STANDARD``, ``KIND_TIMED`` or ``KIND_FORWARDED``."""
    plain: bool
    """No prefix, no suffix."""
    metric_type: int
    pipeline: AppliedPipeline = ()
    times_forwarded: int = 0


class Target(msgspec.Struct, frozen=True):
    """What a rollup forwards to: a metric and the aggregation key there (docs/m3/aggregation.md, elements)."""

    id: bytes
    metric_type: int
    aggregation_id: int
    policy: StoragePolicy
    pipeline: AppliedPipeline
    times_forwarded: int


class _Steps(msgspec.Struct, frozen=True):
    """A pipeline as an element reads it: what it does itself, and what follows from its first rollup on."""

    local: tuple[TransformationType, ...]
    rollup: RollupOp | None
    rest: AppliedPipeline


def _steps(pipeline: AppliedPipeline) -> _Steps:
    for number, op in enumerate(pipeline):
        if isinstance(op, RollupOp):
            local = tuple(o.type for o in pipeline[:number] if isinstance(o, TransformationOp))
            return _Steps(local, op, pipeline[number + 1 :])
    return _Steps(tuple(o.type for o in pipeline if isinstance(o, TransformationOp)), None, ())


class _Refused(Exception):
    """A stage that cannot be aggregated; carries the reason that its metrics are refused with."""

    def __init__(self, detail: int) -> None:
        super().__init__(detail)
        self.detail = detail


def types_options(options: EngineOptions) -> TypesOptions:
    """Default aggregation types and type strings as configured. Raises ``PolicyError`` for a name that does not exist."""

    def parsed(names: tuple[str, ...], default: tuple[AggregationType, ...]) -> tuple[AggregationType, ...]:
        return tuple(parse_type(name) for name in names) or default

    builtin = TypesOptions()
    return TypesOptions(
        counter_types=parsed(options.default_counter_types, builtin.counter_types),
        timer_types=parsed(options.default_timer_types, builtin.timer_types),
        gauge_types=parsed(options.default_gauge_types, builtin.gauge_types),
        counter_transform=options.counter_transform,
        timer_transform=options.timer_transform,
        gauge_transform=options.gauge_transform,
    )


def _different(numbers: NDArray[Any]) -> list[int]:
    """The different ones among small numbers; ``np.unique`` would sort all of them."""
    found: list[int] = np.flatnonzero(np.bincount(numbers)).tolist()
    return found


class MetadataTable:
    """Interns metadata bytes into the tables of an engine."""

    def __init__(self, options: EngineOptions, tables: Tables) -> None:
        self._options = options
        self._types = types_options(options)
        self._defaults = tuple(StoragePolicy.parse(text) for text in options.default_storage_policies)
        self._tables = tables
        self._texts = Ranges(16)
        self._outputs = Ranges()
        self._stages = Ranges()
        self._stage_specs = Ranges()
        self._meta_rows = Ranges()
        self._text_at: dict[bytes, tuple[int, int]] = {}
        """Position in the text arena and users."""
        self._outputs_at: dict[tuple[int, bool, tuple[AggregationType, ...]], int] = {}
        self._specs: Numbers[tuple[Key, bool]] = Numbers()
        self._targets: Numbers[Target] = Numbers()
        self._attrs: Numbers[tuple[bytes, bool]] = Numbers()
        self._policies: Numbers[str] = Numbers()
        self._buckets: dict[ListId, int] = {}
        self._young: set[int] = set()
        """Rows interned since the last sweep."""
        self._index_anew()
        self._prefixes = {
            MetricType.COUNTER: options.counter_prefix.encode(),
            MetricType.TIMER: options.timer_prefix.encode(),
            MetricType.GAUGE: options.gauge_prefix.encode(),
        }

    @property
    def policy_names(self) -> tuple[str, ...]:
        """Storage policies by the number that ``MessageBatch.policies`` uses."""
        return self._policies.names("")

    def bucket(self, list_id: ListId) -> int | None:
        """Number of the bucket of a list, None if nothing has used it yet."""
        return self._buckets.get(list_id)

    def make_bucket(self, list_id: ListId) -> int:
        """The bucket of a list, made if there is none."""
        return self._bucket(list_id)

    def key_of(self, spec: int) -> tuple[Key, bool]:
        """What a spec stands for, and whether its elements have state."""
        return self._specs.thing(spec)

    def spec_of(self, key: Key, state: bool) -> int:
        """The spec of a key, made if there is none. Raises ``ValueError`` if it cannot be."""
        try:
            return self._spec(key, state)
        except _Refused as refused:
            raise ValueError(f"an aggregation key that is refused: {refused}") from refused

    def attrs_of(self, policy: StoragePolicy, traffic_types: int, resend: bool) -> int:
        """The attributes of elements with these."""
        return self._attrs_of(policy, traffic_types, resend)

    def stage_owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The metadata of each stage (-1: none), and which of its stages it is; one row more than there are, so that -1 is none."""
        owners = np.full(self._stages.used + 1, -1, np.int64)
        positions = np.zeros(self._stages.used + 1, np.int64)
        rows = np.flatnonzero(self._tables.metas["key"][: self._meta_rows.used])
        first = self._tables.metas["first_stage"][rows].astype(np.int64)
        sizes = self._tables.metas["stages"][rows].astype(np.int64)
        stages = expand(first, sizes)
        owners[stages] = np.repeat(rows, sizes)
        positions[stages] = stages - np.repeat(first, sizes)
        return owners, positions

    @property
    def size_bytes(self) -> int:
        """Memory of the tables here."""
        rows = (
            (self._meta_rows, layout.META),
            (self._stages, layout.STAGE),
            (self._stage_specs, layout.STAGE_SPEC),
            (self._outputs, layout.OUTPUT),
        )
        return self._texts.used + self._index.size_bytes + sum(ranges.used * dtype.itemsize for ranges, dtype in rows)

    def intern(self, data: bytes, payload: int, metric_type: int) -> int:
        """Parses the metadata bytes of a payload (``Payload``); returns their row.

        Bytes that no metadata is made of get a row, too: metrics that carry them are refused with its ``action``. -1: there is no more
        room, the metric is to be refused with ``D_METADATAS``.
        """
        head = self._tables.head
        if len(data) > MAX_METADATA_BYTES or self._full():
            return -1
        row = self._meta_rows.take(1)
        meta = self._tables.metas[row]
        meta["at"] = self._text(data)
        meta["size"] = len(data)
        meta["key"] = payload << 8 | metric_type
        meta["first_stage"] = 0
        meta["stages"] = 0
        meta["action"] = self._parse(data, payload, metric_type, meta)
        head["metas"] = self._meta_rows.used
        self._young.add(row)
        self._index.add([data], [row], np.array([meta["key"]], np.uint64))
        return row

    def _full(self) -> bool:
        """Whether one more metadata might not fit into some table."""
        tables = self._tables
        return (
            self._meta_rows.used >= layout.MAX_METAS - 1
            or self._texts.used + 4 * MAX_METADATA_BYTES > layout.TEXT_BYTES
            or self._stages.used + MAX_STAGES > len(tables.stages)
            or self._stage_specs.used + _SPARE_SPECS > len(tables.stage_specs)
            or self._outputs.used + _SPARE_OUTPUTS > len(tables.outputs)
            or len(self._policies) + _SPARE_POLICIES > _MAX_POLICIES
        )

    def _parse(self, data: bytes, payload: int, metric_type: int, meta: Any) -> int:
        source = times = 0
        try:
            if payload == Payload.TIMED:
                timed = decode_timed_metadata(data)
                stages = _one_stage(timed.aggregation_id, timed.storage_policy, (), False, timed.traffic_types)
            elif payload == Payload.FORWARDED:
                forward = decode_forward_metadata(data)
                source, times = forward.source_id, forward.num_forwarded_times
                stages = _one_stage(
                    forward.aggregation_id,
                    forward.storage_policy,
                    forward.pipeline,
                    forward.resend_enabled,
                    forward.traffic_types,
                )
            else:
                stages = decode_staged_metadatas(data)
        except MetricsError:
            return why.D_DECODE
        if not stages:
            return why.D_EMPTY_LIST
        if len(stages) > MAX_STAGES:
            return why.D_METADATAS
        if payload == Payload.STAGED_TIMED:
            if is_default(stages):
                return why.D_ONLY_DEFAULT
            if is_drop_policy_set(stages):
                return why.D_ONLY_DROP
        first = self._stages.take(len(stages))
        meta["first_stage"] = first
        for position, stage in enumerate(stages):
            until = min((later.cutover_ns for later in stages[position + 1 :]), default=layout.MAX_INT64)
            row = self._tables.stages[first + position]
            row["source"] = source
            row["until_ns"] = until
            self._fill_stage(row, stage, meta, payload, metric_type, times)
        return why.D_NONE

    def _fill_stage(
        self, row: Any, stage: StagedMetadata, meta: Any, payload: int, metric_type: int, times: int
    ) -> None:
        row["from_ns"] = stage.cutover_ns
        row["cutover"] = stage.cutover_ns
        row["meta_at"] = meta["at"]
        row["meta_size"] = meta["size"]
        row["key"] = payload << 8 | metric_type
        row["action"], specs = self._specs_of(stage, payload, metric_type, times)
        row["specs"] = len(specs)
        row["specs_at"] = at = self._stage_specs.take(len(specs))
        for k, pair in enumerate(specs.items()):
            self._tables.stage_specs[at + k] = pair
        meta["stages"] += 1

    def _specs_of(
        self, stage: StagedMetadata, payload: int, metric_type: int, times: int
    ) -> tuple[int, dict[int, int]]:
        """Why the stage refuses its metrics (0: it does not), and its specs with their attrs, each key once.

        A stage with a key that is refused has the specs of the keys before it: M3 makes their lists before it fails.
        """
        if stage.tombstoned:
            return layout.STAGE_TOMBSTONED, {}
        if not stage.pipelines:
            return why.D_NO_PIPELINES, {}
        specs: dict[Key, tuple[int, int]] = {}
        kind = KIND_STANDARD if payload < Payload.FORWARDED else KIND_TIMED
        if payload == Payload.FORWARDED:
            kind = KIND_FORWARDED
        resets = self._options.add_to_reset and payload not in (Payload.FORWARDED, Payload.TIMED)
        detail = why.D_NONE
        try:
            for pipeline in stage.pipelines:
                ops = with_resets(pipeline.pipeline) if resets else pipeline.pipeline
                for policy in pipeline.storage_policies or self._defaults:
                    key = Key(pipeline.aggregation_id, policy, kind, payload == Payload.TIMED, metric_type, ops, times)
                    if key in specs:
                        continue
                    resend = pipeline.resend_enabled
                    attrs = self._attrs_of(policy, pipeline.traffic_types, resend)
                    specs[key] = (self._spec(key, _has_state(key, resend)), attrs)
                    if len(specs) > layout.MAX_ELEMENTS:
                        return why.D_LISTS, {}
        except _Refused as refused:
            detail = refused.detail
        return detail, dict(specs.values())

    def _spec(self, key: Key, state: bool) -> int:
        known = self._specs.get((key, state))
        if known is not None:
            return known
        if key.metric_type not in (MetricType.COUNTER, MetricType.TIMER, MetricType.GAUGE):
            raise _Refused(why.D_METRIC_TYPE)
        metric_type = MetricType(key.metric_type)
        try:
            types = self._types.types_of(metric_type, key.aggregation_id)
        except MetricsError:
            raise _Refused(why.D_AGGREGATION_TYPES) from None
        if not all(is_valid_for(metric_type, kind) for kind in types):
            raise _Refused(why.D_AGGREGATION_TYPES)
        steps = _steps(key.pipeline)
        if sum(op in _BINARY for op in steps.local) > 1:
            raise _Refused(why.D_DERIVATIVE)
        if key.policy.window_ns <= 0:
            raise _Refused(why.D_RESOLUTION)
        adds = sum(op is TransformationType.ADD for op in steps.local)
        width = 1 - -(len(types) + max(len(types), adds)) // layout.STATE_DOUBLES if state else 1
        if width >= layout.MAX_WIDTH:
            raise _Refused(why.D_PIPELINE)
        if self._texts.used + _SPARE_TEXT > layout.TEXT_BYTES:
            raise _Refused(why.D_METADATAS)
        bucket = self._bucket(ListId(key.kind, key.policy.window_ns, key.times_forwarded))
        if len(self._specs) >= layout.MAX_SPECS:
            raise _Refused(why.D_METADATAS)
        number = self._specs.add((key, state))
        row = self._tables.specs[number]
        row["bucket"] = bucket
        row["metric_type"] = metric_type
        row["policy"] = self._policies.number(str(key.policy))
        row["target"] = 0 if steps.rollup is None else self._target(key, steps) + 1
        row["ops_at"] = self._text(bytes(steps.local))
        row["ops"] = len(steps.local)
        row["adds"] = adds
        row["width"] = width
        prefix = b"" if key.plain else self._prefixes[metric_type]
        row["prefix_at"] = self._text(prefix)
        row["prefix_size"] = len(prefix)
        row["outputs_at"] = self._outputs_of(metric_type, key.plain, types)
        row["outputs"] = len(types)
        row["flags"] = _flags(metric_type, types, steps, state) | _slim(metric_type, types, key.policy, state)
        twin = self._specs.get((key, not state))
        row["twin"] = 0
        if twin is not None:
            row["twin"] = twin + 1
            self._tables.specs[twin]["twin"] = number + 1
        return number

    def _outputs_of(self, metric_type: MetricType, plain: bool, types: tuple[AggregationType, ...]) -> int:
        """Where the outputs of these types begin; there are few different ones, and they stay."""
        key = (int(metric_type), plain, types)
        if key not in self._outputs_at:
            self._outputs_at[key] = at = self._outputs.take(len(types))
            for k, kind in enumerate(types):
                suffix = b"" if plain else self._types.type_string(metric_type, kind)
                quantile = -1.0 if kind.quantile is None else kind.quantile
                self._tables.outputs[at + k] = (quantile, self._text(suffix), len(suffix), int(kind))
        return self._outputs_at[key]

    def _target(self, key: Key, steps: _Steps) -> int:
        rollup = steps.rollup
        assert rollup is not None
        target = Target(
            rollup.id, key.metric_type, rollup.aggregation_id, key.policy, steps.rest, key.times_forwarded + 1
        )
        known = self._targets.get(target)
        if known is not None:
            return known
        number = self._targets.add(target)
        metadata = ForwardMetadata(
            aggregation_id=target.aggregation_id, storage_policy=target.policy, pipeline=target.pipeline
        )
        # The kernel writes the fields from source_id on; routing_policy, the last, is always there.
        fields = encode_forward_metadata(metadata).removesuffix(b"\x3a\x00")
        row = self._tables.targets[number]
        row["id_at"] = self._text(target.id)
        row["id_size"] = len(target.id)
        row["meta_at"] = self._text(fields)
        row["meta_size"] = len(fields)
        row["hash"] = mmh3.hash(target.id, 0, signed=False)
        row["times"] = _int32(target.times_forwarded)
        row["policy"] = self._policies.number(str(target.policy))
        row["metric_type"] = target.metric_type
        return number

    def _bucket(self, list_id: ListId) -> int:
        if list_id in self._buckets:
            return self._buckets[list_id]
        kind, resolution_ns, times_forwarded = list_id
        number = len(self._buckets)
        if number >= layout.MAX_BUCKETS:
            raise _Refused(why.D_LISTS)
        row = self._tables.buckets[number]
        row["resolution"] = resolution_ns
        row["shift"] = YEAR_ONE_NS % resolution_ns
        row["past_limit"] = min(self._options.timing.timed_limit_ns(resolution_ns), layout.MAX_INT64)
        row["open"] = self._options.open_windows(list_id)
        delay = self._options.forwarding_delay_ns(resolution_ns, times_forwarded) if kind == KIND_FORWARDED else 0
        row["delay"] = min(max(delay, layout.MIN_INT64), layout.MAX_INT64)
        # A forwarded value bears the time of the end of its window, and that is the start of the window it goes to.
        row["due"] = 1 if kind == KIND_FORWARDED else resolution_ns
        row["stamp"] = 0 if kind == KIND_FORWARDED else resolution_ns
        row["window"] = -1
        row["kind"] = kind
        row["times_forwarded"] = times_forwarded
        self._buckets[list_id] = number
        self._tables.head["buckets"] = number + 1
        return number

    def _attrs_of(self, policy: StoragePolicy, traffic_types: int, resend: bool) -> int:
        fields = aggregated_policy_fields(policy, traffic_types)
        known = self._attrs.get((fields, resend))
        if known is not None:
            return known
        if len(self._attrs) >= layout.MAX_ATTRS:
            raise _Refused(why.D_METADATAS)
        number = self._attrs.add((fields, resend))
        self._tables.attrs[number] = (self._text(fields), len(fields), traffic_types, resend)
        return number

    def _text(self, data: bytes) -> int:
        """Position of these bytes in the text arena, with one more user."""
        at, users = self._text_at.get(data, (-1, 0))
        if users == 0:
            at = self._texts.take(len(data))
            self._tables.text[at : at + len(data)] = bytearray(data)
        self._text_at[data] = (at, users + 1)
        return at

    def _drop_text(self, at: int, size: int) -> None:
        data = self._tables.text[at : at + size].tobytes()
        at, users = self._text_at[data]
        if users > 1:
            self._text_at[data] = (at, users - 1)
            return
        del self._text_at[data]
        self._texts.give(at, size)

    # --- what nobody uses any more

    def sweep(self) -> None:
        """Gives back metadatas that no live entry has used last, but for those interned since the last sweep, and what only they use.

        Not to be called while a flush is under way: it may still name what elements no longer do.
        """
        tables = self._tables
        metas = tables.metas[: self._meta_rows.used]
        entries = tables.entries[: int(tables.head["entries"])]
        used = np.zeros(self._stages.used + 1, np.int64)
        stages = np.array(_different(entries["stage"][entries["state"] == layout.ENTRY_LIVE]), np.int64)
        used[stages[stages > 0] - 1] = 1
        before = np.concatenate(([0], np.cumsum(used)))
        first = metas["first_stage"].astype(np.int64)
        held = before[first + metas["stages"]] > before[first]
        rows = np.flatnonzero((metas["key"] != 0) & ~held)
        dropped = [row for row in rows.tolist() if row not in self._young]
        self._young.clear()
        for row in dropped:
            self._drop_meta(row)
        self._drop_unused()
        if dropped:
            self._index_anew()

    def _index_anew(self) -> None:
        """Begins the table that kernels find rows of ``metas`` in, with those in use: nothing can be taken out of a table."""
        tables = self._tables
        rows = np.flatnonzero(tables.metas["key"][: self._meta_rows.used])
        metas = tables.metas[rows]
        places = zip(metas["at"].tolist(), metas["size"].tolist(), strict=True)
        self._index = ByteTable()
        self._index.add(
            [tables.text[at : at + size].tobytes() for at, size in places], rows, metas["key"].astype(np.uint64)
        )
        tables.head["metadata_table"] = self._index.address

    def _drop_meta(self, row: int) -> None:
        meta = self._tables.metas[row]
        first, n = int(meta["first_stage"]), int(meta["stages"])
        for stage in self._tables.stages[first : first + n]:
            self._stage_specs.give(int(stage["specs_at"]), int(stage["specs"]))
        self._stages.give(first, n)
        self._drop_text(int(meta["at"]), int(meta["size"]))
        self._meta_rows.give(row, 1)
        meta["key"] = 0
        meta["stages"] = 0

    def _drop_unused(self) -> None:
        """Gives back specs, targets, attributes and policies that neither an element nor a metadata uses."""
        tables = self._tables
        metas = tables.metas[: self._meta_rows.used]
        metas = metas[metas["key"] != 0]
        stages = tables.stages[expand(metas["first_stage"].astype(np.int64), metas["stages"].astype(np.int64))]
        pairs = tables.stage_specs[expand(stages["specs_at"].astype(np.int64), stages["specs"].astype(np.int64))]
        specs, attrs = set(pairs["spec"].tolist()), set(pairs["attrs"].tolist())
        targets: set[int] = set()
        for bucket in range(len(self._buckets)):
            elements = tables.elements_of(bucket)
            states = elements["state"].copy()
            own = (states >= layout.ELEMENT_LIVE) & (states <= layout.ELEMENT_DROPPED)
            specs.update(_different(elements["spec"][own]))
            attrs.update(_different(elements["attrs"][own]))
            targets.update(_different(elements.view(layout.GROUP)["target"][states == layout.ELEMENT_GROUP]))
        targets.update(int(tables.specs[spec]["target"]) - 1 for spec in specs)
        for spec in self._specs.keep(specs):
            self._drop_spec(spec)
        for target in self._targets.keep(targets):
            row = tables.targets[target]
            self._drop_text(int(row["id_at"]), int(row["id_size"]))
            self._drop_text(int(row["meta_at"]), int(row["meta_size"]))
        for number in self._attrs.keep(attrs):
            self._drop_text(int(tables.attrs[number]["at"]), int(tables.attrs[number]["size"]))
        policies = {int(tables.specs[spec]["policy"]) for spec in specs}
        self._policies.keep(policies | {int(tables.targets[t]["policy"]) for t in targets if t >= 0})

    def _drop_spec(self, spec: int) -> None:
        row = self._tables.specs[spec]
        self._drop_text(int(row["ops_at"]), int(row["ops"]))
        self._drop_text(int(row["prefix_at"]), int(row["prefix_size"]))
        if row["twin"]:
            self._tables.specs[int(row["twin"]) - 1]["twin"] = 0


def _one_stage(
    aggregation_id: int, policy: StoragePolicy, pipeline: AppliedPipeline, resend: bool, traffic_types: int
) -> StagedMetadatas:
    """A metadata without stages as one that holds for ever."""
    metadata = PipelineMetadata(
        aggregation_id=aggregation_id,
        storage_policies=(policy,),
        pipeline=pipeline,
        resend_enabled=resend,
        traffic_types=traffic_types,
    )
    return (StagedMetadata(cutover_ns=layout.MIN_INT64, pipelines=(metadata,)),)


def _has_state(key: Key, resend: bool) -> bool:
    """Whether elements of that key need more than a record per window. Batch timers have no client time: resending does not touch them."""
    if key.pipeline or key.kind == KIND_FORWARDED:
        return True
    return resend and key.kind == KIND_STANDARD and key.metric_type != MetricType.TIMER


def _flags(metric_type: MetricType, types: tuple[AggregationType, ...], steps: _Steps, state: bool) -> int:
    flags = layout.SPEC_EXPENSIVE if any(kind in _SQUARES for kind in types) else 0
    if metric_type is MetricType.TIMER and any(kind.quantile is not None for kind in types):
        flags |= layout.SPEC_LOG
    if state:
        flags |= layout.SPEC_STATE
    if any(op in _BINARY for op in steps.local):
        flags |= layout.SPEC_BINARY
    if steps.rollup is None and TransformationType.RESET in steps.local:
        flags |= layout.SPEC_RESET
    return flags


def _slim(metric_type: MetricType, types: tuple[AggregationType, ...], policy: StoragePolicy, state: bool) -> int:
    """How a slim record suffices for what an element puts out, if it does."""
    if state:
        return 0
    if metric_type is MetricType.COUNTER and set(types) <= _OF_SUM:
        return layout.SPEC_SUM
    last = metric_type is MetricType.GAUGE and types == (AggregationType.LAST,)
    return layout.SPEC_LAST if last and policy.window_ns < layout.MAX_LAST_NS else 0


def _int32(number: int) -> int:
    """As it travels."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)
