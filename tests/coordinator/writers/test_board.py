"""Whose turn it is, and who remembers what."""

import hashlib
import os
from collections.abc import Iterator

import pytest

from coordinator.writers.board import KEY_BYTES, Board, Place

SECOND = 10**9


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.made(3)
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
    one.have(4)
    assert not one.has_too_many(), "nobody else takes any"
    other.live()
    assert one.has_too_many()
    assert not one.has_too_many(), "the one that was ended is on its way"
    board.now_ns = lambda: 101 * SECOND
    assert one.has_too_many()
    one.have(1)
    board.now_ns = lambda: 102 * SECOND
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
