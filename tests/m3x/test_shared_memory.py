"""Memory that one process writes and another one reads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from m3x.shared_memory import SharedMemory, mapped

READER = "import sys, pathlib; from m3x.shared_memory import mapped; sys.stdout.buffer.write(mapped(pathlib.Path(sys.argv[1]))[5000:5005])"


def test_another_process_reads_what_was_written(tmp_path: Path) -> None:
    memory = SharedMemory(tmp_path / "one", 8192)
    memory.array[5000:5005] = np.frombuffer(b"bytes", np.uint8)
    assert subprocess.check_output([sys.executable, "-c", READER, str(tmp_path / "one")]) == b"bytes"
    memory.close()


def test_what_is_mapped_shows_later_writes_and_outlives_its_owner(tmp_path: Path) -> None:
    memory = SharedMemory(tmp_path / "one", 4096)
    seen = mapped(tmp_path / "one")
    assert len(seen) == 4096
    assert not seen.flags.writeable
    memory.array[7] = 42
    memory.close()
    del memory
    assert seen[7] == 42
    with pytest.raises(FileNotFoundError):
        mapped(tmp_path / "one")


def test_places_are_told_of_its_own_parts_only(tmp_path: Path) -> None:
    memory = SharedMemory(tmp_path / "one", 4096)
    assert memory.place_of(memory.array) == 0
    assert memory.place_of(memory.array[100:200]) == 100
    assert memory.place_of(np.zeros(10, np.uint8)) == -1
    memory.close()


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    with pytest.raises(FileExistsError):
        SharedMemory(tmp_path / "one", 4096)
