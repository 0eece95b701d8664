"""``scripts/run``: see ``--help``."""

import argparse
import contextlib
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.live import Live

from lab.admin_calls import admin_calls, create
from lab.cluster import LOCAL, ROOT, overlaid
from lab.errors import LabError
from lab.http import try_get
from lab.interrupts import Interrupted, ignore_interrupts, raise_interrupted
from lab.ports import require_free_ports
from lab.processes import Process, module_command
from lab.stack import judge, prometheus_sink
from lab.stack.board import FLUSH_AFTER_IN_PROCESS_S, FLUSH_AFTER_S, Watcher, as_line, as_table
from lab.stack.demo import WINDOW_S, Feeder
from lab.stack.judge import FLUSH_DELAY_S, MIN_ROLLUP_WINDOWS, MIN_WINDOWS, ROLLUP_DELAY_S
from lab.stores import PrometheusStore
from lab.waiting import wait_aloud
from m3x.version import VERSION

COORDINATOR = "http://127.0.0.1:7201"
AGGREGATOR = "http://127.0.0.1:6001"
INSTANCE_ID = "m3aggregator-local"
_SERVING_S, _END_S = 150.0, 20.0
_INVITATION = f"""
Send something. Carbon, from bash:  echo "shop.north.orders 42 $(date +%s)" > /dev/tcp/127.0.0.1/7204
Prometheus, in its file:            remote_write: [{{url: "{COORDINATOR}/api/v1/prom/remote/write"}}]
Windows have ten seconds; what came in one is on {COORDINATOR}/graph some seconds after its end."""
COORDINATOR_PORTS, OTHER_PORTS = (7201, 7203, 7204), (7507, 6000, 6001, 6002)


def main() -> int:
    """Runs the stack; the exit code."""
    options = _arguments()
    raise_interrupted()
    services: list[Process] = []
    code = 0
    try:
        code = _run(options, services)
    except Interrupted:
        print("\nending")
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    finally:
        ignore_interrupts()
        for service in reversed(services):
            ended = service.stop(_END_S)
            if ended != 0:
                print(f"{service.name} ended with exit code {ended}; log: {service.log_file}", file=sys.stderr)
                code = code or 1
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/run",
        description="Starts a coordinator and an aggregator on loopback and shows what they make of a demo stream.",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="aggregation processes (default: CPUs)"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=ROOT / "data", metavar="DIR", help="state and logs (default: data/)"
    )
    parser.add_argument(
        "--sink",
        choices=["embedded", "prometheus"],
        default="embedded",
        help="where aggregated values end: in the coordinator's file, or in a real Prometheus (which must be installed) as well",
    )
    parser.add_argument(
        "--in-process",
        action="store_true",
        help="start the coordinator only, which aggregates inside: one file, one process to start",
    )
    parser.add_argument("--no-demo", action="store_true", help="feed nothing")
    parser.add_argument(
        "--duration",
        type=float,
        metavar="S",
        help="end after S seconds; exit 0 only if every aggregated value was right",
    )
    parser.add_argument(
        "--wrong-value", action="store_true", help="feed one wrong series on purpose: the check must fail"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    options = parser.parse_args()
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    if options.wrong_value and options.no_demo:
        parser.error("--wrong-value needs the demo stream")
    shortest = 1
    if not options.no_demo:
        values = (MIN_WINDOWS + 1) * WINDOW_S + FLUSH_DELAY_S
        shortest = max(values, (MIN_ROLLUP_WINDOWS + 1) * WINDOW_S + ROLLUP_DELAY_S)
    if options.duration is not None and not shortest <= options.duration < float("inf"):
        parser.error(f"--duration must be at least {shortest} seconds: {MIN_WINDOWS} whole windows must be out by then")
    return options


def _run(options: argparse.Namespace, services: list[Process]) -> int:
    require_free_ports(COORDINATOR_PORTS if options.in_process else COORDINATOR_PORTS + OTHER_PORTS)
    store = _start(options, services)
    wait_aloud(lambda: _missing(services, options.in_process), _SERVING_S)
    query = "up" if options.no_demo else "demo_temperature"
    pages = (f"{COORDINATOR}/aggregator/", 7203) if options.in_process else (f"{AGGREGATOR}/", 6002)
    if options.no_demo:
        print(_INVITATION)
    print(
        f"\nserving. Look at  {COORDINATOR}/graph (series)   {COORDINATOR}/ and {pages[0]} (the way of the data)   "
        f"http://127.0.0.1:{pages[1]}/metrics   {COORDINATOR}/api/v1/query?query={query}\n"
    )
    if store is not None:
        print(f"Prometheus has the same:  {store.url}/graph?g0.expr={query}&g0.tab=0&g0.range_input=5m\n")
    feeder = None if options.no_demo else Feeder(COORDINATOR, ("127.0.0.1", 7204), wrong_value=options.wrong_value)
    began = feeder.start() if feeder else int(time.time())
    end = None if options.duration is None else time.time() + options.duration
    after_s = FLUSH_AFTER_IN_PROCESS_S if options.in_process else FLUSH_AFTER_S
    _live(services, feeder, end, Watcher(COORDINATOR, feeds=feeder is not None, flush_after_s=after_s))
    if feeder is None or end is None:
        return 0
    feeder.close()
    return _check(store, began, end)


def _start(options: argparse.Namespace, services: list[Process]) -> PrometheusStore | None:
    """Starts everything; the store beside the coordinator's own, if there is one."""
    data: Path = options.data_dir.resolve()
    logs = data / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"--data-dir {data} cannot be used: {error.strerror}") from error
    print(f"data and logs in {data}")
    base = LOCAL / ("in-process.yml" if options.in_process else "m3coordinator.yml")
    files, store = ["-f", str(base)], None
    if options.sink == "prometheus":
        store = prometheus_sink.store_of(data)
        store.start()
        assert store.process is not None
        services.append(store.process)
        files = overlaid(base, prometheus_sink.overlay(store), data / "sink-prometheus.yml")
    if options.in_process:
        workers = data / "workers.yml"
        workers.write_text(f"embeddedAggregator: {{workers: {options.workers}}}\n")
        files += ["-f", str(workers)]
    command = module_command("coordinator", *files, "--data-dir", str(data))
    coordinator = Process("coordinator", command, logs / "coordinator.log", ends_with_us=True)
    services.append(coordinator)
    coordinator.wait_for_http(f"{COORDINATOR}/health")
    if options.in_process:
        return store
    for line in create(COORDINATOR, admin_calls(INSTANCE_ID, "127.0.0.1:6000", "127.0.0.1:7507")):
        print(f"  {line}")
    command = module_command("aggregator", "-f", str(LOCAL / "m3aggregator.yml"), "--data-dir", str(data))
    command += ["--workers", str(options.workers)]
    aggregator = Process("aggregator", command, logs / "aggregator.log", ends_with_us=True)
    services.append(aggregator)
    aggregator.wait_for_http(f"{AGGREGATOR}/health")
    return store


