"""What a watcher of the stack sees: every window once, when all of it is there."""

from typing import Any

import pytest
from lab.stack.board import TELLING, Board, Row, as_line, as_table, next_flush_s
from lab.stack.judge import ROLLUP_DELAY_S
from rich.console import Console

ALL = dict.fromkeys(TELLING, 1.5)
POLICY = "10s:2d"


def test_a_window_is_shown_once_when_all_telling_series_are_in_it() -> None:
    board, there = Board(), {100: dict(list(ALL.items())[:2])}
    board.stored(100, POLICY, 260)
    assert board.complete(115, lambda end_s: there.get(end_s, {})) == []
    board.stored(100, POLICY, 262)
    board.stored(110, POLICY, 200)
    there[100] = ALL
    assert board.complete(129, lambda end_s: there.get(end_s, {})) == [], "its count may not have caught up"
    board.stored(100, POLICY, 264)
    assert board.complete(130, lambda end_s: there.get(end_s, {})) == [Row(100, POLICY, 264, ALL, 30)]
    board.stored(100, POLICY, 265)
    assert board.complete(131, lambda end_s: there.get(end_s, {})) == [], "what comes later does not show it again"
    assert board.oldest_open_s == 110


def test_a_window_that_lacks_a_telling_series_is_shown_when_nothing_more_comes() -> None:
    board = Board()
    board.stored(100, POLICY, 7)
    assert board.complete(100 + ROLLUP_DELAY_S - 1, lambda _: {}) == []
    (row,) = board.complete(100 + ROLLUP_DELAY_S, lambda _: {})
    assert (row.values, row.telling) == (7, {})


def test_rates_are_those_of_the_last_seconds() -> None:
    board = Board()
    assert board.rates(1000, 0) == (0.0, 0.0)
    for second in range(1, 31):
        board.stored(1000 + second // 10 * 10, POLICY, second % 10 + 1)
        came, stored = board.rates(1000 + second, 200 * second)
    assert came == pytest.approx(200)
    assert stored == pytest.approx(1)


@pytest.mark.parametrize(("now_s", "left_s"), [(115, 10), (116.5, 8.5), (124, 1), (105, 10)])
def test_the_next_flush_is_a_resolution_and_the_past_buffer_after_a_window(now_s: float, left_s: float) -> None:
    assert next_flush_s(now_s) == left_s


@pytest.mark.parametrize("telling", [ALL, {}])
def test_both_forms_show_the_window_and_how_things_stand(telling: Any) -> None:
    board = Board()
    board.stored(100, POLICY, 262)
    board.complete(100 + ROLLUP_DELAY_S, lambda _: telling)
    (row,) = board.rows
    console = Console(record=True, width=140)
    console.print(as_table(board, 5))
    for shown in (as_line(row, board, 5), console.export_text()):
        assert "262" in shown
        assert POLICY in shown
        assert "next flush in" in shown
        assert ("1.50" in shown) == bool(telling)


def test_without_the_demo_a_window_is_shown_soon_and_without_its_series() -> None:
    board = Board(6, feeds=False)
    board.stored(100, POLICY, 7)
    assert board.complete(110, lambda _: {}) == []
    (row,) = board.complete(111, lambda _: {})
    console = Console(record=True, width=140)
    console.print(as_table(board, 0))
    shown = console.export_text()
    assert (row.values, row.after_s) == (7, 11)
    assert not any(name in shown for name in TELLING)
    assert "in 0/s" not in shown
