"""``scripts/bench memory``: where the memory of an instance is when it has most.

The load is that of ``scripts/bench steady`` (every series once per window, at once), with windows open for ``--past`` longer, so that
several of them are open; everything is flushed and acknowledged. All processes of the instance, children that write snapshots among them,
are looked at several times a second; the peak is when they had most together. PSS: a page that n processes share counts as an n-th in each.

At the peak each process is told by area: reserved *tables* (``m3x.reserve``), what front and workers have *shared*
(``m3x.shared_memory``), code and data of *files*, the allocator's *heap*, and all *other*. Then what tables of workers have in use by
their own account, as the metrics page has it (``engine_table_bytes``); what *tables* has more are first pages, and what waits to be used
again.
"""

import argparse
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.http import get
from lab.processes import family

from bench.ingest import SinkProcess
from bench.instance import Aggregator
from bench.loading import replay
from bench.messages import KINDS
from m3x.process import proportional_bytes

__all__ = ["Account", "areas", "main", "tables"]

_LOOK_S = 0.25
_PAGE_S = 2.0
"""Between two looks at the metrics page, which is an effort of its own."""
_HIGHER = 1.002
"""By so much a peak has to be above the one before to be taken apart."""
_MIB = 1 << 20
_AREAS = ("tables", "shared", "files", "heap", "other")
_TABLE = re.compile(r"^\w+_engine_table_bytes\{.*table=\"([\w-]+)\".*\} ([\d.e+]+)$", re.MULTILINE)


