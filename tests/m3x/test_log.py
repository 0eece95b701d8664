"""Log lines."""

import errno
import io
import json
import os

import pytest

from m3x import log


def test_lines_are_json_with_fields() -> None:
    stream = io.StringIO()
    log.configure("info", stream, process="front")
    try:
        out = log.logger("x")
        out.debug("not shown")
        out.info("listening", port=6000)
        out.error("broke", exception=ValueError("why"))
    finally:
        log.configure("info")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["msg"], first["port"], first["process"], first["level"]) == ("listening", 6000, "front", "info")
    assert second["error"] == "ValueError: why"


def test_limited_lines_say_how_many_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    log.configure("info", stream)
    try:
        out = log.logger("x")
        for _ in range(5):
            out.warning_limited("bad frame", reason="size")
        now[0] += 1.5
        out.warning_limited("bad frame", reason="size")
    finally:
        log.configure("info")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 2
    assert lines[1]["left_out"] == 4


def test_texts_that_lines_are_limited_by_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    log.configure("info", io.StringIO())
    before = log.left_out()
    try:
        out = log.logger("x")
        for k in range(5000):
            now[0] += 0.01
            for _ in range(2):
                out.warning_limited(f"text {k}")
    finally:
        log.configure("info")
    assert len(out._limits) <= 1200
    assert log.left_out() == before + 5000


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown log level 'loud'"):
        log.configure("loud")


def test_fields_may_have_any_name() -> None:
    stream = io.StringIO()
    log.configure("info", stream, level="high", stream="left")
    try:
        log.logger("x").info("hello")
    finally:
        log.configure("info")
    assert json.loads(stream.getvalue())["stream"] == "left"


class Disk(io.StringIO):
    """Takes lines only while there is room."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_a_full_disk_takes_no_lines_and_ends_nothing() -> None:
    stream = Disk()
    log.configure("info", stream)
    try:
        out = log.logger("x")
        stream.full = True
        out.error("not written")
        stream.full = False
        out.info("written")
    finally:
        log.configure("info")
    assert [json.loads(line)["msg"] for line in stream.getvalue().splitlines()] == ["written"]
