"""Who may have a directory, and of which format it is."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m3x.segments import DirectoryError, DirectoryLocked, SegmentLog, VersionError

HOLDER = """
import sys, pathlib
from m3x.segments import SegmentLog
log = SegmentLog(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""

FORKING = """
import os, sys, pathlib
from m3x.segments import SegmentLog
log = SegmentLog(pathlib.Path(sys.argv[1]))
if os.fork() == 0:
    print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DirectoryLocked) as caught:
            SegmentLog(path)
        expected = (
            rf"{path} is in use by process {other.pid} \(since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\): "
            "stop that process, or give this one a directory of its own"
        )
        assert re.fullmatch(expected, str(caught.value))
        other.send_signal(signal.SIGKILL)
        other.wait()
    SegmentLog(path).close()


def test_this_process_has_it_once(tmp_path: Path) -> None:
    with SegmentLog(tmp_path), pytest.raises(DirectoryLocked, match=f"in use by process {os.getpid()} "):
        SegmentLog(tmp_path)
    SegmentLog(tmp_path).close()


def test_a_forked_child_does_not_hold_it(tmp_path: Path) -> None:
    """A child without exec lives on for a while when its parent is killed: one that writes a snapshot, say."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKING, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "held\n"
        with pytest.raises(DirectoryLocked):
            SegmentLog(tmp_path)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        SegmentLog(tmp_path).close()
        # The child, which reads the same pipe, ends now.


def test_an_unknown_version_is_left_alone(tmp_path: Path) -> None:
    with SegmentLog(tmp_path) as log:
        log.append([b"kept"])
    (tmp_path / "format").write_text(json.dumps({"format": "m3x.segments", "version": 2, "run": 1, "more": {}}))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    with pytest.raises(VersionError, match="has format version 2, this release reads version 1: run the release that"):
        SegmentLog(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"} == before


def test_another_format_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "format").write_text(json.dumps({"format": "other", "version": 1}))
    with pytest.raises(VersionError, match="has format version 1 of 'other', this release reads version 1"):
        SegmentLog(tmp_path)


@pytest.mark.parametrize(
    "written", [None, b"", b"\xff\x00", b"[]", b"{}", b'{"format": "m3x.segments", "version": 1, "run": "x"}']
)
def test_without_the_format_file_segments_tell_the_version(tmp_path: Path, written: bytes | None) -> None:
    with SegmentLog(tmp_path) as log:
        end = log.append([b"kept"]).end
    file = tmp_path / "format"
    file.unlink() if written is None else file.write_bytes(written)
    (segment,) = tmp_path.glob("*.segment")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:8] + b"\x07" + whole[9:])
    with pytest.raises(VersionError, match="has format version 7"):
        SegmentLog(tmp_path)
    segment.write_bytes(whole)
    with SegmentLog(tmp_path) as log:
        assert [bytes(record.data) for record in log.reader()] == [b"kept"]
        assert log.append([b"new"]).start > end
    assert json.loads(file.read_bytes()) == {"format": "m3x.segments", "version": 1, "run": 2}
    assert (tmp_path / "format.damaged").exists() == (written is not None)


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryError, match=r"/file/log: Not a directory \(ENOTDIR\); the directory must be writable"):
        SegmentLog(tmp_path / "file" / "log")
