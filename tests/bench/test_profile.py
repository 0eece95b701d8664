"""The bench of stages: every stage that it names exists, and its smallest form finds them in real processes."""

import functools
import importlib
import json

import pytest
from bench.profile.command import main
from bench.profile.stages import STAGES, Stage


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_stages_exist(stage: Stage) -> None:
    where = importlib.import_module(stage.module)
    assert callable(functools.reduce(getattr, stage.function.split("."), where))


@pytest.mark.integration
def test_every_stage_has_a_time_under_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--series", "500", "--samples", "4", "--windows", "1", "--resolution", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    by_process = figures["us_per_sample"]
    found = {stage for stages in by_process.values() for stage, cost in stages.items() if cost > 0}
    # What takes a few microseconds for a batch may round to nothing.
    known = {"known series: snappy", "known series: parse, look up, encode"}
    assert known | {"worker: journal", "front: socket", "queue on disk"} <= found
    assert "worker: decode, look up, accumulate, build acks" in by_process["worker 0"]
    assert "sink: encode, snappy" in by_process["coordinator"]
    assert all(cost > 0 for cost in figures["limits_us_per_sample"].values())
