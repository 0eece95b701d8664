"""Slim records: what they cost, and what happens where they do not suffice."""

from typing import Any

import numpy as np
import pytest
from tests.aggregator.engine.engine_calls import NOW, SECOND, engine_of, flush, flush_all, options, send
from tests.aggregator.engine.test_snapshot import loaded

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.lists import KIND_STANDARD, KIND_TIMED, ListId
from m3metrics import codec
from m3metrics.aggregation import AggregationType, compress
from m3metrics.metadata import PipelineMetadata, StagedMetadata, TimedMetadata
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy

TEN = StoragePolicy.parse("10s:2d")
PAGE = 4096
SLIM, WHOLE = 16 * PAGE, 64 * PAGE
"""Bytes of a page."""


def stages(*types: AggregationType, resend: bool = False) -> tuple[StagedMetadata, ...]:
    pipeline = PipelineMetadata(aggregation_id=compress(types), storage_policies=(TEN,), resend_enabled=resend)
    return (StagedMetadata(pipelines=(pipeline,)),)


def gauge(ident: bytes, value: float, *types: AggregationType, note: bytes = b"", resend: bool = False) -> bytes:
    return codec.encode_metric(
        codec.GaugeWithMetadatas(id=ident, value=value, annotation=note, metadatas=stages(*types, resend=resend))
    )


def counter(ident: bytes, value: int, *types: AggregationType, note: bytes = b"") -> bytes:
    return codec.encode_metric(
        codec.CounterWithMetadatas(id=ident, value=value, annotation=note, metadatas=stages(*types))
    )


def timed(ident: bytes, value: float, time_ns: int, aggregation: int = 0) -> bytes:
    metadata = TimedMetadata(aggregation_id=aggregation, storage_policy=TEN)
    return codec.encode_metric(
        codec.TimedMetricWithMetadata(
            metric_type=MetricType.GAUGE, id=ident, time_ns=time_ns, value=value, metadata=metadata
        )
    )


def window_bytes(engine: Engine) -> float:
    return engine.stats()[1]["engine.window-bytes"]


def values(engine: Engine, target: int, kind: int = KIND_STANDARD) -> dict[bytes, tuple[float, bytes]]:
    """Value and annotation by id."""
    out = flush(engine, flush_all(kind, 10, target), target)
    return {row[0]: (float(np.uint64(int(row[3], 16)).view(np.float64)), row[4]) for row in out}


LAST, SUM, COUNT, MEAN, MAX = (AggregationType[name] for name in ("LAST", "SUM", "COUNT", "MEAN", "MAX"))


@pytest.mark.parametrize(
    ("make", "page"),
    [
        (lambda i: gauge(i, 1.0), SLIM),
        (lambda i: gauge(i, 1.0, LAST), SLIM),
        (lambda i: timed(i, 1.0, NOW), SLIM),
        (lambda i: counter(i, 1), SLIM),
        (lambda i: counter(i, 1, SUM, COUNT, MEAN), SLIM),
        (lambda i: gauge(i, 1.0, MAX), WHOLE),
        (lambda i: gauge(i, 1.0, LAST, SUM), WHOLE),
        (lambda i: counter(i, 1, MAX), WHOLE),
        (lambda i: gauge(i, 1.0, note=b"n"), WHOLE),
    ],
)
def test_a_window_takes_what_its_aggregations_need(make: Any, page: int) -> None:
    engine = engine_of(options(default_storage_policies=("10s:2d",)), max_series=1 << 14)
    ids = [b"%d" % k for k in range(2 * PAGE + 1)]
    for window in range(3):
        assert send(engine, [make(i) for i in ids], NOW + window) == []
        assert window_bytes(engine) == 3 * page


def test_slots_of_each_kind_are_used_again_by_the_same_kind() -> None:
    engine = engine_of(options(entry_ttl_ns=SECOND), max_series=1 << 14)
    for k in range(12):
        at = NOW + k * 10 * SECOND
        metrics = [gauge(b"%d-%d" % (k, i), 1.0, *((MAX,) if i % 2 else ())) for i in range(2 * PAGE)]
        assert send(engine, metrics, at) == []
        assert window_bytes(engine) == SLIM + WHOLE
        assert len(values(engine, at + 10 * SECOND)) == 2 * PAGE
        engine.commit(ipc.Commit(ListId(KIND_STANDARD, 10 * SECOND), [], at + 10 * SECOND))
        engine.expire(at + 10 * SECOND)
        assert window_bytes(engine) == 0


