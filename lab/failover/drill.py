"""Makes faults happen to a running pair, one after another, and judges each."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lab.failover.cluster import NUM_SHARDS, Aggregator, Cluster
from lab.failover.consumer import Consumer
from lab.failover.judge import Verdict, judge
from lab.failover.load import COUNTERS, PER_SECOND, RULE_IDS, Load, Replica
from lab.failover.plan import FOLLOWER, LEADER, Fault, Plan, Rule, Step, Timing, make_plan
from lab.waiting import wait_until

__all__ = ["Drill", "Outcome", "drill"]

_POLL_S, _QUICK_POLL_S = 0.25, 0.02
_POLL_NS = int(_POLL_S * 1e9)
_QUICK_FOR_S = 3.0
"""So long after each step the election state is asked for quickly; asking costs the instance CPU time."""
_GRACE_S = 10.0
"""Values that are not there when all should be are waited for so much longer; their delay shows it."""
_LATE_STEP_S = 0.5
_NAMED_S = 30.0
"""So long after a value that nobody acknowledges went out, its policy is to be named in ``/ready`` of the leader."""


@dataclass(slots=True)
class Outcome:
    """What a fault did."""

    fault: str
    phase_s: float
    backend: str
    plan: Plan
    verdict: Verdict
    hand_over_s: float | None
    """From the first step until another instance said that it leads; None: none did."""
    after_back_s: float | None
    """From the end of the refusal until the last value that was due by then had arrived; None: nothing was refused."""
    named_s: float | None = None
    """From the first value that nobody acknowledges until its policy was named; None: there was none."""
    invalid: list[str] = field(default_factory=list)
    """Why the run says nothing: something took longer than the plan had assumed."""

    @property
    def failures(self) -> list[str]:
        """Why the fault is not passed."""
        found = []
        verdict, fault = self.verdict, self.plan.fault
        if not verdict.clean:
            found.append(f"{verdict.missing} missing, {verdict.wrong} wrong, {verdict.doubled} doubled")
        if self.plan.share < 0.9 or verdict.judged < 0.85 * (verdict.judged + verdict.outside):
            found.append(f"only {verdict.judged} of {verdict.judged + verdict.outside} judged")
        if fault.changes and self.hand_over_s is None:
            found.append("the lead did not change")
        if fault.hand_over_s and self.hand_over_s is not None and self.hand_over_s > fault.hand_over_s:
            found.append(f"handing over took {self.hand_over_s:.2f} s")
        if self.named_s is not None and self.named_s > _NAMED_S:
            found.append(f"the policy that nobody stores was named after {self.named_s:.1f} s")
        if self.after_back_s is not None and self.after_back_s > 10.0:
            found.append(f"the last value came {self.after_back_s:.1f} s after downstream was back")
        return found


class _Watch:
    """Asks an instance for its election state again and again, and remembers the changes."""

    def __init__(self, instance: Aggregator) -> None:
        self.changes: list[tuple[int, str]] = []
        self._instance = instance
        self._end = threading.Event()
        self._quick_until = 0.0
        self._thread = threading.Thread(target=self._run, name=f"watch {instance.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last = None
        while not self._end.wait(_QUICK_POLL_S if time.monotonic() < self._quick_until else _POLL_S):
            if not self._instance.running or self._instance.stopped:
                state = ""
            else:
                state = str(self._instance.flush_status().get("electionState", ""))
            if state != last:
                self.changes.append((time.time_ns(), state))
                last = state

    def hurry(self) -> None:
        """Something happens now."""
        self._quick_until = time.monotonic() + _QUICK_FOR_S

    def close(self) -> None:
        """Ends asking."""
        self._end.set()
        self._thread.join(5)

    def leads_since(self, since_ns: int) -> float | None:
        """Seconds from then until it began to lead."""
        return next(((at - since_ns) / 1e9 for at, state in self.changes if at >= since_ns and state == "leader"), None)


class Drill:
    """A pair under load."""

    def __init__(self, backend: str, timing: Timing, cluster: Cluster, consumer: Consumer, load: Load) -> None:
        self.backend, self.timing = backend, timing
        self.cluster, self.consumer, self.load = cluster, consumer, load

    # --- before and after a fault

    def recover(self) -> None:
        """Returns when both instances are there, one leads, and the other waits for the lead: it holds complete windows.

        In a new cluster without flush times everybody could lead; what that means shows when windows of every list were flushed.
        """
        begun = len(self.consumer.arrivals)
        for instance in self.cluster.instances.values():
            if not instance.running:
                instance.start()
        replicas = list(self.load.replicas.values())
        wait_until("the producer is connected", lambda: all(r.connected for r in replicas), 120)
        wait_until("somebody leads", self.cluster.leader, 120)
        wait_until("a timed window arrives", lambda: self._timed_since(begun), 180, every_s=0.5)
        wait_until("both could lead", self._all_could_lead, 180)
        wait_until("both are candidates", lambda: self.cluster.candidates() == len(replicas), 180, every_s=0.5)
        wait_until("everything is acked", lambda: all(len(r.unacked) < 2000 for r in replicas), 60)

    def _timed_since(self, begun: int) -> bool:
        return any(b".timed." in ident for ident, *_ in self.consumer.arrivals[begun:])

    def _all_could_lead(self) -> bool:
        return all(i.flush_status().get("canLead") for i in self.cluster.instances.values())

    def _begin_rule(self, *, stuck: bool) -> float | None:
        """Sends the series of the rule until all of them have come out; if nobody acknowledges them, until the leader says so: returns how
        long that took from the first of them."""
        self.consumer.ignored, self.consumer.ignored_ns = RULE_IDS if stuck else frozenset(), 0
        begun = len(self.consumer.arrivals)
        self.load.rule = True
        if not stuck:
            wait_until("the rule's series arrive", lambda: self._since(begun) >= RULE_IDS, 180, every_s=0.5)
            return None
        wait_until("a value that nobody acknowledges goes out", lambda: self.consumer.ignored_ns, 120)
        policy = f"{self.timing.resolution_s}s:31d"

        def named() -> bool:
            leader = self.cluster.leader()
            return leader is not None and any(policy in note for note in leader.json("/ready", 2.0)["notes"])

        wait_until("the leader names its policy", named, 2 * _NAMED_S)
        return (time.time_ns() - self.consumer.ignored_ns) / 1e9

    def _since(self, begun: int) -> set[bytes]:
        return {ident for ident, *_ in self.consumer.arrivals[begun:]}

    # --- a fault

    def run(self, fault: Fault, phase_s: float) -> Outcome:
        """One fault at one phase of a window."""
        self.recover()
        named_s = None if fault.rule is Rule.NONE else self._begin_rule(stuck=fault.rule is Rule.STUCK)
        timing, load = self.timing, self.load
        plan = make_plan(fault, phase_s, timing)
        resolution_ns = load.resolution_ns
        first = (time.time_ns() // resolution_ns + 1) * resolution_ns
        moment = first + resolution_ns + int(phase_s * 1e9)
        begun = len(self.consumer.arrivals)
        left_out = load.left_out
        watches = {name: _Watch(instance) for name, instance in self.cluster.instances.items()}
        try:
            times = self._steps(plan, moment, watches.values())
            starts = [first + k * resolution_ns for k in range(plan.windows)]
            end = starts[-1] + resolution_ns + int((timing.due_s(1) + 2.0) * 1e9)
            _sleep_until(end)
            outcome = self._judge(plan, begun, starts)
            deadline = time.monotonic() + _GRACE_S
            while outcome.verdict.missing and time.monotonic() < deadline:
                time.sleep(0.5)
                outcome = self._judge(plan, begun, starts)
        finally:
            for watch in watches.values():
                watch.close()
            load.rule = False
        roles, done = times
        outcome.named_s = named_s
        outcome.hand_over_s = watches[roles[FOLLOWER].name].leads_since(_hand_over_begins(done, moment))
        outcome.after_back_s = self._after_back(done, begun, starts)
        outcome.invalid = self._invalid(plan, moment, roles, done)
        # Of the counters' ticks; those that are left out are left out for everybody, but a fault under no load shows nothing.
        if load.left_out - left_out > plan.windows * self.timing.resolution_s * PER_SECOND // 2:
            outcome.invalid.append(f"the machine is too slow: {load.left_out - left_out} ticks without counters")
        if not outcome.verdict.clean:
            outcome.verdict.examples += self._story(begun, moment, starts, outcome.verdict.worst)
        return outcome

    def _steps(
        self, plan: Plan, moment: int, watches: Iterable[_Watch]
    ) -> tuple[dict[str, Aggregator], list[tuple[Step, int]]]:
        _sleep_until(moment - 10**9)
        leader = wait_until("somebody leads", self.cluster.leader, 20)
        other = next(i for i in self.cluster.instances.values() if i is not leader)
        roles = {LEADER: leader, FOLLOWER: other}
        done = []
        for step in sorted(plan.fault.steps, key=lambda s: s.at_s):
            _sleep_until(moment + int(step.at_s * 1e9) - _POLL_NS)
            for watch in watches:
                watch.hurry()
            _sleep_until(moment + int(step.at_s * 1e9))
            began = time.time_ns()
            self._do(step, roles.get(step.who))
            done.append((step, began if step.action not in {"kill-at-value", "accept"} else time.time_ns()))
        return roles, done

    def _do(self, step: Step, instance: Aggregator | None) -> None:
        if step.action == "refuse":
            self.consumer.refuse()
        elif step.action == "accept":
            self.consumer.accept()
        elif instance is None:
            self.cluster.kv.fault(step.action, "")
        elif step.action == "resign":
            threading.Thread(target=instance.post, args=("/resign",), daemon=True).start()
        elif step.action == "kill-at-value":
            self.consumer.wait_next(self.timing.resolution_s + 5.0)
            instance.kill()
        elif step.action == "start":
            # Its end may take a moment; the next step does not wait for it.
            threading.Thread(target=instance.start, daemon=True).start()
        elif step.action in {"cut", "join", "expire"}:
            self.cluster.kv.fault(step.action, instance.name)
        else:
            {
                "kill": instance.kill,
                "kill-worker": instance.kill_worker,
                "terminate": instance.terminate,
                "stop": instance.stop,
                "continue": instance.go_on,
            }[step.action]()

    # --- the judgement

    def _judge(self, plan: Plan, begun: int, starts: list[int]) -> Outcome:
        def kind(series: int) -> int:
            return int(series >= COUNTERS)

        verdict = judge(
            self.load.expected,
            self.consumer.arrivals[begun:],
            self.load.number,
            starts,
            self.load.resolution_ns,
            lambda series, window: window in plan.judged[kind(series)],
            lambda series: int(self.timing.due_s(kind(series)) * 1e9),
        )
        return Outcome(plan.fault.name, plan.phase_s, self.backend, plan, verdict, None, None)

    def _story(self, begun: int, moment: int, starts: list[int], series: int) -> list[str]:
        """Everything about a series that went wrong, and about the producer."""

        def since(at: int) -> str:
            return f"{(at - moment) / 1e9:+.2f} s"

        ident = self.load.ids[series]
        story = [f"all of {ident.decode()}, times from the moment of the fault:"]
        story += [
            f"window {since(start)}: sent {self.load.expected[start][series]:g}"
            for start in starts
            if start in self.load.expected
        ]
        story += [
            f"arrived {since(at)}: window {since(end - self.load.resolution_ns)} = {value:g}"
            for name, end, value, at in self.consumer.arrivals[begun:]
            if name == ident
        ]
        story += [
            f"producer to {r.name}: connected {[since(c) for c in r.connects]}, broken {[since(at) for at, _ in r.breaks]}, "
            f"{len(r.unacked)} unacked"
            for r in self.load.replicas.values()
        ]
        story.append(
            f"producer: ticks at most {self.load.latest_ns / 1e9:.3f} s late, {self.load.left_out} without counters"
        )
        return story

    def _after_back(self, done: list[tuple[Step, int]], begun: int, starts: list[int]) -> float | None:
        back = next((at for step, at in done if step.action == "accept"), None)
        if back is None:
            return None
        first: dict[tuple[bytes, int], int] = {}
        for ident, end, _, at in self.consumer.arrivals[begun:]:
            first.setdefault((ident, end), at)
        last = max(
            (
                at
                for (ident, end), at in first.items()
                if end > starts[0]
                and end + int(self.timing.due_s(int(self.load.number[ident] >= COUNTERS)) * 1e9) <= back
            ),
            default=back,
        )
        return max(last - back, 0) / 1e9

    def _invalid(
        self, plan: Plan, moment: int, roles: dict[str, Aggregator], done: list[tuple[Step, int]]
    ) -> list[str]:
        found = []
        for step, at in done:
            late_s = (at - moment) / 1e9 - step.at_s
            if late_s > _LATE_STEP_S and step.action not in {"kill-at-value", "kv-start"}:
                found.append(f"{step.action} came {late_s:.1f} s late")
        for role, instance in roles.items():
            replica = self.load.replicas[instance.name]
            gone = [a for a in plan.absences if a.who == role]
            for at, _ in replica.breaks:
                when = (at - moment) / 1e9
                if when > -plan.phase_s and not any(a.may_be_gone(when) for a in gone):
                    found.append(f"the producer lost its connection to the {role} {when:.1f} s after the moment")
            late = [
                when
                for at in replica.late_acks
                if (when := (at - moment) / 1e9) > -self.timing.resolution_s - plan.phase_s
            ]
            late = [when for when in late if not any(a.may_be_gone(when) for a in gone)]
            if late:
                found.append(
                    f"the machine is too slow: the {role} acked counters after their window, {late[0]:.1f} s after the moment"
                )
            # The producer stays connected to an instance whose worker was killed.
            for absence in gone if all(step.action != "kill-worker" for step, _ in done) else ():
                back = [(at - moment) / 1e9 for at in replica.connects if (at - moment) / 1e9 > absence.begin]
                if not absence.memory and absence.end < float("inf") and (not back or back[-1] > absence.end):
                    found.append(f"the {role} was not back in time: {back} s, planned {absence.end:.1f} s")
        return found


def _hand_over_begins(done: list[tuple[Step, int]], moment: int) -> int:
    """When the lead could first change."""
    return next((at for step, at in done if step.who == LEADER), moment)


def _sleep_until(at_ns: int) -> None:
    while (left := (at_ns - time.time_ns()) / 1e9) > 0:
        time.sleep(min(left, 0.5))


@contextmanager
def drill(backend: str, timing: Timing) -> Iterator[Drill]:
    """A pair that is started, warm and under load; everything is gone afterwards."""
    consumer = Consumer()
    load = Load(timing.resolution_s, NUM_SHARDS)
    try:
        with Cluster(backend, timing, consumer.address) as cluster:
            for name in ("a", "b"):
                instance = cluster.add(name, 1, name)
                load.add(Replica(name, instance.socket_address))
            cluster.prepare()
            for instance in cluster.instances.values():
                instance.start()
            load.start()
            yield Drill(backend, timing, cluster, consumer, load)
    finally:
        load.stop()
        consumer.close()
