"""Verdicts of the drill: every way in which a value can be lost or spoilt is found, and nothing else is."""

from lab.m3db.drill.sender import Sent, series_id, value_bits
from lab.m3db.drill.verdict import Held, Verdict, held_of, judge
from lab.m3db.namespaces import SECOND_NS
from lab.m3db.storage import Point, Series

NOW = 1_800_000_000
SENT = Sent("r", {(series, NOW + second) for series in range(3) for second in range(4)})
ALL = {(series_id("r", series), second * SECOND_NS): value_bits(series, second) for series, second in SENT.keys}
FIRST = (series_id("r", 0), NOW * SECOND_NS)


def verdict(held: dict[str, Held], refused: dict[str, int] | None = None, late_before_ns: int | None = None) -> Verdict:
    return judge(SENT, held, 2, refused or {}, frozenset({"past-buffer"}), late_before_ns=late_before_ns)


def without(key: tuple[bytes, int]) -> Held:
    return {other: bits for other, bits in ALL.items() if other != key}


def test_all_is_stored() -> None:
    found = verdict({"a": ALL, "b": without(FIRST), "c": ALL})
    assert (found.sent, found.stored, found.missing, found.wrong, found.failures) == (12, 12, 0, 0, [])


def test_a_minority_is_not_enough() -> None:
    found = verdict({"a": ALL, "b": without(FIRST), "c": without(FIRST)})
    assert (found.stored, found.missing) == (11, 1)
    assert found.failures == ["1 missing, 0 wrong"]
    assert found.examples == [f"{FIRST[0].decode()} at {FIRST[1]} ns is at 1 nodes"]


def test_another_value_is_wrong_wherever_it_is() -> None:
    found = verdict({"a": ALL, "b": {**ALL, FIRST: 1}, "c": ALL})
    assert (found.missing, found.wrong) == (0, 1)
    assert verdict({"a": ALL, "b": ALL, "c": {(b"x", 1): 1}}).wrong == 1


def test_what_is_refused_is_counted() -> None:
    held = {"a": without(FIRST), "b": without(FIRST), "c": ALL}
    assert verdict(held, {"past-buffer": 1}).failures == []
    assert verdict(held, {"bad-request": 1}).failures == ["refused: {'bad-request': 1}"]
    assert verdict(held, {"past-buffer": 2}).failures == ["2 values are counted as refused, but only 1 are missing"]


def test_counts_that_died_with_the_coordinator() -> None:
    held = {"a": without(FIRST), "b": without(FIRST), "c": ALL}
    assert verdict(held, late_before_ns=FIRST[1] + 1).failures == []
    assert verdict(held, late_before_ns=FIRST[1]).missing == 1
    assert verdict(held, {"past-buffer": 2}, late_before_ns=FIRST[1]).failures == []


def test_what_is_read_of_a_series() -> None:
    series = Series(b"x", b"", [])
    for bits in (1, 2):
        series.write(Point(5, bits), 10)
    assert held_of([series]) == {(b"x", 5): 2}
