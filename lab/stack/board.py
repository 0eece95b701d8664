"""What a watcher of the stack sees: every window once, when all of it is in storage; rates in and out, lag, and the next flush.

``Board`` is pure: what was asked of the coordinator goes in, rows come out. ``Watcher`` asks, ``as_line`` and ``as_table`` show.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from lab.http import try_get
from lab.prometheus import EQUAL, remote_read
from lab.stack.judge import ROLLUP_DELAY_S
from m3ctl.bench.remote_write import Labels

__all__ = [
    "FLUSH_AFTER_IN_PROCESS_S",
    "FLUSH_AFTER_S",
    "TELLING",
    "Board",
    "Row",
    "Watcher",
    "as_line",
    "as_table",
    "next_flush_s",
]

TELLING: Mapping[str, Labels] = {
    "requests/s, code 200": (("__name__", "demo_requests_by_code"), ("code", "200")),
    "temperature, room-0": (("__name__", "demo_temperature"), ("room", "room-0")),
    "mean, host-0": (("__g0__", "demo"), ("__g1__", "mean"), ("__g2__", "host-0")),
}
"""A rollup, an auto-mapped series and a carbon series, by what they are called here."""
_SHOWN = 10
_RATE_OVER_S = 10.0
_RESOLUTION_S = 10
_SETTLED_S = 5.0
"""So long after its flush all of a window has come, where nothing is rolled up."""
FLUSH_AFTER_S, FLUSH_AFTER_IN_PROCESS_S = 15, 6
"""Windows of configs/local are flushed a resolution and the past buffer after their end; those of in-process.yml the past buffer, and a
second for what is under way."""


@dataclass(frozen=True, slots=True)
class Row:
    """A window that is complete."""

    end_s: int
    policy: str
    values: int
    telling: Mapping[str, float]
    """What the series of ``TELLING`` have in it, those that have something."""
    after_s: float
    """How long after its end it was complete."""


@dataclass(slots=True)
class Board:
    """Counts by (end in s, policy) of windows that are not shown yet, and the rows of those that are."""

    flush_after_s: float = FLUSH_AFTER_S
    """When a window is flushed, from its end."""
    feeds: bool = True
    """Whether the demo's series are there to be told of; else a window is complete some seconds after its flush."""
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=_SHOWN))
    newest_s: int = 0
    """End of the newest window of which anything is in storage."""
    _open: dict[tuple[int, str], int] = field(default_factory=dict)
    _shown: dict[tuple[int, str], int] = field(default_factory=dict)
    _told: set[tuple[int, str]] = field(default_factory=set)
    _rates: deque[tuple[float, int, int]] = field(default_factory=deque)
    _stored: int = 0

    def stored(self, end_s: int, policy: str, values: int) -> None:
        """So many values of a window are in storage by now; what comes after it was shown counts for the rate only."""
        key = (end_s, policy)
        known = self._shown if key in self._shown else self._open
        self._stored += values - known.get(key, 0)
        known[key] = values
        self.newest_s = max(self.newest_s, end_s)

    @property
    def oldest_open_s(self) -> int | None:
        """End of the oldest window that is not shown."""
        return min((end_s for end_s, _ in self._open), default=None)

    def complete(self, now_s: float, telling: Callable[[int], Mapping[str, float]]) -> list[Row]:
        """Windows that are complete now: all telling series had a value in it when it was looked last, so that its count has caught up, or
        none comes any more. ``telling``: end → values."""
        found = []
        latest_s = ROLLUP_DELAY_S if self.feeds else self.flush_after_s + _SETTLED_S
        for key in sorted(self._open):
            end_s, policy = key
            values = telling(end_s)
            told = len(values) == len(TELLING)
            if (told and key in self._told) or now_s >= end_s + latest_s:
                found.append(Row(end_s, policy, self._open[key], values, now_s - end_s))
                self._shown[key] = self._open.pop(key)
                self._told.discard(key)
            elif told:
                self._told.add(key)
        for key in [key for key in self._shown if key[0] < now_s - 3600]:
            del self._shown[key]
        self.rows.extend(found)
        return found

    def rates(self, now_s: float, sent: int) -> tuple[float, float]:
        """Samples sent and values stored a second, lately."""
        self._rates.append((now_s, sent, self._stored))
        while len(self._rates) > 2 and self._rates[1][0] <= now_s - _RATE_OVER_S:
            self._rates.popleft()
        then_s, then_sent, then_stored = self._rates[0]
        passed_s = now_s - then_s
        if passed_s <= 0:
            return 0.0, 0.0
        return (sent - then_sent) / passed_s, (self._stored - then_stored) / passed_s


