"""Situations: steps at their times, and what is expected of the values that were sent meanwhile."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lab.m3db.faults import Error, Fault, Kind
from lab.m3db.namespaces import HOUR_NS, SECOND_NS, Namespace

__all__ = ["NAMESPACES", "PATIENT", "QUICK", "Situation", "Step", "killed", "paced", "short", "situations"]

NODES = ("node1", "node2", "node3")
SPARE = "node4"
PATIENT = Namespace("agg10s", retention_ns=48 * HOUR_NS, resolution_ns=10 * SECOND_NS)
"""Takes values that are ten minutes late."""
QUICK = Namespace("agg20s", retention_ns=24 * HOUR_NS, resolution_ns=20 * SECOND_NS, buffer_past_ns=6 * SECOND_NS)
"""Takes values that are a few seconds late; what waits longer is lost, and has to be counted."""
NAMESPACES = (PATIENT, QUICK)
WRITE = "writeTaggedBatchRaw"


@dataclass(frozen=True, slots=True)
class Step:
    """At ``at_s`` of a situation something happens to some nodes, or to the coordinator if there are none.

    ``action``: ``fault`` (``what``: a ``Fault`` of writes, or a pair of method and fault), ``heal``, ``down``, ``up``, ``silent``,
    ``clock`` (``what``: seconds), ``replace`` (``nodes``: the old one and the new one), ``add``, ``remove``, ``settle``; ``kill``: the
    coordinator, with -9, and it is started again; ``poison`` and ``cure``: the sender sends values with tags that no node takes, too.
    """

    at_s: float
    action: str
    nodes: tuple[str, ...] = ()
    what: Any = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What is run, and judged, on its own. ``refuses``: reasons for which values may be refused."""

    name: str
    steps: tuple[Step, ...] = ()
    lasts_s: float = 4.0
    namespace: Namespace = PATIENT
    refuses: frozenset[str] = frozenset()


def _while(name: str, nodes: Sequence[str], fault: Fault, *, until_s: float = 3.0, **more: Any) -> Situation:
    steps = (Step(0.5, "fault", tuple(nodes), fault), Step(until_s, "heal", tuple(nodes)))
    return Situation(name, steps, lasts_s=max(4.0, until_s + 1), **more)


def killed(situation: Situation, at_s: float, restart_s: float = 8.0) -> Situation:
    """The same, and the coordinator is killed and started again meanwhile; what was to follow waits until it should be back."""
    before = [step for step in situation.steps if step.at_s <= at_s]
    after = [replace(step, at_s=step.at_s + restart_s) for step in situation.steps if step.at_s > at_s]
    steps = (*before, Step(at_s, "kill"), *after)
    return replace(
        situation, name=f"{situation.name}, kill -9", steps=steps, lasts_s=situation.lasts_s + restart_s
    )  # fmt: skip


def paced(situation: Situation, factor: float) -> Situation:
    """The same in so much of its time."""
    steps = tuple(replace(step, at_s=step.at_s * factor) for step in situation.steps)
    return replace(situation, steps=steps, lasts_s=situation.lasts_s * factor)


def _one_node() -> list[Situation]:
    one = NODES[:1]
    frames = [
        _while(f"one node answers with error frames {code:02x}", one, Fault(Kind.FRAME, code=code))
        for code in (1, 2, 3, 4, 5, 6, 7, 0xFF)
    ]
    elements = [
        _while(
            f"one node answers {error.value.replace('_', ' ')} for every value", one, Fault(Kind.ELEMENTS, error=error)
        )
        for error in Error
    ]
    others = {
        Kind.HANG: "does not answer writes", Kind.EMPTY_ERROR: "answers code 1 without an error", Kind.CLOSE: "closes the connection",
        Kind.HALF: "sends half an answer and closes", Kind.WRONG_ID: "answers with wrong ids", Kind.TWICE: "answers twice",
        Kind.REVERSED: "answers in reverse order", Kind.TRICKLE: "answers a byte at a time",
        Kind.FRAGMENTS: "answers in many small frames", Kind.GARBAGE: "answers with something else",
    }  # fmt: skip
    return [
        Situation("one node is down", (Step(0.5, "down", one), Step(3.0, "up", one))),
        Situation("one node accepts and is silent", (Step(0.5, "silent", one), Step(3.0, "heal", one))),
        _while("one node is slow by half a second", one, Fault(Kind.SLOW, delay_s=0.5)),
        *frames,
        *elements,
        _while(
            "one node refuses the first value of each batch",
            one,
            Fault(Kind.ELEMENTS, error=Error.BAD_REQUEST, indices=(0,)),
        ),
        *(_while(f"one node {text}", one, Fault(kind)) for kind, text in others.items()),
        Situation("one node's clock is an hour behind", (Step(0.5, "clock", one, -3600), Step(3.0, "heal", one))),
        Situation(
            "one node says that it is not healthy",
            (Step(0.2, "fault", one, ("health", Fault(Kind.NOT_OK))), Step(3.0, "heal", one)),
        ),
        Situation(
            "one node does not answer for its health",
            (Step(0.2, "fault", one, ("health", Fault(Kind.HANG))), Step(3.0, "heal", one)),
        ),
    ]


