"""A value that survives whatever happens to the write that replaces it."""

import errno
import os
from pathlib import Path

import msgspec
import pytest

from m3x.segments import MAX_CURSOR, AppendError, Cursor, Position, SegmentLog
from m3x.segments import cursor as cursor_module


class Consumed(msgspec.Struct):
    position: Position
    lanes: list[int] = []


def reopened(path: Path) -> Consumed | None:
    cursor = Cursor(path, Consumed)
    cursor.close()
    return cursor.value


def value(n: int) -> Consumed:
    return Consumed(Position(n << 36, n), list(range(n % 7)))


def test_the_last_value_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "sink.cursor"
    assert reopened(path) is None
    for n in range(10):
        cursor = Cursor(path, Consumed)
        assert cursor.value == (value(n - 1) if n else None)
        cursor.write(value(-1))
        cursor.write(value(n))
        cursor.sync()
        assert cursor.value == value(n)
        cursor.close()
    assert path.stat().st_size <= 8192


def test_a_torn_write_leaves_the_value_before(tmp_path: Path) -> None:
    """Every prefix of a write, as the begin of what the slot held before."""
    path = tmp_path / "sink.cursor"
    cursor = Cursor(path, Consumed)
    states = [b""]
    for n in range(6):
        cursor.write(value(n))
        states.append(path.read_bytes())
    cursor.close()
    for n in range(2, 6):
        before, after = states[n].ljust(8192, b"\0"), states[n + 1].ljust(8192, b"\0")
        changed = [at for at in range(8192) if before[at] != after[at]]
        for cut in range(changed[0] + 1, changed[-1] + 1):
            path.write_bytes(after[:cut] + before[cut:])
            assert reopened(path) == value(n - 1)
        path.write_bytes(after)
        assert reopened(path) == value(n)


def test_flipped_bits_leave_the_other_value(tmp_path: Path) -> None:
    path = tmp_path / "sink.cursor"
    cursor = Cursor(path, Consumed)
    cursor.write(value(3))
    cursor.write(value(4))
    cursor.close()
    whole = path.read_bytes()
    for at in [n for n in range(len(whole)) if whole[n]]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert reopened(path) == value(4 if at >= 4096 else 3)


def test_a_file_without_a_good_value_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SegmentLog(tmp_path) as log:
        (tmp_path / "sink.cursor").write_bytes(b"something else")
        cursor = log.cursor("sink", Consumed)
        assert cursor.value is None
        assert cursor.aside == "sink.cursor.damaged"
        assert "a cursor cannot be read" in capsys.readouterr().err
        cursor.write(value(1))
        cursor.close()
        again = log.cursor("sink", Consumed)
        assert (again.value, again.aside) == (value(1), "")
        again.close()
    assert (tmp_path / "sink.cursor.damaged").read_bytes() == b"something else"


def test_a_value_of_another_kind_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "sink.cursor"
    first = Cursor(path, int)
    first.write(7)
    first.close()
    second = Cursor(path, Consumed)
    assert (second.value, second.aside) == (None, "sink.cursor.damaged")
    second.close()


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "sink.cursor", bytes)
    cursor.write(bytes(MAX_CURSOR - 3))
    with pytest.raises(ValueError, match=f"a cursor of {MAX_CURSOR + 1} bytes; at most {MAX_CURSOR}"):
        cursor.write(bytes(MAX_CURSOR - 2))
    cursor.write(b"")
    cursor.close()


def test_a_full_disk_leaves_the_old_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "sink.cursor"
    cursor = Cursor(path, Consumed)
    cursor.write(value(1))
    with monkeypatch.context() as patch:
        patch.setattr(cursor_module.os, "pwrite", full)
        with pytest.raises(AppendError, match="No space left"):
            cursor.write(value(2))
    assert cursor.value == value(1) == reopened(path)
    cursor.write(value(3))
    cursor.close()
    assert reopened(path) == value(3)
