"""Direct writes: what is more than a record of a queue holds, and what stores are told beside the numbers."""

from pathlib import Path
from typing import Any

import cramjam
import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from tests.coordinator.sinks.batches import RecordingSink, Row
from tests.coordinator.write.conftest import TEN_SECONDS

from coordinator.config import Namespace
from coordinator.downsample import Downsampler
from coordinator.not_kept import Reason
from coordinator.prompb import WRITE_REQUEST
from coordinator.sinks import Delivered, Destination, QueuedSink, QueueOptions, Refused, RefusedWhy, Values, open_hub
from coordinator.sinks.values import UNAGGREGATED, TimeUnit
from coordinator.write import RemoteWriter, SeriesCache, direct, remote_write_routes
from coordinator.write.direct import HubDirectStore, RefusedSample, one_destination
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3x.instrument import Registry
from m3x.protobuf import marshal

PATH = "/api/v1/prom/remote/write"
COUNTER = b"\x08\x01\x10\x01"


class Picky:
    """Refuses negative values; remembers how many rows it was given at a time."""

    name, ordered, lanes, batch_rows, gather_s = "picky", True, 1, 1000, 0.0

    def __init__(self) -> None:
        self.values: list[float] = []

    def takes(self, destination: Destination) -> bool:
        return True

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        self.values += batch.values.tolist()
        rows = np.flatnonzero(batch.values < 0)
        return Delivered([Refused(RefusedWhy.BAD_REQUEST, rows, "negative")] if len(rows) else [])

    async def close(self) -> None:
        pass


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(direct, "_MOST_ROWS", 10)
    return 10


async def test_a_large_batch_is_written_in_pieces_and_refusals_keep_their_rows(tmp_path: Path, pieces: int) -> None:
    sink = Picky()
    async with open_hub([QueuedSink(sink, QueueOptions())], tmp_path, Registry().scope("sink")) as hub:
        store = HubDirectStore(hub, [Namespace("raw", 0, 10**12)], 20.0)
        table = store.table
        values = np.arange(2 * pieces + 5, dtype=np.float64)
        values[[3, 2 * pieces + 1]] = -1.0
        series = np.full(len(values), table.number(encode_tags([(b"__name__", b"up")])), np.uint32)
        batch = one_destination(table, series, np.arange(len(values)) * 10**9, values, UNAGGREGATED)
        refused = await store.write(batch)
    assert refused == [RefusedSample(row, Reason.REFUSED_BY_STORE, "negative") for row in (3, 2 * pieces + 1)]
    assert sink.values == values.tolist()


def _body(*series: dict[str, Any]) -> bytes:
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE_REQUEST, {"timeseries": list(series)})))


def _series(name: bytes, *values: float, **more: int) -> dict[str, Any]:
    samples = [{"value": value, "timestamp": 1_000 + k} for k, value in enumerate(values)]
    return {"labels": [{"name": b"__name__", "value": name}], "samples": samples, **more}


async def _written(directory: Path, bodies: list[bytes], headers: dict[str, str], *, types: bool) -> list[Row]:
    sink = RecordingSink(lanes=1)
    async with open_hub([QueuedSink(sink, QueueOptions())], directory, Registry().scope("sink")) as hub:
        direct = HubDirectStore(hub, [Namespace("raw", 0, 10**12), TEN_SECONDS], 20.0)
        writer = RemoteWriter(
            Downsampler([]), SeriesCache(4096, 8 << 20), None, Registry().scope("test"), store_metrics_type=types,
            direct=direct,
        )  # fmt: skip
        app = Starlette(routes=list(remote_write_routes(writer)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            for body in bodies:
                assert (await client.post(PATH, content=body, headers=headers)).status_code == 200
    return sink.rows


_MIXED = _body(
    _series(b"up", 1.0, 2.0),
    _series(b"requests_total", 3.0, type=1),
    _series(b"requests_total", 4.0, type=1),
    _series(b"path.of.graphite", 5.0, source=1, m3_type=1),
    _series(b"up", 6.0, type=2),
)


async def test_samples_that_are_stored_as_they_come_have_the_type_of_their_metric_and_milliseconds(
    tmp_path: Path,
) -> None:
    headers = {"M3-Metrics-Type": "unaggregated"}
    rows = await _written(tmp_path / "a", [_MIXED, _body(_series(b"up", 7.0)), _MIXED], headers, types=True)
    once = [(1.0, b""), (2.0, b""), (3.0, COUNTER), (4.0, COUNTER), (5.0, b"\x18\x01\x20\x01"), (6.0, b"\x08\x02")]
    assert [(row.value, row.annotation) for row in rows] == [*once, (7.0, b""), *once]
    assert {row.destination for row in rows} == {UNAGGREGATED}
    rows = await _written(tmp_path / "b", [_MIXED], headers, types=False)
    assert [row.annotation for row in rows] == [b""] * 6


async def test_samples_for_a_policy_have_milliseconds_whatever_its_precision(tmp_path: Path) -> None:
    headers = {"M3-Metrics-Type": "aggregated", "M3-Storage-Policy": "10s:6h"}
    rows = await _written(tmp_path, [_MIXED], headers, types=True)
    policy = StoragePolicy.parse("10s:6h")
    assert {row.destination for row in rows} == {Destination(policy, TimeUnit.MILLISECONDS)}
    assert Destination.of(policy).unit is TimeUnit.SECONDS
    assert [row.annotation for row in rows[2:4]] == [COUNTER, COUNTER]
