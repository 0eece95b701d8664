"""How tables, times and shard ids are written; and that the modules offer what they say."""

import importlib
import json
import pkgutil

import pytest

import m3ctl
from m3ctl.report import Report, Table, age, clock, ranges, shown_duration

SECOND_NS = 1_000_000_000


def test_a_table_is_aligned_and_has_no_spaces_at_the_end_of_lines() -> None:
    table = Table(("name", "count>", "state"), [("a", "1", "up"), ("longer", "1000", "-")])
    assert table.lines() == ["NAME    COUNT  STATE", "a           1  up", "longer   1000  -"]


def test_an_empty_table_is_its_header() -> None:
    assert Table(("name", "count>")).lines() == ["NAME  COUNT"]


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [([], "-"), ([7], "7"), ([3, 1, 2, 9], "1-3, 9"), (range(64), "0-63"), ([0, 2, 4], "0, 2, 4")],
)
def test_ranges(numbers, shown: str) -> None:
    assert ranges(numbers) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 m 0 s"),
        (3599.9, "59 m 59 s"),
        (3600, "1 h 0 m"),
        (47 * 3600 + 59, "47 h 0 m"),
        (2 * 86400 + 3600, "2 d 1 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert shown_duration(seconds) == shown


def test_times() -> None:
    now = 1_700_000_000 * SECOND_NS
    assert clock(now) == "2023-11-14 22:13:20 UTC"
    assert clock(0) == "never"
    assert age(now - 5 * SECOND_NS, now) == "5.0 s ago"
    assert age(now + 90 * SECOND_NS, now) == "in 1 m 30 s"
    assert age(0, now) == ""


def test_a_report_with_problems_is_not_ok() -> None:
    report = Report({"a": 1}, ["head"], ["it is broken"], ["by the way"])
    assert report.text() == "head\nproblem: it is broken\nnote: by the way"
    assert json.loads(report.json()) == {"a": 1, "ok": False, "problems": ["it is broken"], "notes": ["by the way"]}
    report.problems_shown = True
    assert report.text() == "head\nnote: by the way"


@pytest.mark.parametrize(
    "name", [one.name for one in pkgutil.walk_packages(m3ctl.__path__, "m3ctl.") if one.name != "m3ctl.__main__"]
)
def test_public_names_exist_and_are_named_once(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for exported in module.__all__:
        assert hasattr(module, exported), exported
