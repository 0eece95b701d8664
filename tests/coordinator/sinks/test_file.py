"""Lines of JSON in a file."""

import asyncio
import errno
import json
import os
import select
from pathlib import Path
from typing import Any

import pytest
from lab.waiting import until
from tests.coordinator.sinks.batches import LONG, SHORT, Row, batch_of

from coordinator.sinks.file import FileSink
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import RefusedWhy, TryAgainError
from coordinator.sinks.values import UNAGGREGATED
from m3metrics.ids import encode_tags

UP = encode_tags([(b"__name__", b"up"), (b"job", b"api")])
MS = 1_000_000


async def _deliver(sink: FileSink, *rows: Row) -> None:
    assert (await sink.deliver(batch_of(SeriesTable(), rows), again=False)).refused == []


def _times(path: Path) -> list[int]:
    return [json.loads(line)["time_ms"] for line in path.read_text().splitlines()]


async def test_a_line_for_each_value(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "values.json"
    sink = FileSink(str(path), None)
    odd = encode_tags([(b"__name__", b"\xff"), (b"b", b"1")])
    values = [1.5, float("nan"), float("inf"), float("-inf")]
    rows = [Row(UP, 5 * MS + 999_999, value, SHORT) for value in values]
    await _deliver(sink, *rows, Row(odd, -1, 0.1, LONG), Row(UP, 7 * MS, 2.0, UNAGGREGATED))
    await sink.close()
    found: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    up = {"__name__": "up", "job": "api"}
    assert found == [
        *({"labels": up, "time_ms": 5, "value": shown, "policy": "10s:2d"} for shown in (1.5, "NaN", "+Inf", "-Inf")),
        {"labels": {"__name__": "\ufffd", "b": "1"}, "time_ms": 0, "value": 0.1, "policy": str(LONG)},
        {"labels": up, "time_ms": 7, "value": 2.0, "policy": "unaggregated"},
    ]


async def test_each_label_is_there_once_and_has_a_value(tmp_path: Path) -> None:
    path = tmp_path / "values"
    sink = FileSink(str(path), None)
    twice = encode_tags([(b"a", b""), (b"a", b"1"), (b"a", b"2"), (b"b", b"")])
    batch = batch_of(SeriesTable(), [Row(twice, MS), Row(encode_tags([(b"a", b"")]), 2 * MS)])
    [refused] = (await sink.deliver(batch, again=False)).refused
    await sink.close()
    assert (refused.why, refused.rows.tolist()) == (RefusedWhy.BAD_ID, [1])
    assert [json.loads(line)["labels"] for line in path.read_text().splitlines()] == [{"a": "1"}]


async def test_ids_that_are_no_tag_set_have_no_line(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "values"), None)
    batch = batch_of(SeriesTable(), [Row(b"plain", MS), Row(UP, 2 * MS), Row(b"plain", 3 * MS)])
    [refused] = (await sink.deliver(batch, again=False)).refused
    await sink.close()
    assert (refused.why, refused.rows.tolist()) == (RefusedWhy.BAD_ID, [0, 2])
    assert _times(tmp_path / "values") == [2]


async def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "values"
    sink = FileSink(str(path), None)
    await _deliver(sink, Row(UP, MS))
    path.rename(tmp_path / "values.1")
    await _deliver(sink, Row(UP, 2 * MS))
    path.unlink()
    await _deliver(sink, Row(UP, 3 * MS))
    await sink.close()
    assert (_times(tmp_path / "values.1"), _times(path)) == ([1], [3])


async def test_a_batch_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "values", os.write
    sink = FileSink(str(path), None)
    await _deliver(sink, Row(UP, MS))
    whole, room = path.read_bytes(), [20]

    def write(descriptor: int, data: memoryview) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[: room.pop()])

    with monkeypatch.context() as patch:
        patch.setattr("coordinator.sinks.file.os.write", write)
        with pytest.raises(TryAgainError, match="No space left on device"):
            await _deliver(sink, Row(UP, 2 * MS))
    assert path.read_bytes() == whole
    await _deliver(sink, Row(UP, 2 * MS))
    await sink.close()
    assert _times(path) == [1, 2]


async def test_half_a_line_of_a_process_that_was_killed_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_text('{"labels": {"__na')
    sink = FileSink(str(path), None)
    await _deliver(sink, Row(UP, MS))
    await sink.close()
    half, whole = path.read_text().splitlines()
    assert half == '{"labels": {"__na'
    assert json.loads(whole)["time_ms"] == 1


def test_which_values_it_takes() -> None:
    assert FileSink("-", None).takes(SHORT)
    some = FileSink("-", frozenset({SHORT.attributes, (0, 0)}))
    assert [some.takes(one) for one in (SHORT, LONG, UNAGGREGATED)] == [True, False, True]


async def test_closing_ends_a_write_that_nobody_reads(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        sink = FileSink(str(path), None)
        batch = batch_of(SeriesTable(), [Row(UP, k * MS) for k in range(5000)])
        writing = asyncio.create_task(sink.deliver(batch, again=False))
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        room = select.poll()
        room.register(writer, select.POLLOUT)
        await until(lambda: not room.poll(0))
        os.close(writer)
        assert not writing.done()
        await sink.close()
        with pytest.raises(TryAgainError):
            await asyncio.wait_for(writing, 20)
    finally:
        os.close(reader)