@dataclass(slots=True)
class Account:
    """The memory of an instance at one moment, in bytes."""

    after_s: float = 0.0
    """Since the load began."""
    processes: dict[str, int] = field(default_factory=dict)
    areas: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of each process, by area."""
    tables: dict[str, int] = field(default_factory=dict)
    """Of all workers, by table: what is in use."""

    @property
    def total(self) -> int:
        """All processes together."""
        return sum(self.processes.values())


def areas(smaps: str) -> dict[str, int]:
    """PSS by area of ``/proc/PID/smaps``: ``tables`` (reserved, ``m3x.reserve``), ``shared``, ``files``, ``heap``, ``other``."""
    found: dict[str, int] = defaultdict(int)
    where, pss = "", 0
    for line in smaps.splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            where = _area(line.split(maxsplit=5))
        elif name == "Pss:":
            pss = int(rest.split()[0]) << 10
        elif name == "VmFlags:":
            found["tables" if where == "other" and "nr" in rest.split() else where] += pss
    return dict(found)


def _area(mapping: list[str]) -> str:
    path = mapping[5] if len(mapping) > 5 else ""
    if mapping[1].endswith("s"):
        return "shared"
    if path == "[heap]":
        return "heap"
    return "files" if path.startswith("/") else "other"


def _smaps(pid: int) -> str:
    """Empty: the process has ended."""
    try:
        return Path(f"/proc/{pid}/smaps").read_text()
    except OSError:
        return ""


def tables(page: str) -> dict[str, int]:
    """Bytes by table of a metrics page, of all workers together."""
    found: dict[str, int] = defaultdict(int)
    for name, value in _TABLE.findall(page):
        found[name] += int(float(value))
    return dict(found)


class _Watch(threading.Thread):
    """Looks at the instance all the time, and keeps the account of the peak."""

    def __init__(self, aggregator: Aggregator) -> None:
        super().__init__(daemon=True)
        self._aggregator = aggregator
        self._ended = threading.Event()
        self._tables: dict[str, int] = {}
        self._page_at = 0.0
        self._began = time.monotonic()
        self.peak = Account()
        self.last = Account()
        self.most: dict[str, int] = defaultdict(int)
        """Of each process, whenever that was."""
        self.snapshots = 0

    def run(self) -> None:
        self._began = time.monotonic()
        while not self._ended.wait(_LOOK_S):
            self._look()

    def close(self) -> None:
        """Ends it."""
        self._ended.set()
        self.join()

    def _look(self) -> None:
        named = {pid: name for name, pid in self._aggregator.roles().items()}
        pids = {pid: named.get(pid, "snapshot") for pid in family(self._aggregator.process.pid)}
        found: dict[str, int] = defaultdict(int)
        for pid, name in pids.items():
            found[name] += proportional_bytes(pid)
        self.snapshots += "snapshot" in found and "snapshot" not in self.last.processes
        for name, size in found.items():
            self.most[name] = max(self.most[name], size)
        account = Account(time.monotonic() - self._began, dict(found))
        if time.monotonic() - self._page_at > _PAGE_S:
            self._page_at = time.monotonic()
            self._tables = tables(get(self._aggregator.metrics_url)[1])
        if account.total > self.peak.total * _HIGHER:
            account.areas = {name: areas(smaps) for pid, name in pids.items() if (smaps := _smaps(pid))}
            account.tables = self._tables
            self.peak = account
        self.last = account


def _load(aggregator: Aggregator, options: argparse.Namespace) -> tuple[dict[str, Any], _Watch, Mapping[str, float]]:
    """What the generator says, what was seen meanwhile, and CPU seconds by process. Raises ``LabError`` if it says nothing."""
    spans: list[Mapping[str, float]] = []
    watch = _Watch(aggregator)

    def began() -> None:
        spans.append(aggregator.cpu())
        watch.start()

    def ended() -> None:
        watch.close()
        spans.append(aggregator.cpu())

    result = replay(
        aggregator.address, options.kind, options.series, options.seconds, options.connections, began=began, ended=ended,
        rate=options.series / options.resolution, resolution=options.resolution,
    )  # fmt: skip
    before, after = spans
    return result, watch, {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}


def main(values: list[str]) -> int:
    """Measures and prints; exit code 1 if something that was sent is not acked."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, default="timed")
    parser.add_argument("--series", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=10, help="of windows, in seconds")
    parser.add_argument("--past", default="1m", help="how late samples may be: windows stay open for so long")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    options = parser.parse_args(values)
    if min(options.series, options.workers, options.connections, options.resolution) < 1 or options.seconds <= 0:
        parser.error("all numbers must be positive")
    overlay = {"aggregator": {"bufferDurationForPastTimedMetric": options.past}}
    sink = SinkProcess()
    try:
        with Aggregator(options.workers, sink.address, overlay) as aggregator:
            result, watch, spent = _load(aggregator, options)
    finally:
        sink.close()
    figures = {
        "sent": result["sent"], "acked": result["acked"], "message_bytes": result["message_bytes"],
        "us_per_message": round(sum(spent.values()) / max(result["acked"], 1) * 1e6, 3),
        "snapshots": watch.snapshots, "after_s": round(watch.peak.after_s, 1), "total": watch.peak.total,
        "processes": watch.peak.processes, "most": dict(watch.most), "areas": watch.peak.areas, "tables": watch.peak.tables,
    }  # fmt: skip
    print(json.dumps(figures) if options.json else _text(options, figures))
    return 0 if result["sent"] == result["acked"] and not result["failed"] else 1


def _text(options: argparse.Namespace, f: Mapping[str, Any]) -> str:
    lines = [
        f"memory {options.kind}: {options.series} series, {options.workers} workers, windows of {options.resolution} s, past buffer "
        f"{options.past}",
        f"  sent {f['sent']}, acked {f['acked']} of {f['message_bytes']} bytes, {f['us_per_message']} us of CPU each, flush and forward "
        f"included; {f['snapshots']} snapshots seen",
        f"  peak {f['total'] / _MIB:.0f} MiB (PSS) after {f['after_s']} s = {f['total'] / options.series:.0f} bytes a series",
        f"  {'MiB':<28}" + "".join(f"{text:>9}" for text in ("peak", *_AREAS, "at most")),
    ]
    for name, most in sorted(f["most"].items(), key=lambda one: -one[1]):
        by_area = f["areas"].get(name, {})
        columns = [f["processes"].get(name, 0), *(by_area.get(area, 0) for area in _AREAS), most]
        lines.append(f"  {name:<28}" + "".join(f"{size / _MIB:>9.1f}" for size in columns))
    lines.append(f"  {'tables by their own account':<28}{'MiB':>9}{'bytes a series':>16}")
    for name, size in sorted(f["tables"].items(), key=lambda one: -one[1]):
        lines.append(f"  {name:<28}{size / _MIB:>9.1f}{size / options.series:>16.1f}")
    return "\n".join(lines)
