"""The demo stream: 200 series whose value at every second is a formula, so that what must come out can be computed.

Every series gives one sample a second. Values are multiples of 1/4, so that sums and means of ten of them are exact.

| series | how they arrive | what the stack makes of them per 10 s window |
|---|---|---|
| ``demo_requests_total{host,code}`` × 60 | Prometheus remote write | Last (auto-mapping of a metric without rules) |
| ``demo_temperature{room}`` × 60 | Prometheus remote write | Last |
| ``demo.{last,mean,max,sum}.host-N`` × 20 each | carbon | what the carbon rule of configs/local/m3coordinator.yml says |

The rollup rule of that file makes two more series, ``demo_requests_by_code{code}``: PerSecond of each ``demo_requests_total``, summed over
the hosts.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.prometheus import remote_write
from m3ctl.bench.remote_write import Labels

WINDOW_S = 10
_PROMETHEUS_EACH = 60
_CARBON_EACH = 20


@dataclass(frozen=True)
class Series:
    """One demo series: what it is called in storage, its value at a second, and what a window of ten seconds gives."""

    labels: Labels
    """As stored: sorted by name."""
    value: Callable[[int], float]
    window: Callable[[list[float]], float]
    carbon_path: str = ""
    """Set for carbon series."""


def _last(values: list[float]) -> float:
    return values[-1]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _counter(i: int) -> Callable[[int], float]:
    return lambda second: float(second % 100_000 * (1 + i % 5) + 10 * i)


def _wave(i: int) -> Callable[[int], float]:
    return lambda second: (second * 7 + i * 13) % 1000 / 4


def all_series() -> list[Series]:
    """The series of the demo, Prometheus first."""
    result = []
    for i in range(_PROMETHEUS_EACH):
        labels = {"__name__": "demo_requests_total", "host": f"host-{i // 2}", "code": ("200", "500")[i % 2]}
        result.append(Series(tuple(sorted(labels.items())), _counter(i), _last))
    for i in range(_PROMETHEUS_EACH):
        labels = {"__name__": "demo_temperature", "room": f"room-{i}"}
        result.append(Series(tuple(sorted(labels.items())), _wave(i), _last))
    windows: dict[str, Callable[[list[float]], float]] = {"last": _last, "mean": _mean, "max": max, "sum": sum}
    for kind, window in windows.items():
        for i in range(_CARBON_EACH):
            path = f"demo.{kind}.host-{i}"
            parts = tuple((f"__g{k}__", part) for k, part in enumerate(path.split(".")))
            result.append(Series(parts, _wave(i), window, carbon_path=path))
    return result


def expected(series: Series, window_start_s: int) -> float:
    """Value that must be stored for the window ``[start, start + 10 s)``."""
    return series.window([series.value(second) for second in range(window_start_s, window_start_s + WINDOW_S)])


@dataclass(frozen=True)
class Rollup:
    """A series that a rollup rule makes of others."""

    labels: Labels
    """As stored: sorted by name."""
    sources: tuple[Series, ...]


def all_rollups() -> list[Rollup]:
    """What the rollup rule of configs/local/m3coordinator.yml makes of the demo's series."""
    result = []
    for code in ("200", "500"):
        labels = {"__name__": "demo_requests_by_code", "__rollup__": "true", "code": code}
        sources = tuple(series for series in all_series() if ("code", code) in series.labels)
        result.append(Rollup(tuple(sorted(labels.items())), sources))
    return result


def expected_rollup(rollup: Rollup, window_start_s: int) -> float | None:
    """Value of the window ``[start, start + 10 s)``; None: no value, as no source has a rate (all have been reset)."""
    rates = []
    for series in rollup.sources:
        before, now = series.value(window_start_s - 1), series.value(window_start_s + WINDOW_S - 1)
        if now >= before:
            rates.append((now - before) / WINDOW_S)
    return sum(rates) if rates else None


class Feeder:
    """Sends every series' sample of every second once, late seconds included."""

    def __init__(self, base_url: str, carbon: tuple[str, int], *, wrong_value: bool = False) -> None:
        self._base_url = base_url
        self._carbon_address = carbon
        self._carbon: socket.socket | None = None
        self._series = all_series()
        self._next_s = 0
        self._wrong = wrong_value
        self.sent = 0

    def start(self) -> int:
        """From the current second on; returns it."""
        self._next_s = int(time.time())
        return self._next_s

    def feed(self) -> None:
        """Sends what is due. Raises ``OSError`` if the coordinator cannot be reached or refuses."""
        now = int(time.time())
        while self._next_s <= now:
            self._send_second(self._next_s)
            self._next_s += 1

    def close(self) -> None:
        """Closes the carbon connection."""
        if self._carbon is not None:
            self._carbon.close()

    def _send_second(self, second: int) -> None:
        samples = []
        lines = []
        for series in self._series:
            value = series.value(second)
            if self._wrong and series.labels[-1] == ("room", "room-7"):
                value += 1.0
            if series.carbon_path:
                lines.append(f"{series.carbon_path} {value!r} {second}\n")
            else:
                samples.append((series.labels, value, second * 1000))
        remote_write(self._base_url, samples)
        if self._carbon is None:
            self._carbon = socket.create_connection(self._carbon_address, timeout=5)
        self._carbon.sendall("".join(lines).encode())
        self.sent += len(self._series)
