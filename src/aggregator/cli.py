"""The command ``m3aggregator``. What takes time to load is imported where it is needed."""

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path

from m3x import kernel_cache, process
from m3x.output import complain, say
from m3x.version import VERSION

__all__ = ["main"]

_USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs an aggregator instance; returns the exit code: 0 after an orderly end, 1 after a failure, 2 for a wrong set-up."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.child_of is not None:
        process.die_with_parent(options.child_of)
    # Before numba is loaded.
    kernel_cache.choose()
    if options.warm_up:
        from aggregator.warmup import PACKAGES  # noqa: PLC0415

        return kernel_cache.warm_up("m3aggregator", PACKAGES, say)
    if not options.file:
        complain(f"{parser.format_usage()}-f is required (no config files provided)")
        return _USAGE_ERROR
    process.start_no_threads()
    # What is imported now stays: looking for garbage in it takes a tenth of a start. ``m3x.processes`` switches it on again.
    gc.disable()
    from aggregator.config import certificate_problems, instance_id, load_config  # noqa: PLC0415
    from m3cluster.kv import KVError, check_store  # noqa: PLC0415
    from m3x.config import ConfigError  # noqa: PLC0415

    try:
        loaded = load_config(options.file)
        data_dir = options.data_dir or _directory(loaded.value.instance.data_directory)
        check_store(loaded.value.kv_client.store(data_dir))
        if found := [loaded.places.named(path, text) for path, text in certificate_problems(loaded.value)]:
            raise ConfigError(found)
        identity = instance_id(loaded.value.aggregator, loaded.value.listen_addresses[-1])
        if options.check_config:
            return _report(loaded.meaningless)
        from aggregator.supervisor import run  # noqa: PLC0415 - what only a check needs should start at once

        return run(
            loaded,
            identity,
            read=lambda: load_config(options.file),
            workers=options.workers,
            data_dir=data_dir,
            is_child=options.child_of is not None,
        )
    except KVError as error:
        complain(f"kvClient: {error}")
        return _USAGE_ERROR
    except ConfigError as error:
        for problem in error.problems:
            complain(problem)
        return _USAGE_ERROR


def _directory(name: str) -> Path | None:
    return Path(name) if name else None


def _report(meaningless: Sequence[str]) -> int:
    say("the configuration is valid\n" + (f"without effect here: {', '.join(meaningless)}\n" if meaningless else ""))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="m3aggregator", description="Aggregates metrics as a member of an M3 aggregation tier."
    )
    parser.add_argument(
        "-f", dest="file", action="append", type=Path, metavar="FILE",
        help="configuration file; given several times, later files override earlier ones key by key",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="worker processes (default: instance.workers, CPUs)"
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where relative paths of the configuration are taken from"
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="say whether an instance would start with it, and exit (2: it would not)",
    )
    parser.add_argument(
        "--warm-up",
        action="store_true",
        help="compile what the first start would compile, and exit; NUMBA_CACHE_DIR says where it is kept",
    )
    parser.add_argument(
        "--child-of",
        type=_positive,
        metavar="PID",
        help="it belongs to this process, its parent, with which it ends at once; it stops when standard input is closed, and not for "
        "SIGTERM or SIGINT",
    )
    parser.add_argument("--version", action="version", version=f"m3aggregator {VERSION}")
    return parser


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number of at least 1")
    return number
