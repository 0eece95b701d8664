"""Real processes that are killed with -9 in the middle of appends."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m3x.segments import SegmentLog

WRITER = """
import pathlib, random, sys
from m3x.segments import SegmentLog
path, sync, first = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
log = SegmentLog(path, sync=sync, segment_bytes=3_000_000)
for n in range(first, first + 100_000):
    log.append([b"%d:" % n, bytes([n % 256]) * random.Random(n).randrange(400_000)])
    log.flush()
    print(n, flush=True)
"""


@pytest.mark.parametrize("sync", ["os", "always"])
def test_what_was_acknowledged_is_there(tmp_path: Path, sync: str) -> None:
    chosen = random.Random(sync)
    first = 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), sync, str(first)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(chosen.randrange(1, 40)):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        with SegmentLog(tmp_path) as log:
            found = []
            for record in log.reader():
                number, _, filling = bytes(record.data).partition(b":")
                found.append(int(number))
                assert filling == bytes([found[-1] % 256]) * random.Random(found[-1]).randrange(400_000)
            assert found == list(range(found[0], found[-1] + 1))
            assert found[0] == 0
            assert found[-1] >= acknowledged
            assert all("was not written to its end" in str(damage) for damage in log.damage)
            first = found[-1] + 1
