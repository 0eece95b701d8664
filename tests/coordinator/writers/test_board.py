"""Whose turn it is, and who remembers what."""

import hashlib
import os
from collections.abc import Iterator

import pytest

from coordinator.writers.board import KEY_BYTES, Board, Place
from coordinator.writers.use import LOOKS

SECOND = 10**9


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.made(3, in_use=3)
    made.now_ns = lambda: 100 * SECOND
    yield made
    made.close()


def key(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=KEY_BYTES).digest()


def test_a_connection_is_left_to_whoever_has_fewer(board: Board) -> None:
    one, other = Place(board, 0), Place(board, 1)
    one.live()
    assert one.pause_s(5) == 0, "there is nobody else"
    other.live()
    one.have(1)
    assert other.pause_s(0) == 0
    assert one.pause_s(1) > 0
    other.have(1)
    assert one.pause_s(1) == other.pause_s(1) == 0


def test_a_process_that_is_silent_or_ends_does_not_count(board: Board) -> None:
    one, other = Place(board, 0), Place(board, 1)
    other.live()
    assert one.pause_s(1) > 0
    board.now_ns = lambda: 103 * SECOND
    assert one.pause_s(1) == 0
    other.live()
    assert one.pause_s(1) > 0
    other.live(takes=False)
    assert one.pause_s(1) == 0


def test_two_more_than_another_are_too_many_but_not_all_at_once(board: Board) -> None:
    one, other = Place(board, 0), Place(board, 1)
    one.live()
    one.have(4)
    assert not one.has_too_many(), "nobody else takes any"
    other.live()
    assert one.has_too_many()
    assert not one.has_too_many(), "the one that was ended is on its way"
    board.now_ns = lambda: 101 * SECOND
    assert one.has_too_many()
    one.have(1)
    board.now_ns = lambda: 102 * SECOND
    one.live()
    other.live()
    assert not one.has_too_many()


def test_who_remembers_a_request(board: Board) -> None:
    assert not board.any_but(0)
    board.write(1, key(7))
    board.write(1, key(7))
    assert board.any_but(0)
    assert not board.any_but(1)
    assert board.owner(key(7), 0) == 1
    assert board.owner(key(7), 1) is None, "it is asked for others"
    assert board.owner(key(8), 0) is None
    board.erase(1, key(7))
    assert board.owner(key(7), 0) is None
    assert not board.any_but(0)
    board.erase(1, key(7))
    assert not board.any_but(0)


def test_what_a_dead_process_knew_is_gone(board: Board) -> None:
    for number in range(100):
        board.write(2, key(number))
    board.write(1, key(3))
    board.live(2)
    board.clear(2)
    assert [board.owner(key(number), 0) for number in range(5)] == [None, None, None, 1, None]
    assert not board.alive(2)


def test_as_many_as_are_ever_remembered_have_room(board: Board) -> None:
    """Two kinds of memory with 4,096 requests each, and what waits."""
    numbers = range(10_000)
    for number in numbers:
        board.write(1, key(number))
    assert all(board.owner(key(number), 0) == 1 for number in numbers)
    for number in numbers:
        board.erase(1, key(number))
    assert not board.any_but(0)


def test_other_processes_see_the_same_memory(board: Board) -> None:
    again = Board(os.dup(board.descriptor), 3, board.now_ns)
    board.write(1, key(1))
    again.have(0, 9)
    assert again.owner(key(1), 0) == 1
    assert board.connections(0) == 9
    again.close()


# --- in use


@pytest.fixture
def lazy() -> Iterator[Board]:
    """Of which one is in use."""
    made = Board.made(3, in_use=1)
    made.now_ns = lambda: 100 * SECOND
    for process in range(3):
        made.live(process)
    yield made
    made.close()


def test_one_in_use_takes_all_and_others_only_what_it_leaves(lazy: Board) -> None:
    first, second = Place(lazy, 0), Place(lazy, 1)
    assert first.pause_s(50) == 0
    assert second.pause_s(0) > 0


