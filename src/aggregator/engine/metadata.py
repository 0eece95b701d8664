"""Metadata bytes, parsed once: what the aggregations of a metric are and how their values are emitted.

Senders repeat the same few metadatas with every sample. ``MetadataTable.intern`` parses unseen bytes and fills the tables ``metas``,
``stages``, ``stage_specs``, ``specs``, ``outputs``, ``attrs`` and ``text``, which kernels read; from then on no metric with these bytes
needs Python.

A *spec* stands for an aggregation key (aggregation id, storage policy, pipeline, times forwarded, prefix kind) of one metric type and
category, reference/aggregator_core.md §4.4: two keys are equal when their specs are. ``attrs`` are what may change without changing the
key: the routing policy.
"""

from typing import Any

import msgspec
import numpy as np

from aggregator.engine import ingest_kernels
from aggregator.engine.options import EngineOptions
from aggregator.engine.reasons import (
    D_AGGREGATION_TYPES,
    D_DECODE,
    D_EMPTY_LIST,
    D_LISTS,
    D_METADATAS,
    D_METRIC_TYPE,
    D_NO_PIPELINES,
    D_NONE,
    D_ONLY_DEFAULT,
    D_ONLY_DROP,
    D_PIPELINE,
    D_RESOLUTION,
)
from aggregator.engine.tables import (
    H_BUCKETS,
    H_METAS,
    MAX_ATTRS,
    MAX_BUCKETS,
    MAX_ELEMENTS,
    MAX_INT64,
    MAX_METAS,
    MAX_SPECS,
    MIN_INT64,
    SPEC_EXPENSIVE,
    SPEC_LOG,
    STAGE_TOMBSTONED,
    TEXT_BYTES,
    Tables,
)
from aggregator.ipc import KIND_STANDARD, KIND_TIMED
from m3metrics.aggregation import AggregationType, TypesOptions, is_valid_for, parse_type
from m3metrics.codec import aggregated_policy_fields, decode_staged_metadatas, decode_timed_metadata
from m3metrics.errors import MetricsError
from m3metrics.metadata import PipelineMetadata, StagedMetadata, StagedMetadatas, is_default, is_drop_policy_set
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy

MAX_METADATA_BYTES = 1 << 16
"""A metadata that is longer is refused: no rule set makes one, and parsing it is not the hot path's."""
MAX_STAGES = 256
_SPARE_SPECS = 1 << 16
_SPARE_OUTPUTS = 1 << 18
_SPARE_POLICIES = 1 << 13
"""More than one metadata of ``MAX_METADATA_BYTES`` can need."""
_MAX_POLICIES = 1 << 16
PLAIN_TIMED = 5
STAGED_TIMED = 6
_YEAR_ONE_TO_EPOCH_NS = 62_135_596_800 * 1_000_000_000
_SQUARES = (AggregationType.SUM_SQ, AggregationType.STDEV)


class Key(msgspec.Struct, frozen=True):
    """An aggregation key, with what decides its list. Pipeline and times forwarded are empty as long as pipelines are refused."""

    aggregation_id: int
    policy: StoragePolicy
    kind: int
    """``KIND_STANDARD`` or ``KIND_TIMED``."""
    plain: bool
    """No prefix, no suffix."""
    metric_type: int


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


