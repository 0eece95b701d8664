"""What a process of a coordinator takes of its memory limit, and how the limit is shared out."""

from pathlib import Path

import numpy as np
import pytest

from coordinator.config import CoordinatorConfig, load_coordinator
from coordinator.config.memory import memory_shares
from coordinator.config.workers import ALL
from coordinator.memory import MemoryUse
from coordinator.writing import Writing
from m3x.config import ConfigError, Places
from m3x.instrument import Registry
from m3x.memory import MemoryLimit, memory_limit
from m3x.process import own_bytes

MIB = 1 << 20
REMOTE = "downsample: {remoteAggregator: {client: {type: m3msg, m3msg: {producer: {writer: {topicName: t}}}}}}\n"


def config_of(tmp_path: Path, text: str) -> CoordinatorConfig:
    file = tmp_path / "c.yml"
    file.write_text(text)
    return load_coordinator([str(file)]).value


def test_more_than_its_share_is_said_as_long_as_it_lasts() -> None:
    registry = Registry()
    use = MemoryUse(MemoryLimit(300 * MIB, "memoryLimitBytes"), registry.scope(), 3)
    use.look(100 * MIB)
    assert use.notes() == []
    use.look(101 * MIB)
    (note,) = use.notes()
    assert note.startswith("a process takes more than its 100 MiB of the memory limit (memoryLimitBytes)")
    use.look(99 * MIB)
    assert use.notes() == []
    assert b"memory_used_bytes 1.03809024e+08" in registry.render()
    assert b"memory_limit_bytes 1.048576e+08" in registry.render()


def test_figures_of_a_series_cache_are_told(tmp_path: Path) -> None:
    writing = Writing(config_of(tmp_path, REMOTE), tmp_path, Places(), ALL)
    cache = writing.cache()
    buf = np.frombuffer(bytearray(b"one.pathother.path"), np.uint8)
    at, size = np.array([0, 8], np.uint32), np.array([8, 10], np.uint32)
    for _ in range(2):
        cache.resolve(buf, at, size, np.zeros(2, np.uint64), lambda _row: [])
        writing.memory.look(1)
    page = writing.registry.render().decode()
    assert "series_cache_series 2.0" in page
    assert "series_cache_new_series 2.0" in page
    assert "series_cache_unremembered_series 0.0" in page
    assert "series_cache_bytes" in page


def test_without_a_limit_nothing_is_said() -> None:
    use = MemoryUse(MemoryLimit(0, "memoryLimitBytes: -1"), Registry().scope())
    use.look(1 << 50)
    assert use.notes() == []


def test_memory_of_a_process_is_without_what_it_shares() -> None:
    before = own_bytes()
    block = bytearray(64 * MIB)
    block[::4096] = b"x" * len(block[::4096])
    assert 60 * MIB < own_bytes() - before < 70 * MIB
    assert own_bytes(1 << 30) == 0


@pytest.mark.parametrize("limit", [256 * MIB, 4096 * MIB])
@pytest.mark.parametrize("sinks", [1, 7])
def test_shares_of_a_coordinator_with_aggregators_are_at_most_the_limit(limit: int, sinks: int) -> None:
    shares = memory_shares(limit, sinks, inside=False)
    taken = shares.store + shares.write_cache + shares.buffer + sinks * shares.sink_window + shares.bodies
    assert limit // 2 < taken <= limit
    assert shares.windows == 0


def test_parts_are_cut_down_to_their_shares(tmp_path: Path) -> None:
    config = config_of(tmp_path, f"memoryLimitBytes: {256 * MIB}\n{REMOTE}")
    assert config.memory == MemoryLimit(256 * MIB, "memoryLimitBytes")
    assert (config.memory_shares.buffer, config.memory_shares.write_cache) == (32 * MIB, 64 * MIB)
    cache = Writing(config, tmp_path, Places(), ALL).cache()
    assert cache._limit == 64 * MIB


def test_what_the_file_says_of_the_series_cache_wins(tmp_path: Path) -> None:
    config = config_of(tmp_path, f"memoryLimitBytes: {256 * MIB}\nwriteCache: {{maxBytes: {100 * MIB}}}\n{REMOTE}")
    assert Writing(config, tmp_path, Places(), ALL).cache()._limit == 100 * MIB


def test_the_default_is_half_of_what_there_is_and_it_can_be_turned_off(tmp_path: Path) -> None:
    half = memory_limit(0)
    assert config_of(tmp_path, REMOTE).memory == half
    off = config_of(tmp_path, f"memoryLimitBytes: -1\n{REMOTE}")
    assert off.memory.nbytes == 0
    assert off.memory_shares == memory_shares(max(half.nbytes, 256 * MIB), 1, inside=False)
    with pytest.raises(ConfigError, match="memoryLimitBytes must be 0, -1 .no limit. or at least"):
        config_of(tmp_path, f"memoryLimitBytes: 1000\n{REMOTE}")
