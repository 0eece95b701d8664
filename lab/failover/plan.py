"""What a fault does, and which windows it may cost: derived from the times of the fault alone, before it runs.

A *replica holds a window completely* if, from the window's start until its value is settled downstream, it was neither without memory
(killed, until it is back) nor deaf (stopped: what its producer sent meanwhile is stamped or arrives later). A window is judged unless no
replica holds it. A value is *settled* a moment after it is due; if downstream refuses or nobody leads at that time, after that has ended.

Times are seconds from the *moment* of the fault. What happens afterwards can only make a run invalid (a restart that took longer than
planned, say), never move a window out of the judgement.
"""

import enum
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from lab.failover.load import COUNTERS, LASTS, SUMS

__all__ = [
    "FAULTS",
    "FOLLOWER",
    "LEADER",
    "PHASES",
    "Absence",
    "Fault",
    "Plan",
    "Rule",
    "Step",
    "Timing",
    "make_plan",
    "random_kv_faults",
]

PHASES = (0.3, 4.0, 9.5)
"""Moments of faults within a window of 10 s; scaled for other windows."""
LEADER, FOLLOWER = "leader", "follower"
_FOREVER = math.inf
_SETTLE_S = 1.0
_AFTER_REFUSAL_S = 10.0
_CATCH_UP_S = 2.0
"""After it goes on, a stopped process still reads what was sent while it was stopped."""
_HAND_OVER_S = 2.0
_LEAST_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done ``at_s`` after the moment of the fault."""

    at_s: float
    action: str
    """kill, kill-worker, start, terminate, stop, continue, resign (of ``who``); cut, join (``who`` from the KV), expire (its session);
    refuse, accept (downstream); kv-stop, kv-continue, kv-kill, kv-start; kill-at-value (kill ``who`` at the next value that arrives)."""
    who: str = ""
    """LEADER or FOLLOWER at the moment of the fault."""


class Rule(enum.Enum):
    """Two more series, and a rollup, of another policy; the value is what the name of a fault says of it."""

    NONE = ""
    STORED = ", a rollup rule"
    """Acknowledged as all others."""
    STUCK = ", a rollup rule whose policy nobody stores"
    """Never acknowledged by the consumer, as M3's ingest server does it with a policy that it has no namespace for."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table."""

    name: str
    steps: tuple[Step, ...]
    changes: bool
    """Whether another instance must lead afterwards."""
    backends: tuple[str, ...] = ("embedded", "etcd", "zookeeper")
    hand_over_s: float = 0.0
    """Limit for the time from the first step to the new leader; 0: the lease decides."""
    rule: Rule = Rule.NONE


@dataclass(frozen=True, slots=True)
class Timing:
    """What the times of a drill are."""

    resolution_s: int = 10
    past_s: int = 5
    """How late timed samples may be."""
    ttl_s: int = 10
    """Lease of the leader."""
    restart_s: float = 20.0
    """An instance is back (its producer is connected to it) within this time; a run where it was not is invalid."""

    def due_s(self, kind: int) -> float:
        """How long after its end a window of a kind (0 untimed, 1 timed) is due."""
        return float(self.past_s + self.resolution_s) if kind else 0.0


@dataclass(frozen=True, slots=True)
class Absence:
    """From ``begin`` to ``end`` an instance does not collect completely; without memory it also loses what it held."""

    who: str
    begin: float
    end: float
    memory: bool
    leaves: float = math.inf
    """From when it may be gone, if that is before ``begin``: it leaves as soon as another one holds what it held."""

    def may_be_gone(self, when: float) -> bool:
        """Whether it need not be there at that time, or a moment before or after."""
        return min(self.begin, self.leaves) - 0.1 <= when <= self.end + 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A fault at a phase of a window."""

    fault: Fault
    phase_s: float
    windows: int
    """Windows of the run. The first one is whole before the fault's window begins."""
    absences: tuple[Absence, ...]
    judged: tuple[frozenset[int], frozenset[int]]
    """Windows of the run (0, 1, …) that are judged: untimed, timed."""
    quiet_s: float
    """After the moment: when the last of what was planned is over."""

    @property
    def share(self) -> float:
        """Judged part of all (series, window) pairs of the run."""
        n = COUNTERS * len(self.judged[0]) + (SUMS + LASTS) * len(self.judged[1])
        return n / ((COUNTERS + SUMS + LASTS) * self.windows)


