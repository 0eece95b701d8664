"""The drill of an outage (``bench.outage``) with kill -9 meanwhile: no value that was acknowledged is missing at either store."""

import pytest
from bench.outage import main


@pytest.mark.slow
def test_an_hour_of_values_outlives_an_outage_and_twenty_deaths(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--kills", "20", "--rate", "100000", "--seed", "20"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "all acknowledged, 20 kills" in out
    assert out.count("'missing': 0") == 2, out
    assert out.count("nothing refused") == 2, out
