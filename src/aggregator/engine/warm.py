"""Compiles every kernel of the engine, or loads it from the cache, before the first sample comes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aggregator import ipc
from aggregator.engine.engine import Engine
from aggregator.engine.ingest.apply import refuse
from aggregator.engine.options import MINUTE_NS, SECOND_NS, EngineOptions
from aggregator.engine.passthrough import Passthrough
from aggregator.engine.snapshot.rows import make_versions
from aggregator.engine.state.elements import unregister_elements
from aggregator.engine.state.state import retire_window
from aggregator.engine.tables import layout
from aggregator.engine.tables.grow import addresses, reserve_tables
from aggregator.engine.tables.ids import move_ids
from aggregator.engine.tables.index import rehash
from aggregator.lists import KIND_STANDARD, ListId
from m3metrics.codec import (
    BatchTimerWithMetadatas,
    ForwardedMetricWithMetadata,
    GaugeWithMetadatas,
    TimedMetricWithStoragePolicy,
    encode_metric,
)
from m3metrics.metadata import DEFAULT_STAGED_METADATAS, ForwardMetadata, PipelineMetadata, StagedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3x import byte_table

_NOW_NS = 1_000_000 * MINUTE_NS
_NEVER_NS = (1 << 63) - 1


def _frame(value: bytes) -> bytes:
    body = b"\x0a\x00\x12" + bytes([len(value)]) + value
    return len(body).to_bytes(4, "big") + body


def _engine() -> Engine:
    engine = Engine(
        EngineOptions(num_shards=1, topic_shards=1, default_storage_policies=("10s:2d",), entry_ttl_ns=1), max_series=8
    )
    engine.set_shards(ipc.Shards(1, 1, [ipc.OwnedShard(0, 0, _NEVER_NS)]), _NOW_NS)
    return engine


def _replay(rows: NDArray[np.uint8], messages: int, now_ns: int) -> None:
    engine, numbers = _engine(), np.zeros(4, np.uint32)
    engine.replay(rows, numbers, now_ns)
    engine.expect_repeats(engine.repeats_of(rows, messages, numbers, now_ns))
    engine.forget_repeats()


def warm(progress: Callable[[str], None]) -> None:
    """Runs a small engine through every kernel; ``progress`` gets a line before each step."""
    engine = _engine()
    progress("aggregator.engine: ingest")
    timer = encode_metric(BatchTimerWithMetadatas(id=b"t", values=(1.0,), metadatas=DEFAULT_STAGED_METADATAS))
    pipeline = (TransformationOp(TransformationType.PER_SECOND), RollupOp(b"r", 0))
    stages = (StagedMetadata(pipelines=(PipelineMetadata(pipeline=pipeline, resend_enabled=True),)),)
    gauge = encode_metric(GaugeWithMetadatas(id=b"g", value=1.0, metadatas=stages))
    metadata = ForwardMetadata(storage_policy=StoragePolicy.parse("10s:2d"), source_id=1, num_forwarded_times=1)
    forwarded = encode_metric(
        ForwardedMetricWithMetadata(
            metric_type=MetricType.GAUGE, id=b"f", time_ns=_NOW_NS, values=(1.0,), metadata=metadata
        )
    )
    # The last two are left to the plain decoder: one has a field that nobody knows, the other is no metric.
    frames = (timer, gauge, forwarded, gauge + b"\x78\x01", b"\x08\x00")
    for now_ns in (_NOW_NS, _NOW_NS + 10 * SECOND_NS):
        payload = np.frombuffer(b"".join(map(_frame, frames)), np.uint8)
        done = engine.ingest(payload, np.array([len(payload)], np.int64), now_ns, journaled=True)
        _replay(done.rows.copy(), done.messages, now_ns)
    passed = TimedMetricWithStoragePolicy(
        metric_type=MetricType.GAUGE, id=b"p", time_ns=_NOW_NS, value=1.0, storage_policy=StoragePolicy.parse("10s:2d")
    )
    Passthrough(np.zeros(layout.MAX_COUNTS, np.int64), 1).add(passed)
    progress("aggregator.engine: flush")
    list_id = ListId(KIND_STANDARD, 10 * SECOND_NS)
    bounds = [ipc.ShardBounds([], _NOW_NS + MINUTE_NS, 0, _NEVER_NS)]
    for _ in engine.flush(ipc.Flush(0, list_id, True, bounds), _NOW_NS):
        pass
    progress("aggregator.engine: snapshots")
    once, saved = engine.save()
    other = _engine()
    loader = other.loader(once, np.zeros(8, np.uint32))
    for table in saved:
        loader.take(table)
    other.finish_loading()
    progress("aggregator.engine: maintenance")
    byte_table.warm()
    engine.commit(ipc.Commit(list_id, [], _NOW_NS + MINUTE_NS))
    engine.expire(_NOW_NS + MINUTE_NS)
    engine.set_runtime(ipc.RuntimeOptions(0, 0))
    engine.set_shards(ipc.Shards(1, 1, [ipc.OwnedShard(0, 0, _NEVER_NS)]), _NOW_NS)
    engine.stats()
    tables = reserve_tables(1)
    where = addresses(tables)
    t = np.uint64(where.ctypes.data)
    rehash(tables.entry_index, 0, tables.entry_index, 0)
    move_ids(t, 0)
    unregister_elements(t, 0)
    retire_window(t, 0)
    # Only groups that have sent something before the snapshot have these.
    none = np.zeros(0, np.int64)
    make_versions(t, none, none, *(np.zeros(0, layout.VERSIONS[name]) for name in ("term", "flush", "sent")))
    refuse(t, 0, 0, tables.ids, 0, 0)
