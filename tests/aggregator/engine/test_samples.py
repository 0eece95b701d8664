"""Quantiles are those of sorted samples, however many there are and whatever they look like."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.aggregator.engine.engine_calls import NOW, SECOND, all_shards, engine_of, flush, flush_all, options, send
from tests.aggregator.engine.reference_engine import bits

from aggregator import ipc
from aggregator.engine.flush import run
from aggregator.engine.tables import layout
from aggregator.engine.windows.samples import select
from aggregator.lists import KIND_STANDARD
from m3metrics import codec
from m3metrics.aggregation import AggregationType
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.policy import StoragePolicy

_TYPES = (AggregationType.MEDIAN, AggregationType.P10, AggregationType.P50, AggregationType.P99, AggregationType.P9999)


def _stages(types: tuple[AggregationType, ...]) -> tuple[StagedMetadata, ...]:
    pipeline = PipelineMetadata(
        aggregation_id=sum(1 << kind for kind in types), storage_policies=(StoragePolicy.parse("10s:2d"),)
    )
    return (StagedMetadata(pipelines=(pipeline,)),)


_STAGES = _stages(_TYPES)
_SUMS = _stages((*_TYPES, AggregationType.SUM_SQ))
_Shape = Callable[[np.random.Generator, int], NDArray[np.float64]]
_SHAPES: dict[str, _Shape] = {
    "any": lambda r, n: r.random(n),
    "few": lambda r, n: r.integers(0, 3, n).astype(np.float64),
    "one": lambda r, n: np.full(n, 7.0),
    "ascending": lambda r, n: np.arange(n, dtype=np.float64),
    "descending": lambda r, n: -np.arange(n, dtype=np.float64),
    "infinite": lambda r, n: r.choice([-math.inf, math.inf, 1e308, -5e-324], n),
    "steep": lambda r, n: np.exp2(r.permutation(n) % 1000),
}


@pytest.mark.parametrize("shape", _SHAPES)
def test_a_selected_value_is_where_sorting_puts_it(shape: str) -> None:
    r = np.random.default_rng(1)
    for n in (1, 2, 24, 25, 26, 100, 1000, 5000):
        values = _SHAPES[shape](r, n)
        wanted = np.sort(values)
        for at in {0, n // 3, n // 2, n - 1}:
            found = values.copy()
            select(found, 0, n, at)
            assert found[at] == wanted[at]
            assert (found[:at] <= found[at]).all()
            assert (found[at:] >= found[at]).all()
            assert (np.sort(found) == wanted).all()


def test_only_what_is_asked_for_is_touched() -> None:
    values = np.random.default_rng(2).random(300)
    found = values.copy()
    select(found, 100, 200, 150)
    assert (found[:100] == values[:100]).all()
    assert (found[200:] == values[200:]).all()
    assert found[150] == np.sort(values[100:200])[50]


def test_timers_of_many_samples_that_come_mixed() -> None:
    r = np.random.default_rng(3)
    engine = engine_of(options())
    sent: dict[bytes, list[float]] = {}
    sizes = {b"a": 3, b"b": 1, b"c": 24, b"d": 400, b"e": 30}
    for _ in range(60):
        messages = []
        for ident, size in sizes.items():
            values = np.where(r.random(size) < 0.05, np.nan, np.round(r.exponential(20, size), 1))
            sent.setdefault(ident, []).extend(values[~np.isnan(values)].tolist())
            messages.append(
                codec.encode_metric(
                    codec.BatchTimerWithMetadatas(id=ident, values=tuple(values.tolist()), metadatas=_STAGES)
                )
            )
        send(engine, messages, NOW)
    found = {
        row[0]: row[3] for row in flush(engine, flush_all(KIND_STANDARD, 10, NOW + 10 * SECOND), NOW + 10 * SECOND)
    }
    wanted = {}
    for ident, all_of in sent.items():
        ranked = sorted(all_of)
        for kind in _TYPES:
            assert kind.quantile is not None
            wanted[ident + b"." + kind.text.lower().encode()] = bits(ranked[math.ceil(kind.quantile * len(ranked)) - 1])
    assert len(sent[b"d"]) > 4 * 4096
    assert found == wanted


_ODD = (math.nan, 0.0, -0.0, math.inf, -math.inf, 1e300, -1.5, 2.25)


@settings(max_examples=80)
@given(st.lists(st.lists(st.sampled_from(_ODD) | st.floats(), max_size=12), min_size=1, max_size=8))
def test_sums_and_extremes_are_those_of_values_one_after_another(batches: list[list[float]]) -> None:
    engine = engine_of(options())
    total = squares = 0.0
    low = high = math.nan
    numbers = 0
    for values in batches:
        metric = codec.BatchTimerWithMetadatas(id=b"a", values=tuple(values), metadatas=_SUMS)
        assert send(engine, [codec.encode_metric(metric)], NOW) == []
        with np.errstate(all="ignore"):
            for value in np.array(values, np.float64):
                total, squares = total + value, squares + value * value
                low = low if math.isnan(value) or low <= value else value
                high = high if math.isnan(value) or high >= value else value
                numbers += not math.isnan(value)
    records = engine._tables.records[:4096]
    record = records[records["flags"] != 0]
    if sum(map(len, batches)) == 0:
        assert len(record) in (0, 1)
        return
    assert record["count"].tolist() == [sum(map(len, batches))]
    for name, wanted in (("sum", total), ("sum_sq", squares), ("min", low), ("max", high)):
        found = float(record[name][0])
        assert bits(found) == bits(wanted) or (math.isnan(found) and math.isnan(wanted)), name
    assert record.view(layout.TIMER_LOG)["samples"].tolist() == [numbers]


def test_a_shard_that_goes_between_two_parts_takes_nothing_of_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its timer is half out by then; the next one is put out whole, with its own quantiles."""
    monkeypatch.setattr(run, "_PART_MESSAGES", 3)
    engine = engine_of(options())
    batches = [
        codec.BatchTimerWithMetadatas(id=b"s%d" % k, values=tuple(100.0 * k + i for i in range(10)), metadatas=_STAGES)
        for k in range(2)
    ]
    assert send(engine, [codec.encode_metric(batch) for batch in batches], NOW) == []
    parts = engine.flush(flush_all(KIND_STANDARD, 10, NOW + 10 * SECOND), NOW + 10 * SECOND)
    assert values_of(next(parts)) == {b"s0.median": 4.0, b"s0.p10": 0.0, b"s0.p50": 4.0}
    gone, stays = engine._tables.entries["shard"][:2].tolist()
    assert gone != stays
    engine.set_shards(ipc.Shards(4, 16, [shard for shard in all_shards() if shard.id != gone]), NOW)
    found: dict[bytes, float] = {}
    for part in parts:
        found |= values_of(part)
    medians = {b"s1.median": 104.0, b"s1.p10": 100.0, b"s1.p50": 104.0}
    assert found == medians | {b"s1.p99": 109.0, b"s1.p9999": 109.0}


def values_of(part: run.FlushPart) -> dict[bytes, float]:
    """What a part puts out."""
    batch = part.batch
    if batch is None:
        return {}
    ends = zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True)
    metrics = [codec.decode_aggregated(batch.payload[a:b].tobytes()) for a, b in ends]
    return {metric.id: metric.value for metric in metrics}