def _several_nodes() -> list[Situation]:
    internal = Fault(Kind.ELEMENTS, error=Error.INTERNAL)
    bad = Fault(Kind.ELEMENTS, error=Error.BAD_REQUEST)
    one, two = NODES[:1], NODES[:2]
    return [
        _while("two nodes answer internal errors", two, internal),
        _while("all nodes answer internal errors", NODES, internal),
        _while("two nodes do not answer writes", two, Fault(Kind.HANG)),
        _while("two nodes take writes and do not answer", two, Fault(Kind.HANG, applied=True)),
        Situation(
            "one node is down, another one answers internal errors",
            (
                Step(0.2, "down", one),
                Step(0.5, "fault", NODES[1:2], internal),
                Step(3.0, "heal", NODES[1:2]),
                Step(3.5, "up", one),
            ),
            lasts_s=4.5,
        ),
        Situation(
            "one node refuses, another one answers internal errors",
            (
                Step(0.5, "fault", one, bad),
                Step(0.5, "fault", NODES[1:2], internal),
                Step(3.0, "heal", two),
            ),
        ),
        _while(
            "two nodes refuse", two, bad, until_s=2.0, refuses=frozenset({"bad-request"})
        ),
        Situation(
            "a node is replaced",
            (Step(0.7, "replace", (NODES[1], SPARE)), Step(2.5, "settle"), Step(3.2, "replace", (SPARE, NODES[1])), Step(4.2, "settle")),
            lasts_s=5.0,
        ),
        Situation(
            "a node is replaced and the new one is down at first",
            (
                Step(0.3, "down", (SPARE,)),
                Step(0.7, "replace", (NODES[1], SPARE)),
                Step(2.0, "up", (SPARE,)),
                Step(3.0, "settle"),
                Step(3.7, "replace", (SPARE, NODES[1])),
                Step(4.7, "settle"),
            ),
            lasts_s=5.5,
        ),
        Situation(
            "a node joins and leaves",
            (Step(0.7, "add", (SPARE,)), Step(2.0, "settle"), Step(2.7, "remove", (SPARE,)), Step(4.0, "settle")),
            lasts_s=5.0,
        ),
    ]  # fmt: skip


def _away(seconds: float, namespace: Namespace) -> Situation:
    steps = (Step(1.0, "down", NODES), Step(1.0 + seconds, "up", NODES))
    refuses = frozenset({"past-buffer"}) if namespace is QUICK else frozenset()
    what = "longer than bufferPast" if namespace is QUICK else f"for {seconds:g} s"
    return Situation(
        f"all nodes are away {what}", steps, lasts_s=seconds + 3.0, namespace=namespace, refuses=refuses
    )  # fmt: skip


def situations(away_s: float = 60.0) -> list[Situation]:
    """All of them; ``away_s``: how long all nodes are away where values can wait."""
    late_s = QUICK.buffer_past_ns / SECOND_NS
    return [
        Situation("all is well"),
        Situation(
            "some values have tags that no node takes",
            (Step(0.5, "poison"), Step(3.0, "cure")),
            refuses=frozenset({"bad-id"}),
        ),
        *_one_node(),
        *_several_nodes(),
        _away(away_s, PATIENT),
        _away(1.5 * late_s, QUICK),
    ]


_SHORT = (
    "all is well", "one node is down", "one node answers with error frames 03", "one node closes the connection",
    "one node refuses, another one answers internal errors", "two nodes answer internal errors", "two nodes refuse", "a node is replaced",
)  # fmt: skip
_PACE = 0.5


def short() -> list[Situation]:
    """Few of them that between them meet each kind of decision: less than a minute, part of every test run."""
    known = {one.name: one for one in situations(away_s=3.0)}
    *_, away, late = known.values()
    few = [paced(known[name], _PACE) for name in _SHORT]
    return [*few, away, killed(known["one node is down"], 1.5, restart_s=4.0), killed(late, 3.0, restart_s=0.0)]