def make_plan(fault: Fault, phase_s: float, timing: Timing) -> Plan:
    """Derives everything from the times of the steps."""
    absences = _absences(fault.steps, timing)
    waits = _waits(fault.steps, timing)
    ends = [e for a in absences for e in (a.begin, a.end)] + [e for _, e in waits] + [s.at_s for s in fault.steps]
    quiet = max(e for e in ends if e < _FOREVER)
    resolution = timing.resolution_s
    windows = max(6, math.ceil((phase_s + quiet) / resolution) + 2)
    while True:
        judged = tuple(
            frozenset(w for w in range(windows) if _held((w - 1) * resolution - phase_s, kind, timing, absences, waits))
            for kind in (0, 1)
        )
        plan = Plan(fault, phase_s, windows, absences, (judged[0], judged[1]), quiet)
        if plan.share >= _LEAST_SHARE:
            return plan
        windows += 1


def _absences(steps: Sequence[Step], timing: Timing) -> tuple[Absence, ...]:
    found = []
    for step in steps:
        if step.action in {"kill", "terminate", "kill-at-value", "kill-worker"}:
            back = [s.at_s for s in steps if s.action == "start" and s.who == step.who and s.at_s >= step.at_s]
            if step.action == "kill-worker":
                # The supervisor starts another one.
                back = [step.at_s]
            end = _with_kv(back[0], steps) + timing.restart_s if back else _FOREVER
            begin = _serves_until(step, steps, timing) if step.action == "terminate" else step.at_s
            found.append(Absence(step.who, begin, end, memory=False, leaves=step.at_s))
        elif step.action == "stop":
            back = [s.at_s for s in steps if s.action == "continue" and s.who == step.who and s.at_s > step.at_s]
            found.append(Absence(step.who, step.at_s, back[0] + _CATCH_UP_S, memory=True))
    return tuple(found)


def _serves_until(end: Step, steps: Sequence[Step], timing: Timing) -> float:
    """When an instance that is told to end is gone: if the other one was restarted a moment ago, not before that holds all open windows."""
    other = FOLLOWER if end.who == LEADER else LEADER
    starts = [s.at_s for s in steps if s.action == "start" and s.who == other and s.at_s < end.at_s]
    if not starts:
        return end.at_s
    return max(end.at_s, starts[-1] + timing.restart_s + timing.resolution_s + timing.due_s(1))


def _with_kv(start: float, steps: Sequence[Step]) -> float:
    """When an instance that is started then has a KV to start with; it may be killed while the instance starts."""
    back = [s.at_s for s in steps if s.action in {"kv-start", "kv-continue"}]
    return max([start, *back])


def _waits(steps: Sequence[Step], timing: Timing) -> list[tuple[float, float]]:
    """When a value that is due waits: (from, until)."""
    waits = []
    fail_over = timing.ttl_s + 3.0
    ends = {"refuse": "accept", "kv-stop": "kv-continue", "kv-kill": "kv-start"}
    for step in steps:
        after = [s.at_s for s in steps if s.action == ends.get(step.action) and s.at_s > step.at_s]
        if step.action == "refuse":
            waits.append((step.at_s, after[0] + _AFTER_REFUSAL_S))
        elif step.action in ends:
            waits.append((step.at_s, after[0] + fail_over + 2.0))
        elif step.action in {"terminate", "resign", "kill-worker"} and step.who == LEADER:
            waits.append((step.at_s, step.at_s + _HAND_OVER_S))
        elif step.action == "kill-at-value":
            waits.append((step.at_s, step.at_s + timing.resolution_s + fail_over))
        elif step.action in {"kill", "stop", "cut", "expire"} and step.who == LEADER:
            waits.append((step.at_s, step.at_s + fail_over))
    return waits


def _held(
    start: float, kind: int, timing: Timing, absences: Sequence[Absence], waits: Sequence[tuple[float, float]]
) -> bool:
    end = start + timing.resolution_s
    settled = end + timing.due_s(kind)
    for begin, until in sorted(waits):
        if begin <= settled < until:
            settled = until
    settled += _SETTLE_S
    return not all(
        any(
            a.who == who and a.begin < (end if a.memory else settled) and a.end > start
            for a in absences
        )
        for who in (LEADER, FOLLOWER)
    )  # fmt: skip


def random_kv_faults(rng: random.Random, n: int) -> list[tuple[Fault, float]]:
    """The KV killed and started again at random moments of a start-up, an election, a hand-over and a flush: faults and their phases
    (windows of 10 s)."""
    found = []
    for i in range(n):
        kind = ("start-up", "election", "hand-over", "flush")[i % 4]
        killed, down = rng.uniform(0, 8), rng.choice((rng.uniform(0.2, 2), rng.uniform(2, 12)))
        steps: tuple[Step, ...] = ()
        phase = rng.uniform(0.3, 9.7)
        if kind == "start-up":
            steps = (Step(0, "kill", FOLLOWER), Step(0.2, "start", FOLLOWER))
        elif kind == "election":
            killed += 4.0
            steps = (Step(0, "kill", LEADER), Step(0.2, "start", LEADER))
        elif kind == "hand-over":
            killed = rng.uniform(0.0, 0.1)
            steps = (Step(0, "resign", LEADER),)
        else:
            killed, phase = 0.0, rng.choice((9.7, 9.9, 10.0, 10.05, 10.1))
        steps += (Step(killed, "kv-kill"), Step(killed + down, "kv-start"))
        name = f"{kind}: KV killed after {killed:.2f} s for {down:.2f} s"
        found.append((Fault(name, steps, changes=False, backends=("etcd", "zookeeper")), phase))
    return found


