"""docs/metrics.md is complete, and what it calls served is moved by the test that it names."""

import re
from pathlib import Path

import pytest
from tests.m3_dashboard_names import NAMES, Row, own, rows

TESTS = Path(__file__).resolve().parents[1]
STACK = "integration/test_metrics.py"
"""Moves all that it is named for, and says what it does not."""
ROWS = rows()
UNIT = [row for row in ROWS if row.served and row.test != STACK]


def test_every_name_has_a_row_and_nearly_all_are_served() -> None:
    assert sorted(row.name for row in ROWS) == sorted(NAMES)
    served = sum(row.served for row in ROWS)
    assert served / len(NAMES) >= 0.95
    text = (TESTS.parent / "docs/metrics.md").read_text()
    assert f"{len(NAMES)} of them; {served} are served ({100 * served / len(NAMES):.1f} %)" in text


def test_what_is_not_served_names_no_test_and_all_else_does() -> None:
    for row in ROWS:
        assert bool(row.test) == row.served, row


@pytest.mark.parametrize("row", UNIT, ids=lambda row: row.name)
def test_tests_of_single_names_speak_of_them(row: Row) -> None:
    text = re.sub(r"[-.]", "_", (TESTS / row.test).read_text())
    parts = row.name.split("_")
    ends = {"_".join(parts[k:]) for k in range(len(parts))}
    assert any(re.search(rf"(?<![a-zA-Z]){re.escape(end)}(?![a-zA-Z])", text) for end in ends if end.count("_")), row


def test_names_of_our_own_are_found_by_tests() -> None:
    for name, test in own().items():
        assert test == STACK or name.partition("_")[2] in (TESTS / test).read_text(), name