def next_flush_s(now_s: float, flush_after_s: float = FLUSH_AFTER_S) -> float:
    """Seconds until the next windows of ten seconds are flushed."""
    return _RESOLUTION_S - (now_s - flush_after_s) % _RESOLUTION_S


class Watcher:
    """Asks a coordinator, once a second or so; ``feeds``: whether the demo's series are there to be told of."""

    def __init__(self, base_url: str, *, feeds: bool = True, flush_after_s: float = FLUSH_AFTER_S) -> None:
        self.board = Board(flush_after_s, feeds)
        self._base_url = base_url
        self._since = 0

    def look(self, sent: int) -> list[Row]:
        """Windows that have become complete; ``sent``: samples fed so far."""
        self.board.rates(time.time(), sent)
        status, body = try_get(f"{self._base_url}/api/v1/windows?since={self._since}")
        if status != 200:
            return []
        answer = json.loads(body)
        self._since = int(answer["next"])
        for window in answer["windows"]:
            self.board.stored(window["time_ms"] // 1000, window["policy"], window["count"])
        oldest_s = self.board.oldest_open_s
        if oldest_s is None:
            return []
        values = self._values(oldest_s) if self.board.feeds else {}
        return self.board.complete(time.time(), lambda end_s: values.get(end_s, {}))

    def _values(self, since_s: int) -> dict[int, dict[str, float]]:
        found: dict[int, dict[str, float]] = {}
        for name, labels in TELLING.items():
            matchers = [(label, EQUAL, value) for label, value in labels]
            try:
                points = remote_read(self._base_url, matchers, since_s * 1000, self.board.newest_s * 1000)
            except OSError:
                continue
            for samples in points.values():
                for at_ms, value in samples.items():
                    found.setdefault(at_ms // 1000, {})[name] = value
        return found


def _cells(row: Row) -> list[str]:
    told = [row.telling.get(name, math.nan) for name in TELLING]
    return [
        time.strftime("%H:%M:%S", time.localtime(row.end_s)),
        row.policy,
        str(row.values),
        *("–" if math.isnan(value) else f"{value:,.2f}" for value in told),
        f"{row.after_s:.0f} s",
    ]


def _standing(board: Board, sent: int) -> str:
    now_s = time.time()
    came, stored = board.rates(now_s, sent)
    lag = f"{now_s - board.newest_s:.0f} s" if board.newest_s else "–"
    fed = f"in {came:,.0f}/s   " if board.feeds else ""
    return f"{fed}out {stored:,.1f}/s   lag {lag}   next flush in {next_flush_s(now_s, board.flush_after_s):.0f} s"


def as_line(row: Row, board: Board, sent: int) -> str:
    """A complete window on a line."""
    at, policy, values, *told, after = _cells(row)
    shown = "  ".join(f"{name} {value}" for name, value in zip(TELLING, told, strict=True) if value != "–")
    return f"{at}  {policy:<8} {values:>6} values  {shown}   [complete after {after}; {_standing(board, sent)}]"


def as_table(board: Board, sent: int) -> Table:
    """The last windows and how things stand."""
    made = Table(caption=_standing(board, sent), caption_justify="left")
    columns: list[tuple[str, Any]] = [("window ends", "left"), ("policy", "left"), ("values", "right")]
    columns += [*((name, "right") for name in TELLING if board.feeds), ("complete after", "right")]
    for name, justify in columns:
        made.add_column(name, justify=justify)
    for row in board.rows:
        at, policy, values, *told, after = _cells(row)
        made.add_row(at, policy, values, *(told if board.feeds else []), after)
    return made