def test_the_next_one_takes_the_place_of_one_that_is_gone(lazy: Board) -> None:
    first, second, third = (Place(lazy, process) for process in range(3))
    first.live(takes=False)
    assert second.pause_s(50) == 0
    assert third.pause_s(0) > 0
    lazy.clear(1)
    assert third.pause_s(50) == 0


def test_whoever_is_not_in_use_any_more_ends_its_connections_one_after_the_other(lazy: Board) -> None:
    first, second = Place(lazy, 0), Place(lazy, 1)
    first.have(9)
    second.have(1)
    assert not first.has_too_many()
    assert second.has_too_many()
    assert not second.has_too_many(), "the one that was ended is on its way"
    lazy.now_ns = lambda: 101 * SECOND
    assert second.has_too_many()
    lazy.clear(0)
    lazy.now_ns = lambda: 101 * SECOND + SECOND // 2
    assert not second.has_too_many(), "nobody else is in use"


def test_one_that_comes_into_use_gets_its_part_of_the_connections(lazy: Board) -> None:
    first, second = Place(lazy, 0), Place(lazy, 1)
    first.have(2)
    assert not first.has_too_many()
    lazy.use(2)
    assert second.pause_s(0) == 0
    assert first.pause_s(2) > 0
    assert first.has_too_many()
    assert not second.has_too_many()


def test_one_that_was_away_comes_behind_those_that_took_its_place(lazy: Board) -> None:
    """What it knew of series is gone, or old; the others have learnt them."""
    first, second = Place(lazy, 0, 0.5), Place(lazy, 1, 0.5)
    first.live()
    assert lazy.used() == [0]
    lazy.clear(0)
    second.live()
    assert lazy.used() == [1]
    first.live()
    second.live()
    assert lazy.used() == [1]
    assert first.pause_s(0) > 0
    lazy.now_ns = lambda: 101 * SECOND
    lazy.use(2)
    assert lazy.used() == [1, 0]
    lazy.now_ns = lambda: 103 * SECOND
    first.live()
    lazy.now_ns = lambda: 104 * SECOND
    second.live()
    assert lazy.used() == [0, 1], "one that stood still as well"


def test_one_that_is_back_before_anybody_took_its_place_comes_behind_them_as_well(lazy: Board) -> None:
    lazy.use(1)
    assert lazy.used() == [0]
    lazy.clear(0)
    lazy.now_ns = lambda: 101 * SECOND
    lazy.live(0)
    assert lazy.used() == [1]


def test_the_first_one_in_use_says_how_many_are(lazy: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3x.process.CpuShare.since_last", lambda _: 0.5)
    places = [Place(lazy, process, 0.4) for process in range(3)]
    for place in places:
        place.live()
    for _ in range(LOOKS):
        places[1].live()
        places[2].live()
    assert lazy.in_use == 1, "that is the first one's to say, and what a start costs says nothing"
    for _ in range(2 * LOOKS):
        places[0].live()
    assert lazy.in_use == 3
    lazy.use(1)
    fixed = Place(lazy, 0)
    for _ in range(2 * LOOKS):
        fixed.live()
    assert lazy.in_use == 1, "without a bound nobody changes it"
    lazy.clear(0)
    for _ in range(2 * LOOKS):
        places[1].live()
    assert lazy.in_use == 2, "as many as live"


@pytest.mark.parametrize("how", ["buffer", "files"])
def test_what_is_full_is_busy(lazy: Board, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of aggregators that are away each process has its part to hold; and one that can take no connection needs others that can."""
    monkeypatch.setattr("m3x.process.CpuShare.since_last", lambda _: 0.0)
    place = Place(lazy, 0, 0.8)
    place.live()
    if how == "files":
        place.cannot_take()
    for _ in range(LOOKS):
        place.live(0.9 if how == "buffer" else 0.0)
    assert lazy.in_use == 2
