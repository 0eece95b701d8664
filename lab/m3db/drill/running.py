"""A situation on a deployment: its steps at their times, then the verdict."""

import time
from dataclasses import dataclass
from typing import Any

from lab.m3db.drill.deployment import Deployment, settled
from lab.m3db.drill.plan import NODES, Situation, Step
from lab.m3db.drill.sender import Sender
from lab.m3db.drill.verdict import Held, Verdict, held_of, judge
from lab.m3db.namespaces import SECOND_NS

__all__ = ["Outcome", "run"]

_SETTLE_S = 120.0
_MAJORITY = 2
_SLACK_NS = SECOND_NS
"""What is judged by the time of a death may be off by so much."""


@dataclass(slots=True)
class Outcome:
    """A row of the table."""

    situation: Situation
    verdict: Verdict
    settled_s: float
    """From the last value until all was acknowledged and delivered."""

    def record(self) -> dict[str, Any]:
        """Flat."""
        verdict = self.verdict
        return {
            "situation": self.situation.name, "sent": verdict.sent, "stored": verdict.stored,
            "refused": {reason: n for reason, n in sorted(verdict.refused.items()) if n}, "missing": verdict.missing,
            "wrong": verdict.wrong, "settled_s": round(self.settled_s, 2), "failures": verdict.failures,
        }  # fmt: skip


def run(deployment: Deployment, sender: Sender, situation: Situation, row: str) -> Outcome:
    """Runs one situation. All nodes are well when it begins, and when it ends."""
    for node in deployment.nodes.values():
        node.clear()
    before = deployment.coordinator.refused()
    holding = _Holding(deployment, situation)
    sent = sender.begin(row, situation.namespace)
    begun, killed_ns = time.monotonic(), 0
    for step in situation.steps:
        time.sleep(max(begun + step.at_s - time.monotonic(), 0))
        if step.action == "settle":
            holding.stream()
        if step.action in ("poison", "cure"):
            sender.poisons = step.action == "poison"
        _do(deployment, step)
        if step.action == "kill":
            killed_ns = time.time_ns()
    time.sleep(max(begun + situation.lasts_s - time.monotonic(), 0))
    sender.pause()
    paused = time.monotonic()
    failures = []
    try:
        settled(deployment, sender.unacked, _SETTLE_S)
    except TimeoutError as error:
        failures.append(str(error))
    took = time.monotonic() - paused
    late_ns = None
    if killed_ns:
        late_ns = killed_ns - situation.namespace.buffer_past_ns + _SLACK_NS
    refused = deployment.coordinator.refused() - before
    verdict = judge(sent, holding.all(row), _MAJORITY, refused, situation.refuses, late_before_ns=late_ns)
    verdict.failures += failures
    for name, node in deployment.nodes.items():
        verdict.failures += [f"{name} was sent: {text}" for text in node.take_violations()]
    return Outcome(situation, verdict, took)


def _do(deployment: Deployment, step: Step) -> None:
    nodes = [deployment.nodes[name] for name in step.nodes]
    if step.action == "kill":
        deployment.coordinator.kill()
    elif step.action in ("replace", "add", "remove", "settle"):
        deployment.change(step.action, step.nodes)
    elif step.action == "heal":
        deployment.heal(step.nodes)
    for node in nodes:
        if step.action == "fault":
            method, fault = step.what if isinstance(step.what, tuple) else ("writeTaggedBatchRaw", step.what)
            node.fault(method, fault)
        elif step.action in ("down", "up"):
            node.listen(step.action == "up")
        elif step.action == "silent":
            node.be_silent(True)
        elif step.action == "clock":
            node.set_clock(step.what * SECOND_NS)


class _Holding:
    """What nodes hold of a row. A played node streams nothing when shards come to it: that is put in here, as a real one would have it."""

    def __init__(self, deployment: Deployment, situation: Situation) -> None:
        self._deployment, self._namespace = deployment, situation.namespace.name
        self._streamed: dict[str, Held] = {name: {} for name in deployment.nodes}

    def _of(self, name: str) -> Held:
        return held_of(self._deployment.nodes[name].series(self._namespace))

    def stream(self) -> None:
        """Shards that are INITIALIZING have what their sources have; those are still there."""
        placement = self._deployment.placement.placement
        now = {name: {**self._streamed[name], **self._of(name)} for name in self._deployment.nodes}
        for instance in placement.instances:
            for source in {shard.source_id for shard in instance.shards if shard.source_id}:
                # What a node has of shards that are not its own does not count in the end.
                self._streamed[instance.id] = {**self._streamed[instance.id], **now[source]}

    def all(self, row: str) -> dict[str, Held]:
        """By node of the placement, what it holds of the shards that are its own."""
        mark = f'row="{row}"'.encode()
        members = {instance.id for instance in self._deployment.placement.placement.instances}
        assert members == set(NODES)
        return {
            name: {key: bits for key, bits in {**self._streamed[name], **self._of(name)}.items() if mark in key[0]}
            for name in members
        }
