"""``scripts/cluster``: see ``--help``."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from lab.errors import LabError
from lab.interactive.conductor import MIN_WINDOWS, Conductor
from lab.interactive.layout import make_layout
from lab.interactive.orders import HELP
from lab.interrupts import Interrupted, ignore_interrupts, raise_interrupted
from lab.kv import KINDS, kv_of
from lab.stack.demo import WINDOW_S, Feeder
from lab.stack.judge import FLUSH_DELAY_S
from m3ctl.client import CtlError
from m3x.version import VERSION

_MAX_INSTANCES = 40


def main() -> int:
    """Runs the cluster; the exit code."""
    options = _arguments()
    raise_interrupted()
    try:
        folder = _folder(options.data_dir)
    except OSError as error:
        print(f"error: --data-dir {options.data_dir} cannot be used: {error.strerror}", file=sys.stderr)
        return 1
    code = 1
    conductor: Conductor | None = None
    try:
        layout = make_layout(options.instances, options.rf, free_ports=options.free_ports)
        conductor = Conductor(layout, kv_of(options.kv, folder, ends_with_us=True), options.rf, options.workers, folder)
        code = _run(options, conductor)
    except Interrupted:
        print("\nending", flush=True)
        # A run with a duration that did not come to its end has shown nothing.
        code = 1 if options.duration is not None else 0
    except (LabError, CtlError) as error:
        print(f"error: {error}", file=sys.stderr)
    finally:
        ignore_interrupts()
        if conductor is not None:
            code = conductor.end() or code
    if options.data_dir is None and code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"state and logs: {folder}")
    return code


def _folder(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="m3cluster-"))
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted.resolve()


def _run(options: argparse.Namespace, conductor: Conductor) -> int:
    print(f"state and logs in {conductor.folder}", flush=True)
    conductor.start()
    print(conductor.describe(), flush=True)
    layout = conductor.layout
    feeder = Feeder(layout.coordinator, ("127.0.0.1", layout.carbon)) if options.demo else None
    began = feeder.start() if feeder is not None else None
    end = None if options.duration is None else time.time() + options.duration
    conductor.live(feeder, end)
    if feeder is not None:
        feeder.close()
    if end is None:
        return 0
    if time.time() < end:
        print("ended before the time was up: nothing is judged")
        return 1
    return 0 if conductor.verdict(began, end) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster",
        description="Starts a coordinator and mirrored aggregators on loopback, each on an address of its own (127.0.0.11, "
        "127.0.0.12, …), to try failover by hand.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kv", choices=KINDS, default="embedded", help="where the cluster state is")
    parser.add_argument("--instances", type=int, default=2, metavar="N", help="aggregators (default %(default)s)")
    parser.add_argument("--rf", type=int, default=2, metavar="R", help="replicas of every shard (default %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="aggregation processes each (default %(default)s)"
    )
    parser.add_argument("--demo", action="store_true", help="feed 200 series and show every window that is stored")
    parser.add_argument("--duration", type=float, metavar="S", help="end S seconds after it serves; exit code 0 only if every shard "
        "set has a leader and, with --demo, every stored value is right")  # fmt: skip
    parser.add_argument("--free-ports", action="store_true", help="any free ports instead of 6000-6002 and 7201-7507")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="keep state and logs here (default: a temporary directory)"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    options = parser.parse_args()
    if options.rf < 1 or options.workers < 1:
        parser.error("--rf and --workers must be at least 1")
    if options.instances < 1 or options.instances % options.rf or options.instances > _MAX_INSTANCES:
        parser.error(
            f"--instances must be a multiple of --rf, at most {_MAX_INSTANCES}: every shard set is {options.rf} instances"
        )
    shortest = (MIN_WINDOWS + 1) * WINDOW_S + FLUSH_DELAY_S if options.demo else 1
    if options.duration is not None and not shortest <= options.duration < float("inf"):
        parser.error(
            f"--duration must be at least {shortest} seconds" + (": values must be out by then" if options.demo else "")
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