class MetadataTable:
    """Interns metadata bytes into the tables of an engine."""

    def __init__(self, options: EngineOptions, tables: Tables, address: np.uint64) -> None:
        self._options = options
        self._types = types_options(options)
        self._defaults = tuple(StoragePolicy.parse(text) for text in options.default_storage_policies)
        self._tables = tables
        self._address = address
        self._text_used = 0
        self._outputs_used = 0
        self._stages_used = 0
        self._stage_specs_used = 0
        self._text_at: dict[bytes, int] = {}
        self._specs: dict[Key, int] = {}
        self._attrs: dict[bytes, int] = {}
        self._buckets: dict[tuple[int, int, int], int] = {}
        self._policies: dict[str, int] = {}
        self._prefixes = {
            MetricType.COUNTER: options.counter_prefix.encode(),
            MetricType.TIMER: options.timer_prefix.encode(),
            MetricType.GAUGE: options.gauge_prefix.encode(),
        }

    @property
    def policy_names(self) -> tuple[str, ...]:
        """Storage policies by the number that ``MessageBatch.policies`` uses."""
        return tuple(self._policies)

    def bucket(self, kind: int, resolution_ns: int, times_forwarded: int) -> int | None:
        """Number of the bucket of a list id, None if nothing has used it yet."""
        return self._buckets.get((kind, resolution_ns, times_forwarded))

    @property
    def size_bytes(self) -> int:
        """Memory in the tables that only grow with new metadatas."""
        return self._text_used + 40 * self._outputs_used + 64 * self._stages_used + 8 * self._stage_specs_used

    def intern(self, data: bytes, payload: int, metric_type: int) -> int:
        """Parses metadata bytes of a payload (1–3: staged of that untimed type, 5: timed, 6: staged timed); returns their row.

        Bytes that no metadata is made of get a row, too: metrics that carry them are refused with its ``action``. -1: there is no more
        room, the metric is to be refused with ``D_METADATAS``.
        """
        heads = self._tables.heads
        row = int(heads[H_METAS])
        if len(data) > MAX_METADATA_BYTES or self._full(row):
            return -1
        meta = self._tables.metas[row]
        meta["at"] = self._text(data)
        meta["size"] = len(data)
        meta["key"] = payload << 8 | metric_type
        meta["first_stage"] = self._stages_used
        meta["stages"] = 0
        meta["action"] = self._parse(data, payload, metric_type, meta)
        heads[H_METAS] = row + 1
        ingest_kernels.link_metadata(self._address, row)
        return row

    def _full(self, row: int) -> bool:
        """Whether one more metadata might not fit into some table."""
        tables = self._tables
        return (
            row >= MAX_METAS - 1
            or self._text_used + 2 * MAX_METADATA_BYTES > TEXT_BYTES
            or self._stages_used + MAX_STAGES > len(tables.stages)
            or self._stage_specs_used + _SPARE_SPECS > len(tables.stage_specs)
            or self._outputs_used + _SPARE_OUTPUTS > len(tables.outputs)
            or len(self._policies) + _SPARE_POLICIES > _MAX_POLICIES
        )

    def _parse(self, data: bytes, payload: int, metric_type: int, meta: Any) -> int:
        try:
            if payload == PLAIN_TIMED:
                timed = decode_timed_metadata(data)
                pipeline = PipelineMetadata(
                    aggregation_id=timed.aggregation_id,
                    storage_policies=(timed.storage_policy,),
                    traffic_types=timed.traffic_types,
                )
                stages: StagedMetadatas = (StagedMetadata(cutover_ns=MIN_INT64, pipelines=(pipeline,)),)
            else:
                stages = decode_staged_metadatas(data)
        except MetricsError:
            return D_DECODE
        if not stages:
            return D_EMPTY_LIST
        if len(stages) > MAX_STAGES:
            return D_METADATAS
        if payload == STAGED_TIMED:
            if is_default(stages):
                return D_ONLY_DEFAULT
            if is_drop_policy_set(stages):
                return D_ONLY_DROP
        for position, stage in enumerate(stages):
            until = min((later.cutover_ns for later in stages[position + 1 :]), default=MAX_INT64)
            self._add_stage(stage, until, meta, payload, metric_type)
        return D_NONE

    def _add_stage(self, stage: StagedMetadata, until_ns: int, meta: Any, payload: int, metric_type: int) -> None:
        row = self._tables.stages[self._stages_used]
        row["from_ns"] = stage.cutover_ns
        row["until_ns"] = until_ns
        row["cutover"] = stage.cutover_ns
        row["meta_at"] = meta["at"]
        row["meta_size"] = meta["size"]
        row["key"] = payload << 8 | metric_type
        row["specs_at"] = self._stage_specs_used
        action, specs = self._stage_specs(stage, payload, metric_type)
        row["action"] = action
        row["specs"] = len(specs)
        for spec, attrs in specs.items():
            self._tables.stage_specs[self._stage_specs_used] = (spec, attrs)
            self._stage_specs_used += 1
        self._stages_used += 1
        meta["stages"] += 1

    def _stage_specs(self, stage: StagedMetadata, payload: int, metric_type: int) -> tuple[int, dict[int, int]]:
        """Why the stage refuses its metrics (0: it does not), and its specs with their attrs, each key once.

        A stage with a key that is refused has the specs of the keys before it: M3 makes their lists before it fails.
        """
        if stage.tombstoned:
            return STAGE_TOMBSTONED, {}
        if not stage.pipelines:
            return D_NO_PIPELINES, {}
        if any(pipeline.pipeline for pipeline in stage.pipelines):
            return D_PIPELINE, {}
        specs: dict[int, int] = {}
        kind = KIND_STANDARD if payload < PLAIN_TIMED else KIND_TIMED
        try:
            for pipeline in stage.pipelines:
                for policy in pipeline.storage_policies or self._defaults:
                    key = Key(pipeline.aggregation_id, policy, kind, payload == PLAIN_TIMED, metric_type)
                    specs.setdefault(self._spec(key), self._attrs_of(policy, pipeline.traffic_types))
                    if len(specs) > MAX_ELEMENTS:
                        return D_LISTS, {}
        except _Refused as refused:
            return refused.detail, specs
        return D_NONE, specs

    def _spec(self, key: Key) -> int:
        if key in self._specs:
            return self._specs[key]
        if key.metric_type not in (MetricType.COUNTER, MetricType.TIMER, MetricType.GAUGE):
            raise _Refused(D_METRIC_TYPE)
        metric_type = MetricType(key.metric_type)
        try:
            types = self._types.types_of(metric_type, key.aggregation_id)
        except MetricsError:
            raise _Refused(D_AGGREGATION_TYPES) from None
        if not all(is_valid_for(metric_type, kind) for kind in types):
            raise _Refused(D_AGGREGATION_TYPES)
        if key.policy.window_ns <= 0:
            raise _Refused(D_RESOLUTION)
        number = len(self._specs)
        if number >= MAX_SPECS:
            raise _Refused(D_METADATAS)
        row = self._tables.specs[number]
        row["bucket"] = self._bucket(key.kind, key.policy.window_ns)
        row["metric_type"] = metric_type
        row["policy"] = self._policies.setdefault(str(key.policy), len(self._policies))
        prefix = b"" if key.plain else self._prefixes[metric_type]
        row["prefix_at"] = self._text(prefix)
        row["prefix_size"] = len(prefix)
        row["outputs_at"] = self._outputs_used
        row["outputs"] = len(types)
        flags = SPEC_EXPENSIVE if any(kind in _SQUARES for kind in types) else 0
        if metric_type is MetricType.TIMER and any(kind.quantile is not None for kind in types):
            flags |= SPEC_LOG
        row["flags"] = flags
        for kind in types:
            suffix = b"" if key.plain else self._types.type_string(metric_type, kind)
            quantile = -1.0 if kind.quantile is None else kind.quantile
            self._tables.outputs[self._outputs_used] = (quantile, self._text(suffix), len(suffix), int(kind))
            self._outputs_used += 1
        self._specs[key] = number
        return number

    def _bucket(self, kind: int, resolution_ns: int, times_forwarded: int = 0) -> int:
        key = (kind, resolution_ns, times_forwarded)
        if key in self._buckets:
            return self._buckets[key]
        number = len(self._buckets)
        if number >= MAX_BUCKETS:
            raise _Refused(D_LISTS)
        row = self._tables.buckets[number]
        row["resolution"] = resolution_ns
        row["shift"] = _YEAR_ONE_TO_EPOCH_NS % resolution_ns
        row["past_limit"] = min(self._options.buffer_past_ns + resolution_ns, MAX_INT64)
        row["window"] = -1
        row["kind"] = kind
        row["times_forwarded"] = times_forwarded
        self._buckets[key] = number
        self._tables.heads[H_BUCKETS] = number + 1
        return number

    def _attrs_of(self, policy: StoragePolicy, traffic_types: int) -> int:
        fields = aggregated_policy_fields(policy, traffic_types)
        if fields in self._attrs:
            return self._attrs[fields]
        number = len(self._attrs)
        if number >= MAX_ATTRS:
            raise _Refused(D_METADATAS)
        self._tables.attrs[number] = (self._text(fields), len(fields))
        self._attrs[fields] = number
        return number

    def _text(self, data: bytes) -> int:
        """Position of these bytes in the text arena."""
        if data in self._text_at:
            return self._text_at[data]
        at = self._text_used
        self._tables.text[at : at + len(data)] = bytearray(data)
        self._text_used = at + len(data)
        self._text_at[data] = at
        return at
