"""The storm of new ids in its smallest form: known series are exact, memory stays below its limit, and new series are taken again."""

import json

import pytest
from bench.storm.command import main as storm

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


@pytest.mark.parametrize("option", ["--new", "--seconds", "--known", "--memory-mib", "--workers"])
def test_numbers_have_to_be_above_0(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        storm([option, "0"])
    assert "above 0" in capsys.readouterr().err
