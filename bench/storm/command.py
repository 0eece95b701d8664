"""``scripts/bench storm``: what known series suffer while millions of new ids come, and whether memory stays where it is to stay.

    scripts/bench storm [--new 10000000] [--seconds 60] [--known 20000] [--memory-mib 1024] [--workers 1] [--json]

A real instance with a memory limit gets every one of ``--known`` series once per window, with another value in each, and meanwhile
``--new`` ids in ``--seconds``, each once. Told is whether known series are exact (every value of every window came, and is right); how
long after a window was due the last value of it came; how many new ids were taken, and refused by reason; the memory at most; and how
long after the storm new series are taken again, without a restart. ``--coordinator``: the same at the door of a coordinator, by
remote write (``bench.storm.writes``).
"""

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from lab.http import get

from bench.instance import Aggregator
from bench.storm import writes
from bench.storm.series import RESOLUTION_S

__all__ = ["main", "table"]

_DELAY_S = RESOLUTION_S + 5.0
"""After its end a window is due: one resolution and the past buffer of ``configs/local``."""
_TTL_S = 12
_CHECK_S = 3
_PROBE = 1000
"""New series that are sent to see whether they are taken."""
_PROBE_FIRST = 90_000_000
_TOLD_S = 5.0
"""Figures come once a second."""
_RECOVERS_S = 60.0
_WAITS_S = 30.0
"""After the last window was due."""
_PROBED_S = 2.5
"""After which figures tell what became of a probe."""
_NEW_REFUSED, _KNOWN_REFUSED = 'reason="new-metric-memory-limit"', 'reason="memory-limit"'


class Part:
    """A process of the storm; its standard input says when it begins and ends."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"bench.storm.{module}", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self._output.readline().strip()

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def say(self) -> None:
        """A line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Its next line."""
        line = self._output.readline()
        if not line:
            raise RuntimeError(f"a part of the storm ended with {self._process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """Closes its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def close(self) -> None:
        """Ends it, at once if need be."""
        with contextlib.suppress(OSError):
            self.end()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


class Memory:
    """What the processes of an instance take, and what it says of its tables, looked at again and again inside ``with``."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.at_first_mib = aggregator.memory_mib()
        self.most_mib = dict(self.at_first_mib)
        self.most_used = 0.0
        self.limit = 0.0
        self.notes: set[str] = set()

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.25):
            for name, mib in self._aggregator.memory_mib().items():
                self.most_mib[name] = max(self.most_mib.get(name, 0.0), mib)
            with contextlib.suppress(OSError, ValueError):
                page = get(self._aggregator.metrics_url)[1]
                self.most_used = max(self.most_used, figure(page, "memory_used_bytes"))
                self.limit = figure(page, "memory_limit_bytes")
                self.notes.update(note for note in self._aggregator.json("/ready")["notes"] if "memory" in note)

    def workers_mib(self) -> tuple[float, float]:
        """Of all workers together: before the load, and at most."""
        before, most = (
            sum(mib for name, mib in one.items() if name.startswith("worker"))
            for one in (self.at_first_mib, self.most_mib)
        )
        return before, most


def figure(page: str, name: str, tag: str = "") -> float:
    """The sum of all figures on a metrics page whose name ends so and whose tags have ``tag`` in them."""
    found = re.findall(rf"^\w*{name}(\{{.*\}})? (\S+)$", page, re.MULTILINE)
    return sum(float(value) for tags, value in found if tag in tags)


def arguments(values: list[str]) -> argparse.Namespace:
    """Options of both storms."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench storm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--new", type=int, default=10_000_000, help="new ids")
    parser.add_argument("--seconds", type=float, default=60.0, help="in which they come")
    parser.add_argument("--known", type=int, default=20_000, help="series that are known")
    parser.add_argument("--memory-mib", type=int, default=1024, help="the limit")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--coordinator", action="store_true", help="remote writes to a coordinator")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    options = parser.parse_args(values)
    if (
        min(options.new, options.seconds, options.known, options.memory_mib, options.workers) <= 0
        or options.new > 80_000_000
    ):
        parser.error("--new, --seconds, --known, --memory-mib and --workers must be above 0, --new at most 80000000")
    return options


def main(values: list[str]) -> int:
    """Measures and prints; exit code 1 if a value of a known series is missing or wrong, or new series are not taken afterwards."""
    options = arguments(values)
    if options.coordinator:
        figures = writes.storm(options)
        print(json.dumps(figures) if options.json else writes.table(figures), flush=True)
        return 0 if figures["exact"] else 1
    figures = storm(options)
    print(json.dumps(figures) if options.json else table(figures), flush=True)
    return 0 if figures["exact"] and figures["recovered_s"] is not None else 1


