"""``python -m lab.m3db.drill``: runs situations, and prints a row for each."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.kv import KINDS
from lab.m3db.drill.deployment import deployed
from lab.m3db.drill.plan import Situation, killed, short, situations
from lab.m3db.drill.running import run
from lab.m3db.drill.sender import Sender
from m3x.version import VERSION

_COLUMNS = (
    "situation",
    "sent, all acknowledged",
    "at a majority",
    "refused and counted",
    "missing",
    "wrong",
    "settled after",
    "result",
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="scripts/m3db-drill",
        description="M3DB as a store: a coordinator under load, nodes that fail, and a look at every value that it acknowledged.",
    )
    parser.add_argument("--backend", choices=KINDS[:2], default="", help="the KV (default: etcd if it is installed)")
    parser.add_argument(
        "--only", default="", metavar="TEXT[;TEXT…]", help="situations whose name contains one of these"
    )
    parser.add_argument(
        "--kill", action="store_true", help="each situation a second time, with kill -9 of the coordinator"
    )
    parser.add_argument("--short", action="store_true", help="less than a minute, as in every test run")
    parser.add_argument(
        "--away", type=float, default=60.0, metavar="S", help="seconds that all nodes are away (default: 60)"
    )
    parser.add_argument("--series", type=int, default=500, help="values a second (default: 500)")
    parser.add_argument("--m3", default="", metavar="FILE", help="M3's own coordinator instead of ours, for comparison")
    parser.add_argument("--list", action="store_true", help="print the situations and end")
    parser.add_argument("--json", action="store_true", help="a line of JSON per situation instead of a table")
    parser.add_argument("--keep-logs", metavar="DIR", default="", help="copy the logs there if something failed")
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    options = parser.parse_args(arguments)
    if not options.backend:
        options.backend = "etcd" if shutil.which("etcd") else "embedded"
    if not chosen(options):
        parser.error(f"--only {options.only!r} names no situation: see --list")
    return options


def chosen(options: argparse.Namespace) -> list[Situation]:
    """What is to be run."""
    if options.short:
        return short()
    found = situations(options.away)
    texts = [text.strip() for text in options.only.split(";") if text.strip()]
    found = [one for one in found if not texts or any(text in one.name for text in texts)]
    if options.kill:
        found = [each for one in found for each in (one, killed(one, min(1.5 + one.lasts_s / 8, one.lasts_s)))]
    return found


def line(record: dict[str, Any]) -> str:
    """A row of the table."""
    refused = ", ".join(f"{n} {reason}" for reason, n in record["refused"].items()) or "0"
    cells = [
        record["situation"], record["sent"], record["stored"], refused, record["missing"], record["wrong"],
        f"{record['settled_s']:.1f} s", "; ".join(record["failures"]) or "passed",
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all passed."""
    # Processes have sessions of their own: SIGTERM has to unwind what started them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = parse(arguments)
    todo = chosen(options)
    if options.list:
        print("\n".join(one.name for one in todo))
        return 0
    if not options.json:
        print("| " + " | ".join(_COLUMNS) + " |\n|" + "---|" * len(_COLUMNS), flush=True)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="m3db-drill-") as name:
        folder = Path(name)
        with deployed(folder, options.backend, options.m3) as deployment:
            sender = Sender(deployment.coordinator.ingest, options.series)
            with contextlib.closing(sender):
                for number, situation in enumerate(todo):
                    outcome = run(deployment, sender, situation, f"{number}-{int(time.time())}")
                    record = outcome.record()
                    failed += bool(record["failures"])
                    print(json.dumps(record) if options.json else line(record), flush=True)
                    for example in outcome.verdict.examples:
                        print("   ", example, file=sys.stderr, flush=True)
        if failed and options.keep_logs:
            os.makedirs(options.keep_logs, exist_ok=True)
            for log in folder.glob("*.log"):
                shutil.copy(log, options.keep_logs)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
