"""Samples that a write process hands to the main process's stores."""

import asyncio
from pathlib import Path

import pytest
from tests.coordinator.sinks.batches import RecordingSink, Row, batch_of
from tests.coordinator.write.conftest import TEN_SECONDS
from tests.coordinator.write.test_direct import Picky
from tests.coordinator.writers.test_link import linked

from coordinator.config import Namespace
from coordinator.not_kept import Reason
from coordinator.sinks import QueuedSink, QueueOptions, open_hub
from coordinator.sinks.values import UNAGGREGATED
from coordinator.write.direct import DirectWriteError, HubDirectStore, RefusedSample
from coordinator.writers.direct import HandedStore, Taker
from coordinator.writers.told import DIRECT
from m3metrics.ids import encode_tags
from m3x.instrument import Registry

RAW = Namespace("raw", 0, 10**12)


def row(name: bytes, k: int, value: float, annotation: bytes = b"") -> Row:
    return Row(encode_tags([(b"__name__", name)]), k * 10**9, value, UNAGGREGATED, annotation)


async def test_batches_arrive_as_they_were_and_ids_go_once(tmp_path: Path) -> None:
    sink = RecordingSink(lanes=1)
    rows = [row(b"up", k, k + 0.5, b"a" if k % 3 else b"") for k in range(5)] + [row(b"down", 1, float("nan"))]
    more = [row(b"up", 9, 1.0), row(b"left", 2, -0.0)]
    sizes: list[int] = []
    async with open_hub([QueuedSink(sink, QueueOptions())], tmp_path, Registry().scope("sink")) as hub:
        taker = Taker(HubDirectStore(hub, [RAW, TEN_SECONDS], 20.0))

        async def take(body: bytes) -> bytes:
            sizes.append(len(body))
            return await taker.take(body)

        async with linked(tmp_path, {}, {DIRECT: take}) as (link, _):
            store = HandedStore(link, 2)
            store.set_namespaces([RAW])
            assert store.refusal(None) is None
            for batch in (rows, more, rows[:2], rows[:2]):
                assert await store.write(batch_of(store.table, batch)) == []
    expected = [*rows, *more, *rows[:2], *rows[:2]]
    found = [(one.id, one.time_ns, str(one.value), one.annotation) for one in sink.rows]
    assert found == [(one.id, one.time_ns, str(one.value), one.annotation) for one in expected]
    assert sizes[2] == sizes[3] < sizes[0]


async def test_both_ends_begin_anew_when_the_stores_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = RecordingSink(lanes=1)
    async with open_hub([QueuedSink(sink, QueueOptions())], tmp_path, Registry().scope("sink")) as hub:
        monkeypatch.setattr(hub, "_options", hub._options.__class__(most_series=3))
        taker = Taker(HubDirectStore(hub, [RAW], 20.0))
        async with linked(tmp_path, {}, {DIRECT: taker.take}) as (link, _):
            store = HandedStore(link, 2)
            batches = [[row(b"m%d" % (n + k), n, n * 10.0 + k) for k in range(2)] for n in range(12)]
            await asyncio.gather(*(store.write(batch_of(store.table, batch)) for batch in batches[:6]))
            for batch in batches[6:]:
                await store.write(batch_of(store.table, batch))
    expected = {(one.id, one.value) for batch in batches for one in batch}
    assert {(one.id, one.value) for one in sink.rows} == expected
    assert len(sink.rows) == len(expected)


async def test_refusals_and_failures_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_hub([QueuedSink(Picky(), QueueOptions())], tmp_path, Registry().scope("sink")) as hub:
        direct = HubDirectStore(hub, [RAW], 20.0)
        taker = Taker(direct)
        async with linked(tmp_path, {}, {DIRECT: taker.take}) as (link, other):
            store = HandedStore(link, 2)
            monkeypatch.setattr("coordinator.writers.direct._MOST_ROWS", 4)
            batch = batch_of(store.table, [row(b"up", k, -1.0 if k in (2, 9) else 1.0) for k in range(10)])
            refused = await store.write(batch)
            assert refused == [RefusedSample(n, Reason.REFUSED_BY_STORE, "negative") for n in (2, 9)]

            async def fail(*_: object, **__: object) -> None:
                raise DirectWriteError("not yet safe with picky")

            monkeypatch.setattr(direct, "write", fail)
            with pytest.raises(DirectWriteError, match="not yet safe with picky"):
                await store.write(batch_of(store.table, [row(b"up", 1, 1.0)]))
            other.close()
            with pytest.raises(DirectWriteError, match="main process"):
                await store.write(batch_of(store.table, [row(b"up", 1, 1.0)]))
