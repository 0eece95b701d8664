"""Series of several namespaces as one, against a plain model."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.config import Namespace
from coordinator.query.m3db.consolidate import Found, consolidated, distinct
from coordinator.query.m3db.fan_out import FanOut, Part
from coordinator.query.source import Notes, Selection, Series
from m3metrics.ids import encode_tags

Points = list[tuple[int, int]]
Answer = list[tuple[bytes, Points]]

points = st.dictionaries(st.integers(0, 9), st.integers(0, 99), min_size=1, max_size=4).map(
    lambda one: sorted(one.items())
)
answers: st.SearchStrategy[Answer] = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), points), max_size=6)
namespaces = st.builds(
    Namespace, st.just("n"), st.sampled_from([0, 10_000_000_000, 60_000_000_000]), st.sampled_from([100, 200])
)


def series_of(keys: list[bytes]) -> Series:
    encoded = [encode_tags([(b"k", key)]) for key in keys]
    size = np.array([len(one) for one in encoded], np.int64)
    arena = np.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), np.uint8)
    return Series(arena, np.cumsum(size) - size, size)


def found_of(part: Part, answer: Answer, gap: int) -> Found:
    """``gap`` points that belong to nobody stand in front of each series."""
    counts = np.array([len(rows) for _, rows in answer], np.int64)
    begins = np.cumsum(counts + gap) - counts
    padded = [row for _, rows in answer for row in [(-1, -1)] * gap + rows]
    time_ms, bits = (np.array([row[i] for row in padded], np.int64) for i in (0, 1))
    return Found(part, series_of([key for key, _ in answer]), begins, counts, time_ms, bits.view(np.uint64))


def plain(selection: Selection) -> list[tuple[bytes, int, Points]]:
    rows = list(zip(selection.time_ms.tolist(), selection.bits.tolist(), strict=True))
    return [
        (selection.tags(i)[0][1], int(selection.windows_ms[i]), rows[selection.offsets[i] : selection.offsets[i + 1]])
        for i in range(len(selection))
    ]


def model(plan: FanOut, parts: list[Answer], limit: int) -> list[tuple[bytes, int, Points]]:
    order = plan.order()
    keys = list(dict.fromkeys(key for index in order for key, _ in parts[index]))
    result = []
    for key in keys[: limit or None]:
        holders = [index for index in order if any(key == one for one, _ in parts[index])]
        used = holders[:1]
        if plan.parts[used[0]].last_ns is not None:
            used += [index for index in holders[1:] if plan.parts[index].first_ns is not None]
        merged = {time: value for index in used for one, rows in parts[index] if one == key for time, value in rows}
        window_ms = plan.parts[used[0]].namespace.resolution_ns // 1_000_000
        result.append((key, window_ms, sorted(merged.items())))
    return result


@given(
    st.lists(st.tuples(namespaces, answers), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 4),
    st.integers(0, 1),
)
def test_one_namespace_for_each_series(
    asked: list[tuple[Namespace, Answer]], covers: bool, limit: int, gap: int
) -> None:
    plan = FanOut(covers, tuple(Part(namespace) for namespace, _ in asked))
    found = [found_of(part, answer, gap) for part, (_, answer) in zip(plan.parts, asked, strict=True)]
    selection = consolidated(plan, found, limit)
    expected = model(plan, [answer for _, answer in asked], limit)
    assert plain(selection) == expected
    keys = {key for _, answer in asked for key, _ in answer}
    assert selection.notes.limited == (0 < limit < len(keys))


@given(answers, answers, answers)
def test_the_most_recent_time_is_added(late: Answer, finer: Answer, recent: Answer) -> None:
    coarse, fine, raw = Namespace("late", 60 * 10**9, 9), Namespace("fine", 10**10, 9), Namespace("raw", 0, 1)
    plan = FanOut(True, (Part(coarse, last_ns=5), Part(fine), Part(raw, first_ns=5)))
    parts = [late, finer, recent]
    found = [found_of(part, answer, 0) for part, answer in zip(plan.parts, parts, strict=True)]
    assert plain(consolidated(plan, found)) == model(plan, parts, 0)


def test_preference_by_resolution_or_by_retention() -> None:
    coarse, fine = Namespace("coarse", 60 * 10**9, 200), Namespace("fine", 10**10, 100)
    for covers, expected in [(True, (10_000, 2)), (False, (60_000, 1))]:
        plan = FanOut(covers, (Part(coarse), Part(fine)))
        found = [found_of(part, [(b"a", [(0, value)])], 0) for part, value in zip(plan.parts, (1, 2), strict=True)]
        ((_, window_ms, rows),) = plain(consolidated(plan, found))
        assert (window_ms, rows[0][1]) == expected


@given(st.lists(st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=4), min_size=1, max_size=3))
def test_series_without_points_are_listed_once(parts: list[list[bytes]]) -> None:
    listed = distinct([series_of(keys) for keys in parts])
    got: list[Any] = [listed.tags(i)[0][1] for i in range(len(listed))]
    assert got == list(dict.fromkeys(key for keys in parts for key in keys))


def test_notes_come_along() -> None:
    one, other = series_of([b"a"]), series_of([b"b"])
    one.notes, other.notes = Notes(warnings=("x",)), Notes(limited=True, places=("n",))
    assert distinct([one, other]).notes == Notes(True, ("x",), ("n",))
