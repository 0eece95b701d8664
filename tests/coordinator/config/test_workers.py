"""How many processes take writes, and what each of them may take."""

import os
from pathlib import Path

import pytest

from coordinator.config import load_coordinator
from coordinator.config.workers import ALL, Shares, share_in_use, shares_of, worker_count
from m3x.config import ConfigError

CARBON = "carbon: {ingester: {listenAddress: 127.0.0.1:0}}\n"


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        ("workers: 3", 0, 3),
        ("workers: 3", 2, 2),
        ("workers: 1", 0, 1),
        ("{}", 5, 5),
        ("{}", 0, len(os.sched_getaffinity(0))),
        ("{workers: 4, backend: noop-etcd}", 0, 1),
    ],
)
def test_the_command_line_wins_and_nobody_takes_writes_where_there_are_none(
    tmp_path: Path, text: str, wanted: int, expected: int
) -> None:
    (tmp_path / "c.yml").write_text(text)
    assert worker_count(load_coordinator([tmp_path / "c.yml"]).value, wanted) == expected


def test_fewer_than_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("workers: -1")
    with pytest.raises(ConfigError, match="workers must not be negative, found -1"):
        load_coordinator([tmp_path / "c.yml"])


@pytest.mark.parametrize(
    ("text", "workers", "main", "each"),
    [("{}", 1, ALL, ALL), ("{}", 4, Shares(0), Shares(4)), (CARBON, 4, Shares(5), Shares(5)), (CARBON, 1, ALL, ALL)],
)
def test_limits_are_shared_out(tmp_path: Path, text: str, workers: int, main: Shares, each: Shares) -> None:
    """The main process takes carbon, if anything."""
    (tmp_path / "c.yml").write_text(text)
    assert shares_of(load_coordinator([tmp_path / "c.yml"]).value, workers) == (main, each)
    limit = 1000
    assert main.of(limit) + workers * each.of(limit) <= (limit if workers > 1 else 2 * limit)


def test_what_comes_over_connections_is_shared_among_those_that_take_them(tmp_path: Path) -> None:
    for text, carbon in (("{}", 0), (CARBON, 1)):
        (tmp_path / "c.yml").write_text(text)
        config = load_coordinator([tmp_path / "c.yml"]).value
        assert [share_in_use(config, in_use).parts for in_use in (1, 3)] == [1 + carbon, 3 + carbon]


def test_a_share_has_room_for_what_must_fit() -> None:
    assert [Shares(parts).of(1000, 100) for parts in (1, 4, 50, 0)] == [1000, 250, 100, 0]
    assert Shares(4).of(40, 100) == 40


@pytest.mark.parametrize("found", ["-0.1", "1", "1.5"])
def test_a_bound_that_is_never_or_always_reached_is_refused(tmp_path: Path, found: str) -> None:
    (tmp_path / "c.yml").write_text(f"nextWorkerAt: {found}")
    with pytest.raises(
        ConfigError, match=r"nextWorkerAt must be at least 0 \(all take connections\) and below 1, found"
    ):
        load_coordinator([tmp_path / "c.yml"])