def storm(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a run."""
    sink = Part("sink", "--known", str(options.known))
    overlay = {
        "instance": {"memoryLimitBytes": options.memory_mib << 20},
        "aggregator": {"entryTTL": f"{_TTL_S}s", "entryCheckInterval": f"{_CHECK_S}s"},
    }
    try:
        with Aggregator(options.workers, sink.first, overlay) as aggregator:
            return _measured(options, aggregator, sink)
    finally:
        sink.close()


def _measured(options: argparse.Namespace, aggregator: Aggregator, sink: Part) -> dict[str, Any]:
    target = ("--target", aggregator.address)
    known = Part("load", *target, "--known", str(options.known))
    new = Part(
        "load", *target, "--new", str(options.new), "--first", str(options.known), "--seconds", str(options.seconds)
    )
    try:
        with Memory(aggregator) as memory:
            known.say()
            known.answer()
            new.say()
            stormed = new.answer()
            taken, refused = _fates(aggregator, options)
            growth = aggregator.json("/status/growth")
            # The window in which the storm ended is the last one that counts.
            last = int(time.time() / RESOLUTION_S) + 1
            recovered_s = _recovered(aggregator, target)
            time.sleep(max(last * RESOLUTION_S - time.time(), 0))
            known.end()
            sent = known.answer()
            judged = _judged(sink, options.known, range(sent["first"], last))
            after = get(aggregator.metrics_url)[1]
    finally:
        known.close()
        new.close()
    windows = {int(window): found for window, found in judged["windows"].items()}
    rows = [
        {"late_s": one["last"] - ((window + 1) * RESOLUTION_S + _DELAY_S), "came": one["came"], "wrong": one["wrong"]}
        for window in range(sent["first"], last)
        for one in [windows.get(window, {"came": 0, "wrong": 0, "last": float("inf")})]
    ]
    before_mib, most_mib = memory.workers_mib()
    return {
        "known": options.known, "new": options.new, "sent_s": stormed["sent_s"], "acked": stormed["acked"] == stormed["sent"],
        "windows": len(rows), "exact": all(row["came"] == options.known and not row["wrong"] for row in rows) and bool(rows),
        "missing": sum(options.known - row["came"] for row in rows), "wrong": sum(row["wrong"] for row in rows),
        "worst_late_s": max((row["late_s"] for row in rows), default=0.0),
        "median_late_s": statistics.median([row["late_s"] for row in rows] or [0.0]), "sender_behind_s": sent["behind_s"],
        "late_s": [round(row["late_s"], 2) for row in rows],
        "taken": taken, "refused": refused,
        "known_refused": round(figure(after, "errors", _KNOWN_REFUSED)),
        "limit_mib": memory.limit / (1 << 20), "tables_most_mib": memory.most_used / (1 << 20),
        "workers_before_mib": before_mib, "workers_most_mib": most_mib, "notes": sorted(memory.notes),
        "recovered_s": recovered_s, "growth": growth["metricNames"][:3],
    }  # fmt: skip


def _fates(aggregator: Aggregator, options: argparse.Namespace) -> tuple[int, int]:
    """How many new ids were taken, and how many refused, once that is told of all of them."""
    until = time.monotonic() + _TOLD_S
    while True:
        page = get(aggregator.metrics_url)[1]
        taken = round(figure(page, "map_new_entries")) - options.known
        refused = round(figure(page, "errors", _NEW_REFUSED))
        if taken + refused >= options.new or time.monotonic() > until:
            return taken, refused
        time.sleep(0.1)


def _judged(sink: Part, known: int, windows: range) -> dict[str, Any]:
    """What the consumer got, once it has all values of known series in these windows, or has waited in vain."""
    until = (windows.stop * RESOLUTION_S + _DELAY_S) + _WAITS_S
    while True:
        sink.say()
        judged: dict[str, Any] = sink.answer()
        whole = all(judged["windows"].get(str(window), {"came": 0})["came"] == known for window in windows)
        if whole or time.time() > until:
            return judged
        time.sleep(0.25)


def _recovered(aggregator: Aggregator, target: tuple[str, ...]) -> float | None:
    """How long it takes until series that nobody has sent before are all taken; None: too long."""

    def made() -> float:
        return figure(get(aggregator.metrics_url)[1], "map_new_entries")

    began, first = time.monotonic(), _PROBE_FIRST
    while time.monotonic() - began < _RECOVERS_S:
        wanted = made() + _PROBE
        with _part("load", *target, "--new", str(_PROBE), "--first", str(first), "--seconds", "0.1") as probe:
            probe.say()
            probe.answer()
        first += _PROBE
        until = time.monotonic() + _PROBED_S
        while time.monotonic() < until:
            if made() >= wanted:
                return time.monotonic() - began
            time.sleep(0.2)
    return None


@contextlib.contextmanager
def _part(module: str, *arguments: str) -> Iterator[Part]:
    part = Part(module, *arguments)
    try:
        yield part
    finally:
        part.close()


def table(f: dict[str, Any]) -> str:
    """The figures for people."""
    recovered = "never" if f["recovered_s"] is None else f"{f['recovered_s']:.1f} s after the storm"
    grown = f["workers_most_mib"] - f["workers_before_mib"]
    lines = [
        f"{f['new']} new ids in {f['sent_s']:.1f} s beside {f['known']} known series",
        f"known series are {'exact' if f['exact'] else 'NOT EXACT'}: {f['windows']} windows, {f['missing']} values missing, "
        f"{f['wrong']} wrong, {f['known_refused']} refused",
        f"late: the last value of a window {f['worst_late_s']:.2f} s after it was due at most, {f['median_late_s']:.2f} s in the median "
        f"(the sender was behind by {f['sender_behind_s']:.2f} s)",
        f"late by window, s: {' '.join(f'{late:.2f}' for late in f['late_s'])}",
        f"new ids: {f['taken']} taken, {f['refused']} refused (new-metric-memory-limit)",
        f"memory: limit {f['limit_mib']:.0f} MiB, tables at most {f['tables_most_mib']:.0f} MiB; workers {f['workers_before_mib']:.0f} MiB "
        f"before, {f['workers_most_mib']:.0f} MiB at most: {grown / f['limit_mib']:.2f} times the limit more",
        f"new series are taken again: {recovered}",
    ]
    return "\n".join([*lines, *f["notes"]])