FAULTS: tuple[Fault, ...] = (
    Fault("kill -9 leader", (Step(0, "kill", LEADER),), changes=True),
    Fault("kill -9 leader, restart", (Step(0, "kill", LEADER), Step(0.5, "start", LEADER)), changes=True),
    Fault(
        "SIGTERM leader, restart",
        (Step(0, "terminate", LEADER), Step(1, "start", LEADER)),
        changes=True,
        hand_over_s=1.0,
    ),
    Fault(
        "rolling restart, 10 s apart",
        (
            Step(0, "terminate", FOLLOWER),
            Step(0.5, "start", FOLLOWER),
            Step(10, "terminate", LEADER),
            Step(50, "start", LEADER),
        ),
        changes=True,
    ),
    Fault("POST /resign", (Step(0, "resign", LEADER),), changes=True, hand_over_s=1.0),
    Fault("kill -9 follower, restart", (Step(0, "kill", FOLLOWER), Step(0.5, "start", FOLLOWER)), changes=False),
    Fault(
        "follower restarted, leader killed 4 s after it is back",
        (Step(0, "kill", FOLLOWER), Step(0, "start", FOLLOWER), Step(24, "kill", LEADER), Step(24.5, "start", LEADER)),
        changes=True,
    ),
    Fault("leader killed at the first value", (Step(0, "kill-at-value", LEADER),), changes=True),
    Fault("downstream refuses 60 s", (Step(0, "refuse"), Step(60, "accept")), changes=False),
    Fault(
        "downstream refuses 30 s, kill -9 leader",
        (Step(0, "refuse"), Step(12, "kill", LEADER), Step(30, "accept")),
        changes=True,
    ),
    Fault(
        "downstream refuses 30 s, SIGTERM leader",
        (Step(0, "refuse"), Step(12, "terminate", LEADER), Step(30, "accept")),
        changes=True,
        hand_over_s=1.0,
    ),
    Fault("SIGSTOP leader 20 s", (Step(0, "stop", LEADER), Step(20, "continue", LEADER)), changes=True),
    Fault("SIGSTOP leader 4 s", (Step(0, "stop", LEADER), Step(4, "continue", LEADER)), changes=True),
    Fault("SIGSTOP follower 20 s", (Step(0, "stop", FOLLOWER), Step(20, "continue", FOLLOWER)), changes=False),
    Fault("leader's worker killed", (Step(0, "kill-worker", LEADER),), changes=True),
    Fault(
        "leader cut off from the KV 30 s",
        (Step(0, "cut", LEADER), Step(30, "join", LEADER)),
        changes=True,
        backends=("etcd", "zookeeper"),
    ),
    Fault(
        "KV stopped 15 s", (Step(0, "kv-stop"), Step(15, "kv-continue")), changes=False, backends=("etcd", "zookeeper")
    ),
    Fault("KV killed 5 s", (Step(0, "kv-kill"), Step(5, "kv-start")), changes=False, backends=("etcd", "zookeeper")),
    Fault("KV killed 30 s", (Step(0, "kv-kill"), Step(30, "kv-start")), changes=False, backends=("etcd", "zookeeper")),
    *(
        Fault(name + rule.value, steps, changes=True, rule=rule)
        for name, steps, rules in (
            (
                "rolling restart, 14 s apart",
                (
                    Step(0, "terminate", FOLLOWER),
                    Step(0.5, "start", FOLLOWER),
                    Step(14, "terminate", LEADER),
                    Step(54, "start", LEADER),
                ),
                tuple(Rule),
            ),
            ("kill -9 leader, restart", (Step(0, "kill", LEADER), Step(0.5, "start", LEADER)), (Rule.STUCK,)),
        )
        for rule in rules
    ),
    Fault("session of the leader expires", (Step(0, "expire", LEADER),), changes=True, backends=("etcd", "zookeeper")),
)

SHORT = (("SIGTERM leader, restart", 0.3), ("leader killed at the first value", 4.0), ("KV killed 5 s", 9.5))
"""Few faults that between them meet the hand-over, the lease, the flush times and the KV; phases of windows of 10 s."""
