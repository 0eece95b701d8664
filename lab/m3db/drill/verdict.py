"""What became of the values of a row: at a majority of the nodes, or not, and then why."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lab.m3db.drill.sender import Sent, series_id, value_bits
from lab.m3db.namespaces import SECOND_NS
from lab.m3db.storage import Series

__all__ = ["Held", "Verdict", "held_of", "judge"]

Held = dict[tuple[bytes, int], int]
"""Id and time in ns → bits of the value that would be read."""
_EXAMPLES = 5


def held_of(series: Iterable[Series]) -> Held:
    """What a node holds."""
    return {(one.id, point.time_ns): point.bits for one in series for point in one.points()}


@dataclass(slots=True)
class Verdict:
    """Counts of values."""

    sent: int = 0
    stored: int = 0
    """At a majority, with the right value."""
    missing: int = 0
    """Neither stored nor counted as refused."""
    wrong: int = 0
    """Of another value at a node, or at a node and never sent."""
    refused: dict[str, int] = field(default_factory=dict)
    """By reason, as the coordinator counted them."""
    failures: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


def judge(
    sent: Sent,
    held: Mapping[str, Held],
    majority: int,
    refused: Mapping[str, int],
    allowed: frozenset[str],
    *,
    late_before_ns: int | None,
) -> Verdict:
    """Judges a row whose values are all acknowledged and delivered.

    ``held``: by node. ``refused``: what the coordinator has counted in all of its lives, ``allowed``: reasons that there may be.
    ``late_before_ns``: where the coordinator died: values before that time were too old then. It may have refused some of them a moment
    before, so that nobody saw the count, and may have refused and counted others again in its next life.
    """
    verdict = Verdict(sent=len(sent.keys), refused=dict(refused))
    found: Counter[tuple[bytes, int]] = Counter()
    expected = {
        (series_id(sent.row, number), second * SECOND_NS): value_bits(number, second) for number, second in sent.keys
    }
    for name, values in held.items():
        for key, bits in values.items():
            if expected.get(key) == bits:
                found[key] += 1
            else:
                verdict.wrong += 1
                _example(verdict, f"{name} holds {key[0].decode()} at {key[1]} ns with bits {bits:016x}")
    absent = [key for key in expected if found[key] < majority]
    verdict.stored = len(expected) - len(absent)
    counted = sum(refused.values())
    verdict.missing = max(len(absent) - counted, 0)
    if late_before_ns is not None:
        verdict.missing = max(verdict.missing - sum(key[1] < late_before_ns for key in absent), 0)
    elif counted > len(absent):
        verdict.failures.append(f"{counted} values are counted as refused, but only {len(absent)} are missing")
    if verdict.missing:
        for key in absent[:_EXAMPLES]:
            _example(verdict, f"{key[0].decode()} at {key[1]} ns is at {found[key]} nodes")
    if others := {reason: n for reason, n in refused.items() if n and reason not in allowed}:
        verdict.failures.append(f"refused: {others}")
    if verdict.missing or verdict.wrong:
        verdict.failures.append(f"{verdict.missing} missing, {verdict.wrong} wrong")
    return verdict


def _example(verdict: Verdict, text: str) -> None:
    if len(verdict.examples) < _EXAMPLES:
        verdict.examples.append(text)
