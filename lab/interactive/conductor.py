"""Starts the cluster, watches it, carries out what is typed, judges it, ends it."""

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lab.admin_calls import cluster_calls, create
from lab.errors import LabError
from lab.interactive.files import aggregator_files, coordinator_files
from lab.interactive.layout import Instance, Layout
from lab.interactive.leadership import Leadership
from lab.interactive.orders import HELP, Typed, parse
from lab.interactive.orders import KV as KV_SERVER
from lab.kv import ENVIRONMENT, KV
from lab.kv_servers import ServerMissing
from lab.ports import require_free_ports
from lab.processes import Process, family, module_command, send_signal
from lab.stack.board import Watcher, as_line
from lab.stack.demo import Feeder
from lab.stack.judge import fetch, judge_run
from lab.waiting import wait_aloud
from m3ctl.client import CtlError
from m3ctl.cluster import Cluster, Settings, Target
from m3ctl.resign import resign

__all__ = ["MIN_WINDOWS", "Conductor"]

MIN_WINDOWS = 1
"""Whole windows of the demo stream that a run must have judged."""

_SERVING_S = 150.0
"""The cutover of a new placement is up to a minute away, and a machine may be slow."""
_RESIGN_S = 70.0
_END_S = 20.0
_CLEAN = {"etcd": (0, -signal.SIGTERM), "zookeeper": (0, 128 + signal.SIGTERM)}
"""Exit codes of an end by SIGTERM; ours end with 0."""