def test_an_annotation_makes_one_page_of_one_window_whole() -> None:
    engine = engine_of(options(), max_series=1 << 14)
    ids = [b"%d" % k for k in range(PAGE)]
    later = NOW + 10 * SECOND
    for at in (NOW, later):
        assert send(engine, [gauge(i, k) for k, i in enumerate(ids)] + [counter(b"c", 5)], at) == []
    assert window_bytes(engine) == 4 * SLIM
    assert send(engine, [gauge(b"7", -7.0, note=b"note"), gauge(b"new", 9.0, note=b"new")], NOW + 1) == []
    assert send(engine, [gauge(b"8", 88.0), gauge(b"9", 99.0)], NOW) == []  # not later than what is there
    assert send(engine, [counter(b"c", 6), counter(b"c", 1, note=b"sum")], NOW + 2) == []
    assert window_bytes(engine) == 2 * SLIM + 2 * WHOLE
    out = values(engine, later)
    assert out.pop(b"7") == (-7.0, b"note")
    assert out.pop(b"new") == (9.0, b"new")
    assert out.pop(b"stats.counts.csum") == (12.0, b"sum")
    assert out == {i: (float(k), b"") for k, i in enumerate(ids) if k != 7}
    assert engine.stats()[0]["aggregation.gauges.values-out-of-order"] == 2
    assert values(engine, later + 10 * SECOND)[b"7"] == (7.0, b"")


def test_what_comes_after_its_window_was_flushed_is_put_out_once_more() -> None:
    engine = engine_of(options())
    send(engine, [gauge(b"a", 1.0), gauge(b"b", 1.0), counter(b"c", 1)], NOW)
    send(engine, [gauge(b"a", 2.0), counter(b"c", 2)], NOW + 10 * SECOND)
    assert len(values(engine, NOW + 20 * SECOND)) == 5 - 2  # both windows, by id
    # The clock has stepped back: of "a" and "c" a later window is closed, of "b" none is.
    assert send(engine, [gauge(b"a", 3.0), counter(b"c", 3)], NOW + 1) == []
    assert send(engine, [gauge(b"b", 3.0)], NOW + 1) == []
    assert values(engine, NOW + 21 * SECOND) == {b"a": (3.0, b""), b"stats.counts.csum": (3.0, b""), b"b": (3.0, b"")}


def test_a_key_that_may_be_corrected_from_now_on_keeps_what_it_has() -> None:
    engine = engine_of(options())
    send(engine, [gauge(b"a", 1.0, LAST)], NOW)
    later = stages(LAST, resend=True)
    message = codec.GaugeWithMetadatas(
        id=b"a",
        value=2.0,
        metadatas=(StagedMetadata(cutover_ns=NOW, pipelines=later[0].pipelines),),
        client_time_ns=NOW - SECOND,
    )
    assert send(engine, [codec.encode_metric(message)], NOW + 1) == []
    assert values(engine, NOW + 10 * SECOND) == {b"a": (1.0, b"")}


def test_a_snapshot_of_them_is_loaded_as_what_they_are() -> None:
    o = options(default_storage_policies=("10s:2d",))
    engine = engine_of(o)
    send(
        engine,
        [gauge(b"%d" % k, k) for k in range(100)] + [counter(b"c", 1, SUM, MEAN), counter(b"c", 4, SUM, MEAN)],
        NOW,
    )
    send(engine, [gauge(b"3", -3.0, note=b"note"), gauge(b"m", 1.0, MAX)], NOW + 10 * SECOND)
    copy = loaded(engine, o, np.zeros(1 << 8, np.uint32))
    assert window_bytes(copy) == window_bytes(engine) == SLIM + 2 * WHOLE
    # The same batch goes on in neither: its number is that of one that is over.
    for one in (engine, copy):
        assert send(one, [gauge(b"5", 55.0)], NOW) == []
    assert values(engine, NOW + 10 * SECOND) == values(copy, NOW + 10 * SECOND)
    assert values(copy, NOW + 20 * SECOND)[b"3"] == (-3.0, b"note")


def test_windows_too_long_for_a_stamp() -> None:
    engine = engine_of(options(buffer_past_ns=20 * SECOND))
    long = StoragePolicy.parse("1000h:1000h")
    pipeline = PipelineMetadata(aggregation_id=compress([LAST]), storage_policies=(long,))
    for value, at in ((1.0, NOW), (2.0, NOW + 7200 * SECOND)):
        message = codec.GaugeWithMetadatas(id=b"a", value=value, metadatas=(StagedMetadata(pipelines=(pipeline,)),))
        assert send(engine, [codec.encode_metric(message)], at) == []
    assert window_bytes(engine) == WHOLE
    end = NOW + 2 * 3_600_000 * SECOND
    assert [row[3] for row in flush(engine, flush_all(KIND_STANDARD, 3_600_000, end), end)] == [
        np.float64(2.0).tobytes()[::-1].hex()
    ]


def test_times_within_a_window_decide_what_is_last() -> None:
    engine = engine_of(options())
    for value, second in ((1.0, 0), (2.0, 9), (3.0, 5), (4.0, 9)):
        assert send(engine, [timed(b"a", value, NOW + second * SECOND)], NOW + 9 * SECOND) == []
    assert values(engine, NOW + 10 * SECOND, KIND_TIMED) == {b"a": (2.0, b"")}
    assert engine.stats()[0]["aggregation.gauges.values-out-of-order"] == 2
