"""Which process is exchanged when, and what is done with it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from m3ctl.leaders import Member, ShardSetState
from m3ctl.migrate.whose import M3S, OURS

__all__ = ["Action", "Step", "aggregator_steps", "coordinator_steps"]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, or to wait for."""

    kind: Literal["check", "hand over", "stop", "start", "wait"]
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """One process. ``runs``: whose it is now; ``role``: what it is in its shard set now."""

    service: Literal["m3aggregator", "m3coordinator"]
    instance: str
    runs: str
    role: str
    shard_set: int
    actions: Sequence[Action]


def aggregator_steps(sets: Sequence[ShardSetState], whose: Mapping[str, str], *, back: bool) -> list[Step]:
    """Shard set after shard set, followers before leaders; who is exchanged already is left out."""
    done = M3S if back else OURS
    found = []
    for one in sets:
        members = sorted(one.members, key=lambda m: (m.state == "leader", m.target.id))
        left = [m for m in members if m.target.instance is not None and whose.get(m.target.id) != done]
        found += [_aggregator(one, member, whose.get(member.target.id, ""), back) for member in left]
    return found


def _aggregator(one: ShardSetState, member: Member, runs: str, back: bool) -> Step:
    ident, others = member.target.id, [m.target.id for m in one.members if m.target.id != member.target.id]
    new, old = ("M3's", "ours") if back else ("ours", "M3's")
    actions = [Action("check", "m3ctl migrate says that it is safe")]
    if not back:
        actions.append(
            Action("check", f"on its host: m3aggregator -f FILE --check-config, with the file that {ident} has now")
        )
    if member.state == "leader" and others:
        actions += [
            Action("hand over", f"m3ctl resign {ident}: {' or '.join(others)} leads at once"),
            Action("wait", f"until m3ctl leaders says that {' or '.join(others)} leads shard set {one.number}"),
        ]
    endpoint = "" if member.target.instance is None else member.target.instance.endpoint
    actions += [
        Action("stop", f"{old} on {member.target.instance.host if member.target.instance else ident}, with SIGTERM"),
        Action("wait", f"until the process has ended and {endpoint} takes no connections"),
        Action("start", f"{new} on the same host with the same file and environment, so that its id stays {ident}")
        if back
        else Action(
            "start",
            f"{new} on the same host: m3aggregator -f FILE --data-dir DIR, same environment, so that its id stays {ident}",
        ),
        Action("wait", f"until {member.target.url}{'/status' if back else '/ready'} answers 200"),
    ]
    if others:
        actions.append(
            Action("wait", f"until m3ctl leaders says that {ident} can lead: it has to see whole windows first")
        )
    return Step("m3aggregator", ident, runs, member.state or "no answer", one.number, actions)


def coordinator_steps(whose: Mapping[str, str], *, back: bool) -> list[Step]:
    """After the aggregators: the new one comes beside the old one, which then leaves."""
    done, (new, old) = (M3S, ("M3's", "ours")) if back else (OURS, ("ours", "M3's"))
    found = []
    for ident in sorted(ident for ident, runs in whose.items() if runs != done):
        actions = (
            Action(
                "start", f"{new} beside it with the same file, on another host or on other ports, with an id of its own"
            ),
            Action(
                "check",
                "its /ready; of ours first: m3coordinator -f FILE --check-config" if not back else "its /health",
            ),
            Action(
                "start", "its part of the work: POST /api/v1/services/m3coordinator/placement with its ingest endpoint"
            ),
            Action(
                "wait",
                "until it stores what comes (the topic is SHARED: each message goes to one of them), and compare",
            ),
            Action("stop", f"the writes to {old} {ident}: take it out of the load balancer"),
            Action("stop", f"its ingest: DELETE /api/v1/services/m3coordinator/placement/{ident}"),
            Action(
                "wait",
                "until nothing of it is unacknowledged: m3ctl flush-times go on, producers connect to the others",
            ),
            Action("stop", f"{old} {ident}, with SIGTERM"),
        )
        found.append(Step("m3coordinator", ident, whose[ident], "", 0, actions))
    return found
