"""A snapshot of an engine, loaded into another one, goes on as the first one does."""

import gc
import importlib
import random
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregator.engine.engine_calls import (
    NOW,
    SECOND,
    all_shards,
    engine_of,
    flush_all,
    flush_both,
    options,
    send,
)
from tests.aggregator.engine.test_engine import alike, random_metric, random_stages
from tests.aggregator.engine.test_shorthand import close_all, command_of, ingest

from aggregator import ipc
from aggregator.engine import Engine, EngineOptions
from aggregator.lists import KIND_STANDARD
from m3metrics import codec
from m3metrics.metadata import DEFAULT_STAGED_METADATAS


def loaded(engine: Engine, o: EngineOptions, numbers: np.ndarray) -> Engine:
    """Another engine with the state of ``engine``."""
    once, tables = engine.save()
    other = Engine(o, max_series=1 << 12)
    loader = other.loader(once, numbers)
    for table in tables:
        sizes = {len(column) for name, column in table.columns.items() if name not in ("bytes", "numbers")}
        assert len(sizes) <= 1, table.name
        loader.take(table)
    other.finish_loading()
    return other


def same(one: Engine, other: Engine, command: ipc.Flush, now: int) -> list[bytes]:
    out, sent = flush_both(one, command, now)
    other_out, other_sent = flush_both(other, command, now)
    assert sorted(out) == sorted(other_out)
    assert sorted(map(alike, sent)) == sorted(map(alike, other_sent))
    return sorted(sent)


@settings(max_examples=80)
@given(st.integers(0, 2**32))
def test_it_goes_on_as_the_first_one_does(seed: int) -> None:
    r = random.Random(seed)
    o = options(discard_nan=r.random() < 0.7, values_per_metric_limit_per_second=r.choice([0, 0, 60]))
    engine, copy = engine_of(o), engine_of(o)
    known = np.zeros(1 << 13, np.uint32)
    pool = [random_stages(r, NOW, True) for _ in range(5)]
    now = NOW
    back: list[bytes] = []
    for _ in range(60):
        now += r.choice([1, SECOND // 3, SECOND, 4 * SECOND])
        action = r.random()
        if action < 0.08:
            known = np.zeros(1 << 13, np.uint32)
            copy = loaded(engine, o, known)
        elif action < 0.7:
            metrics = [codec.encode_metric(random_metric(r, pool, now, True)) for _ in range(r.randint(1, 12))]
            rows = ingest(engine, [*metrics, *back], now).rows
            back = []
            replayed = copy.replay(rows, known, now)
            assert (replayed.lost, replayed.whole) == (0, True)
        elif action < 0.92:
            back += same(engine, copy, command_of(r, now, o), now)
        elif action < 0.95:
            for e in (engine, copy):
                e.commit(ipc.Commit(command_of(random.Random(seed + now), now, o).list_id, [], now - 40 * SECOND))
        elif action < 0.97:
            list_id = command_of(r, now, o).list_id
            for e in (engine, copy):
                e.reopen(ipc.Reopen(1, list_id, now - 60 * SECOND))
        elif action < 0.98:
            owned = all_shards()[: r.randint(2, 4)]
            for e in (engine, copy):
                e.set_shards(ipc.Shards(4, 16, owned), now)
        else:
            for e in (engine, copy):
                e.expire(now)
    assert [(s.id, s.entries, s.open_windows) for s in engine.stats()[2]] == [
        (s.id, s.entries, s.open_windows) for s in copy.stats()[2]
    ]
    for command in close_all(now):
        same(engine, copy, command, now)


def test_a_child_that_gives_memory_back_saves_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pieces that end within pages, and pages that are used from the highest to the lowest, as those of released windows are.
    monkeypatch.setattr(importlib.import_module("aggregator.engine.snapshot.save"), "PIECE", 3000)
    engine = engine_of(options(default_storage_policies=("10s:2d",)), max_series=1 << 14)
    metrics = [
        codec.encode_metric(codec.GaugeWithMetadatas(id=b"%d" % k, value=k, metadatas=DEFAULT_STAGED_METADATAS))
        for k in range(10_000)
    ]
    for window in range(2):
        now = NOW + 10 * window * SECOND
        ingest(engine, metrics, now)
        if window == 0:
            command = flush_all(KIND_STANDARD, 10, now + 10 * SECOND)
            flush_both(engine, command, now + 10 * SECOND)
            engine.commit(ipc.Commit(command.list_id, [], now + 10 * SECOND))
    kept, given_back = ([*engine.save(consuming=consuming)[1]] for consuming in (False, True))
    assert sum(len(table.columns["count"]) for table in kept if table.name == "records") == 10_000
    assert [table.name for table in kept] == [table.name for table in given_back]
    for one, other in zip(kept, given_back, strict=True):
        for name, column in one.columns.items():
            assert np.array_equal(column, other.columns[name]), (one.name, name)


def test_an_empty_engine() -> None:
    o = options()
    copy = loaded(engine_of(o), o, np.zeros(4, np.uint32))
    assert copy.stats()[2] == engine_of(o).stats()[2]


def test_what_loading_needs_is_let_go_of_at_once() -> None:
    # It has columns of all records: millions of them are not to wait for a search for cycles.
    engine = engine_of(options())
    once, tables = engine.save()
    gc.disable()
    try:
        loader = engine.loader(once, np.zeros(4, np.uint32))
        for table in tables:
            loader.take(table)
        gone = weakref.ref(loader)
        del loader
        assert gone() is None
    finally:
        gc.enable()


def peak_while_saving(series: int) -> int:
    """Bytes that saving takes at most; every series has two elements, each with one record."""
    engine = engine_of(options(), max_series=1 << 16)
    message = codec.encode_metric(
        codec.GaugeWithMetadatas(id=b"00000000", value=1.0, metadatas=DEFAULT_STAGED_METADATAS)
    )
    send(engine, [message.replace(b"00000000", b"%08d" % number) for number in range(series)], NOW)
    _, tables = engine.save()
    tracemalloc.start()
    try:
        rows = sum(len(table.columns["element"]) for table in tables if table.name == "records")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows == 2 * series
    return peak


def test_of_its_own_it_has_pieces_and_four_bytes_for_each_entry_and_element() -> None:
    peak_while_saving(20_000)  # kernels are loaded
    few, many = peak_while_saving(20_000), peak_while_saving(60_000)
    assert many - few <= 16 * 40_000
