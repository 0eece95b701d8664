"""The storm of new ids in its smallest form: known series are exact, memory stays below its limit, and new series are taken again."""

import json

import pytest
from bench.storm import writes
from bench.storm.command import main as storm
from bench.storm.command import table

SMALL = ["--new", "120000", "--seconds", "2", "--known", "200", "--memory-mib", "16", "--json"]


@pytest.mark.integration
def test_known_series_are_exact_while_new_ones_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert storm(SMALL) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["missing"], figures["wrong"], figures["known_refused"]) == (0, 0, 0)
    assert figures["acked"]
    assert figures["windows"] >= 1
    assert figures["taken"] > 10_000
    assert figures["refused"] > 10_000
    assert figures["taken"] + figures["refused"] == 120_000
    assert 0 < figures["tables_most_mib"] <= 16
    assert any(note.startswith("new metrics are refused: the memory limit of 16 MiB") for note in figures["notes"])
    assert figures["recovered_s"] is not None
    assert figures["growth"][0]["name"] == "storm_requests_total"


@pytest.mark.slow
@pytest.mark.integration
def test_known_series_are_exact_at_the_door_of_a_coordinator(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--coordinator", "--new", "40000", "--seconds", "2", "--known", "1000", "--memory-mib", "512", "--json"]
    assert storm(small) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["missing"], figures["wrong"]) == (0, 0)
    assert figures["arrived"] == 40_000
    assert figures["growth"][0]["name"] == "storm_requests_total"
    assert abs(figures["growth"][0]["value"] - 40_000) < 8000


@pytest.mark.parametrize(
    ("exact", "said"), [(True, "known series are exact: "), (False, "known series are NOT EXACT: ")]
)
def test_figures_say_whether_known_series_are_exact(exact: bool, said: str) -> None:
    both = {
        "known": 20,
        "new": 1000,
        "sent_s": 6.0,
        "missing": 1,
        "wrong": 2,
        "worst_late_s": 0.25,
        "sender_behind_s": 0.01,
    }
    memory = {"limit_mib": 100.0, "tables_most_mib": 60.0, "workers_before_mib": 120.0, "workers_most_mib": 195.0}
    more = {"windows": 3, "known_refused": 0, "median_late_s": 0.04, "late_s": [0.25, 0.04, 0.03], "recovered_s": 1.5}
    told = table(both | memory | more | {"exact": exact, "taken": 700, "refused": 300, "notes": []}).splitlines()
    assert told[1] == f"{said}3 windows, 1 values missing, 2 wrong, 0 refused"
    assert told[2].startswith("late: the last value of a window 0.25 s after it was due at most, 0.04 s in the median")
    assert "new ids: 700 taken, 300 refused (new-metric-memory-limit)" in told
    assert any("120 MiB before, 195 MiB at most: 0.75 times the limit more" in line for line in told)
    rounds = {
        "rounds": 3,
        "arrived": 1000,
        "refused": 0,
        "slowest_answer_s": 0.1,
        "limit_mib": 100,
        "most_mib": 90.0,
        "growth": [],
    }
    assert said in writes.table(both | rounds | {"exact": exact, "notes": []})


@pytest.mark.parametrize("option", ["--new", "--seconds", "--known", "--memory-mib", "--workers"])
def test_numbers_have_to_be_above_0(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        storm([option, "0"])
    assert "above 0" in capsys.readouterr().err
