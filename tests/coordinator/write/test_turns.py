"""Large bodies are decoded in steps: neighbours go on, and what comes out is the same."""

import asyncio
import gzip
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from tests.coordinator.write.otlp import requests as otlp
from tests.coordinator.write.test_answers import QUIET, SetUp, world_of
from tests.coordinator.write.test_remote_write import PATH, body, series

from coordinator.write import RemoteWriter, remote_write, remote_write_routes, sender_routes, steps
from coordinator.write.decoding import Decoded
from coordinator.write.influx import MAX_LINE_BYTES, Influx
from coordinator.write.options import BadRequestError, WriteOptions
from coordinator.write.otlp import OTLP
from coordinator.write.steps import Steps
from coordinator.write.turns import LARGE_BYTES, Turns
from m3x.instrument import Registry

LINES = b"".join(b"cpu,host=h%d usage=%d,idle=1 1700000000000000000\n" % (n % 700, n) for n in range(3000))
QUOTED = b'note text="a b"\n' + LINES


def exported(points: int = 2500) -> bytes:
    metric = {"name": "g", "gauge": {"data_points": [otlp.point(n, {"host": str(n)}) for n in range(points)]}}
    return bytes(otlp.request(metric, resource={"service.name": "s", "host.name": "h"}).SerializeToString())


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have their turn after every step."""
    monkeypatch.setattr(steps, "TURN_S", 0.0)


@pytest.mark.parametrize(
    ("sender", "options", "data"),
    [
        (Influx(), WriteOptions(), LINES),
        (Influx(), WriteOptions(), QUOTED),
        (Influx(), WriteOptions(encoding="gzip"), gzip.compress(LINES, 0)),
        (OTLP(), WriteOptions(dialect="application/x-protobuf"), exported()),
    ],
    ids=["lines", "quoted", "gzip", "otlp"],
)
@pytest.mark.usefixtures("eager")
async def test_others_have_their_turn_and_the_columns_are_the_same(
    sender: Any, options: WriteOptions, data: bytes
) -> None:
    assert len(data) >= LARGE_BYTES
    had = 0

    async def other() -> None:
        nonlocal had
        while True:
            await asyncio.sleep(0)
            had += 1

    task = asyncio.create_task(other())
    try:
        found = await Turns().decoded(sender, data, options)
    finally:
        task.cancel()
    assert had >= 10
    expected = sender.decode(data, options)
    for column in ("buf", "times", "values"):
        assert np.array_equal(getattr(found, column), getattr(expected, column))
    assert found.series.tobytes() == expected.series.tobytes()


async def test_what_takes_long_by_itself_runs_in_a_thread() -> None:
    class Slow:
        def steps(self, body: bytes, options: WriteOptions) -> Steps[Decoded]:
            thread = yield threading.get_ident
            assert thread != threading.get_ident()
            return Influx().decode(body, options)

    found = await Turns().decoded(Slow(), LINES, WriteOptions())  # type: ignore[arg-type]
    assert found.samples() == 6000


async def test_what_is_wrong_is_said() -> None:
    with pytest.raises(BadRequestError, match="gzip"):
        await Turns().decoded(Influx(), b"x" * LARGE_BYTES, WriteOptions(encoding="gzip"))


@pytest.mark.usefixtures("eager")
async def test_a_neighbour_is_answered_before_a_large_body_is_done(
    make_writer: Callable[..., RemoteWriter], registry: Registry, sink: Any
) -> None:
    writer = make_writer()
    app = Starlette(routes=[*remote_write_routes(writer), *sender_routes(writer, registry.scope("test"))])
    answered = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:

        async def post(name: str, path: str, content: bytes) -> None:
            answer = await client.post(path, content=content)
            answered.append((name, answer.status_code))

        large = asyncio.create_task(post("large", "/api/v1/influxdb/write", LINES))
        await asyncio.sleep(0)
        await asyncio.gather(post("small", PATH, body(series({"__name__": "up"}, 1.0))), large)
    assert answered == [("small", 200), ("large", 204)]
    assert len(sink.metrics) == 6001


@pytest.mark.parametrize("front", [b"", b'note text="a b"\n'])
def test_a_line_that_would_take_too_long_is_refused(front: bytes) -> None:
    long = b"cpu " + b",".join(b"f%d=1" % n for n in range(MAX_LINE_BYTES // 4)) + b"\n"
    found = Influx().decode(front + long + b"cpu usage=1\n", WriteOptions())
    assert (found.samples(), found.unread) == (1, 1)
    assert "it is longer than 1048576 bytes" in found.last_unread


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("sender", ["influx", "remote-write"])
async def test_rules_that_change_meanwhile_hold_for_the_whole_request(
    sender: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is encoded anew: what was remembered under other rules would be wrong for ever."""
    monkeypatch.setattr(remote_write, "_ROWS_OF_A_STEP", 10)
    names = [f"m{n}" for n in range(100)]
    lines = b"".join(b"m%d v=1\n" % n for n in range(100))
    bodies = {
        "influx": ("/api/v1/influxdb/write", lines),
        "remote-write": (PATH, body(*(series({"__name__": name}, 1.0) for name in names))),
    }
    path, content = bodies[sender]
    async with world_of(SetUp(), tmp_path, monkeypatch) as world:
        taken, advance = 0, type(world.downsampler).advance

        def counted(downsampler: Any, now_ns: int) -> int:
            nonlocal taken
            taken += 1
            if taken == 5:
                world.downsampler.set_namespaces([QUIET])
            return advance(downsampler, now_ns)

        monkeypatch.setattr(type(world.downsampler), "advance", counted)
        answer = await world.post(content, {}, path)
        assert answer.status_code in (200, 204)
        assert (world.ends(), world.counted()['samples_not_kept{reason="no-rule"}']) == ({}, 100)
        assert taken > 5