@dataclass
class Conductor:
    """One cluster. ``start``, ``live``, ``verdict``, and in any case ``end``."""

    layout: Layout
    kv: KV
    replicas: int
    workers: int
    folder: Path
    coordinator: Process | None = None
    others: dict[int, Process] = field(default_factory=dict)
    """The aggregators by number, and ``orders.KV``: the KV server, if there is one. Any of them may be killed."""

    def __post_init__(self) -> None:
        self.cluster = Cluster(Settings(self.layout.coordinator, environment=ENVIRONMENT, timeout_s=2.0))
        self.leadership = Leadership(self.cluster)
        self._gone: set[int] = set()
        """Aggregators whose end has been said."""
        self._watcher = Watcher(self.layout.coordinator, feeds=True)

    # --- start

    def start(self) -> None:
        """Everything up, placements and topics made, a leader in every shard set. Raises ``LabError``."""
        require_free_ports(self.layout.coordinator_ports)
        for one in self.layout.instances:
            require_free_ports((one.m3msg, one.http, one.metrics), one.host)
        if self.kv.server is not None:
            try:
                self.others[KV_SERVER] = self.kv.server.launch()
            except ServerMissing as error:
                raise LabError(f"{error}, or use --kv embedded") from None
            self.kv.server.wait()
        files = coordinator_files(self.layout, self.kv.section("m3coordinator"), self.folder)
        command = module_command("coordinator", *files, "--data-dir", str(self.folder))
        log = self.folder / "coordinator.log"
        self.coordinator = coordinator = Process("coordinator", command, log, ends_with_us=True)
        coordinator.wait_for_http(f"{self.layout.coordinator}/health")
        calls = cluster_calls(
            [one.placed() for one in self.layout.instances],
            f"127.0.0.1:{self.layout.ingest}",
            replication_factor=self.replicas,
        )
        for line in create(self.layout.coordinator, calls):
            print(f"  {line}", flush=True)
        self._require_our_placement()
        for one in self.layout.instances:
            self._start_aggregator(one)
        for one in self.layout.instances:
            self.others[one.number].wait_for_http(f"{one.url}/health")
        try:
            wait_aloud(self._missing, _SERVING_S)
        except LabError as error:
            raise LabError(f"{error}; logs: {self.folder}") from None

    def _require_our_placement(self) -> None:
        found = self.cluster.placement("m3aggregator").placement.instances
        placed = {(i.id, i.endpoint) for i in found.values()}
        if placed != {(one.id, one.placed().endpoint) for one in self.layout.instances}:
            raise LabError(
                f"the KV in {self.folder} holds the placement of another cluster ({', '.join(sorted(found))}): "
                "give --data-dir a new directory, or the options that made it"
            )

    def _start_aggregator(self, one: Instance) -> None:
        files = aggregator_files(one, self.kv.section("m3aggregator"), self.folder)
        command = module_command("aggregator", *files, "--workers", str(self.workers))
        command += ["--data-dir", str(self.folder)]
        self.others[one.number] = Process(one.id, command, self.folder / f"{one.id}.log", ends_with_us=True)
        self._gone.discard(one.number)

    def _missing(self) -> list[str]:
        """What it waits for until it serves. Raises ``LabError`` if a service has ended."""
        assert self.coordinator is not None
        for service in (self.coordinator, *self.others.values()):
            service.check()
        try:
            placed = self.cluster.placement("m3aggregator").placement.instances.values()
            left_s = (max(one.cutover_ns for one in placed) - time.time_ns()) / 1e9
            if left_s > 0:
                return [f"the cutover of the placement at the next whole minute, in {left_s:.0f} s"]
            reasons = [f"coordinator: {text}" for text in self.cluster.coordinator_ready().reasons]
            for one in self.layout.instances:
                found = self.cluster.ready(Target(one.id, one.url))
                reasons += [f"aggregators: {text}" for text in (found.reasons if found is not None else [])]
            self.leadership.look()
        except CtlError as error:
            return [str(error)]
        if not reasons and not self.leadership.complete:
            reasons.append("a leader in every shard set")
        return reasons

    # --- while it runs

    def describe(self) -> str:
        """Where everything is, and how to look at it and break it."""
        assert self.coordinator is not None
        lines = ["", f"coordinator  {self.layout.coordinator}/   pid {self.coordinator.pid}"]
        if KV_SERVER in self.others:
            lines.append(f"{self.others[KV_SERVER].name:<12} pid {self.others[KV_SERVER].pid}")
        numbers = self.leadership.numbers
        for one in self.layout.instances:
            number = numbers.get(one.id, 0)
            role = "leads" if self.leadership.leaders.get(number) == one.id else "follows"
            lines.append(f"{one.id:<12} {one.url}/   pid {self.others[one.number].pid}   shard set {number}, {role}")
        lines += [
            "",
            "look at it from another terminal:",
            f"  export M3CTL_COORDINATOR={self.layout.coordinator} M3CTL_ENV={ENVIRONMENT}",
            f"  .venv/bin/m3ctl leaders    .venv/bin/m3ctl doctor    .venv/bin/m3ctl flush-times {self.kv.m3ctl()}",
            "",
            HELP,
            "",
        ]
        return "\n".join(lines)

    def live(self, feeder: Feeder | None, end: float | None) -> None:
        """Feeds, says what changes, carries out orders, until ``end`` or ``quit``. Raises ``LabError`` if the coordinator ends."""
        assert self.coordinator is not None
        typed = Typed(0)
        while end is None or time.time() < end:
            self.coordinator.check()
            self._say_who_ended()
            if feeder is not None:
                self._feed(feeder)
            self._say_changes()
            until_next_s = max(0.05, 1.05 - time.time() % 1)
            if typed.closed:
                time.sleep(until_next_s)
            elif not all(self._obey(line) for line in typed.lines(until_next_s)):
                return

    def _feed(self, feeder: Feeder) -> None:
        try:
            feeder.feed()
        except OSError as error:
            _say(f"feeding failed, will try again: {error}")
        for row in self._watcher.look(feeder.sent):
            print(f"{'':10}{as_line(row, self._watcher.board, feeder.sent)}", flush=True)

    def _say_changes(self) -> None:
        try:
            for line in self.leadership.look():
                _say(line)
        except CtlError as error:
            _say(str(error))

    def _say_who_ended(self) -> None:
        for number, service in self.others.items():
            code = service.exit_code
            if code is not None and number not in self._gone:
                self._gone.add(number)
                _say(f"{service.name} has ended with exit code {code}; start {number or 'kv'} brings it back")

    # --- orders

    def _obey(self, line: str) -> bool:
        """Carries out what was typed; False: to end."""
        order = parse(line, len(self.layout.instances))
        if order is None:
            return True
        if isinstance(order, str):
            _say(order)
        elif order.verb == "quit":
            return False
        elif order.verb == "help":
            print(HELP, flush=True)
        elif order.verb == "status":
            for number, leader in sorted(self.leadership.leaders.items()):
                _say(f"shard set {number}: {leader or 'nobody'} leads")
        elif order.instance == KV_SERVER and KV_SERVER not in self.others:
            _say("the embedded KV is a file: there is no server")
        elif order.instance is not None:
            self._obey_for_one(order.verb, order.instance)
        return True

    def _obey_for_one(self, verb: str, number: int) -> None:
        service = self.others[number]
        runs = service.running
        if verb == "start" and not runs:
            self._start_again(number)
        elif verb == "start":
            _say(f"{service.name} runs")
        elif not runs:
            _say(f"{service.name} does not run; start {number or 'kv'} brings it back")
        elif verb == "resign":
            self._resign(self.layout.instances[number - 1])
        elif verb == "term":
            service.terminate()
            _say(f"SIGTERM to {service.name}")
        elif verb == "kill":
            # Its other processes end with it.
            os.kill(service.pid, signal.SIGKILL)
            _say(f"kill -9 {service.name}")
        else:
            sent = signal.SIGSTOP if verb == "pause" else signal.SIGCONT
            send_signal(family(service.pid), sent)
            _say(f"{verb} {service.name}")

    def _start_again(self, number: int) -> None:
        if number == KV_SERVER:
            assert self.kv.server is not None
            self.others[KV_SERVER] = self.kv.server.launch()
            self._gone.discard(KV_SERVER)
        else:
            self._start_aggregator(self.layout.instances[number - 1])
        _say(f"{self.others[number].name} starts, pid {self.others[number].pid}")

    def _resign(self, one: Instance) -> None:
        try:
            _say(resign(self.cluster, one.id, 0, _RESIGN_S).text())
        except CtlError as error:
            _say(str(error))

    # --- the end

    def verdict(self, began: int | None, end: float) -> bool:
        """Prints whether every shard set has a leader and, with a demo stream since ``began``, whether all its values are right."""
        good = self.leadership.complete
        for one in self.leadership.sets:
            print(f"shard set {one.number}: {' and '.join(one.leaders) or 'nobody'} leads")
        print(f"leadership changed {self.leadership.changes} times")
        if began is not None:
            verdict = judge_run(partial(fetch, self.layout.coordinator), began, end, MIN_WINDOWS)
            print(verdict)
            good = good and verdict.good
        return good

    def end(self) -> int:
        """Ends everything, aggregators first; 0 if all that ran ended cleanly."""
        code = 0
        running = {n: service for n, service in self.others.items() if service.running}
        for service in running.values():
            # One that is paused could not hear the other signal.
            send_signal(family(service.pid), signal.SIGCONT)
        server = running.pop(KV_SERVER, None)
        for service in running.values():
            service.terminate()
        rest = (one for one in (self.coordinator, server) if one is not None)
        for service in (*running.values(), *rest):
            ended = service.stop(_END_S)
            if ended not in _CLEAN.get(service.name, (0,)):
                print(f"{service.name} ended with exit code {ended}; log: {service.log_file}", file=sys.stderr)
                code = 1
        return code


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)
