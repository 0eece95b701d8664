"""A zygote of this process, which has threads: it is started, not forked."""

import json
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lab.waiting import until

from m3x.processes import Zygote

ROOT = Path(__file__).resolve().parents[3]
PRELOADED = "tests.m3x.processes.preloaded"
CHILD = "tests.m3x.processes.a_child"


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
async def zygote(importable: None) -> AsyncIterator[Zygote]:
    async with Zygote(PRELOADED) as made:
        yield made


async def told(file: Path) -> dict[str, Any]:
    """What a child says of itself."""
    await until(file.exists, what=f"the child that writes {file.name}")
    return _read(file)


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def no_more_files(pid: int) -> tuple[int, int]:
    """A zygote can be given no descriptor any more; returns its limits."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    return resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, before[1]))


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """All that have this parent, the dead among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found