def _missing(services: list[Process], in_process: bool) -> list[str]:
    """What it waits for until all shards are cut over, a leader exists and the coordinator takes writes. Raises ``LabError``."""
    waiting = []
    urls = (COORDINATOR,) if in_process else (COORDINATOR, AGGREGATOR)
    for service, url in zip(services[-len(urls) :], urls, strict=True):
        service.check()
        status, body = try_get(f"{url}/ready")
        if status != 200:
            waiting += [f"{service.name}: {reason}" for reason in _reasons(body)]
    if not waiting and not in_process:
        status, body = try_get(f"{AGGREGATOR}/status")
        if status != 200 or json.loads(body)["status"]["flushStatus"]["electionState"] != "leader":
            waiting = ["aggregator: no leader yet"]
    return waiting


def _reasons(body: str) -> list[str]:
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return [body.strip() or "not ready"]
    reasons = answer.get("reasons") if isinstance(answer, dict) else None
    return [str(reason) for reason in reasons] if reasons else [body.strip()]


def _live(services: list[Process], feeder: Feeder | None, end: float | None, watcher: Watcher) -> None:
    """Feeds and shows every window once it is complete, until ``end``: in a table on a terminal, else a line each."""
    terminal = Live(auto_refresh=False) if sys.stdout.isatty() else None
    with terminal or contextlib.nullcontext():
        _watch(services, feeder, end, watcher, terminal)


def _watch(
    services: list[Process], feeder: Feeder | None, end: float | None, watcher: Watcher, terminal: Live | None
) -> None:
    while end is None or time.time() < end:
        for service in services:
            service.check()
        if feeder is not None:
            try:
                feeder.feed()
            except OSError as error:
                print(f"  feeding failed, will try again: {error}", file=sys.stderr)
        sent = feeder.sent if feeder is not None else 0
        complete = watcher.look(sent)
        if terminal is not None:
            terminal.update(as_table(watcher.board, sent), refresh=True)
        else:
            for row in complete:
                print(as_line(row, watcher.board, sent), flush=True)
        time.sleep(max(0.05, 1.05 - time.time() % 1))


def _check(store: PrometheusStore | None, began: int, end: float) -> int:
    """Judges what the coordinator's own store has, or ``store``; prints; the exit code."""
    fetched = partial(judge.fetch, COORDINATOR) if store is None else partial(prometheus_sink.fetch, store)
    verdict = judge.judge_run(fetched, began, end, MIN_WINDOWS, MIN_ROLLUP_WINDOWS)
    print(verdict)
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
