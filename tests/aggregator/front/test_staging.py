"""Where the bytes of a batch lie on their way to a worker."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator.front.flow import Batch
from aggregator.front.intake import BufferPool, Staging
from m3x.shared_memory import SharedMemory, as_writeable, mapped

SIZE = 1 << 17
BUFFERS = 4
SMALL, MIDDLE, LARGE = 1000, 20_000, 100_000


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SharedMemory]:
    memory = SharedMemory(tmp_path / "front.memory", BUFFERS * SIZE)
    yield memory
    memory.close()


def batch_of(staging: Staging, nbytes: int) -> Batch:
    connection: Any = SimpleNamespace(id=1, since_ns=0, host_number=2, outstanding=0)
    staging.buffer[:nbytes] = nbytes % 251
    staging.add(connection, nbytes, 1, now_ns=1, mono_ns=1)
    return staging.cut()


def test_what_is_not_small_lies_in_the_memory_that_workers_map(memory: SharedMemory, tmp_path: Path) -> None:
    staging, seen = Staging(BufferPool(SIZE, memory)), as_writeable(mapped(tmp_path / "front.memory"))
    assert seen.flags.writeable
    for nbytes in (MIDDLE, LARGE):
        batch = batch_of(staging, nbytes)
        assert batch.at >= 0
        assert seen[batch.at : batch.at + nbytes].tobytes() == batch.payload.tobytes() == bytes([nbytes % 251]) * nbytes
    small = batch_of(staging, SMALL)
    assert (small.at, small.buffer) == (-1, None)
    assert small.payload == bytes([SMALL % 251]) * SMALL


def test_while_half_of_it_is_in_use_only_large_batches_take_more(memory: SharedMemory) -> None:
    pool = BufferPool(SIZE, memory)
    staging = Staging(pool)
    held = []
    while not pool.short:
        held.append(batch_of(staging, MIDDLE))
    assert [batch.at >= 0 for batch in held] == [True] * len(held)
    assert held
    assert batch_of(staging, MIDDLE).at == -1
    large = batch_of(staging, LARGE)
    assert large.at >= 0
    for batch in (*held, large):
        pool.give(batch.buffer)
    assert not pool.short
    assert batch_of(staging, MIDDLE).at >= 0


def test_without_such_memory_batches_of_some_size_are_copied() -> None:
    staging = Staging(BufferPool(SIZE))
    assert [batch_of(staging, nbytes).at for nbytes in (SMALL, MIDDLE, LARGE)] == [-1, -1, -1]
