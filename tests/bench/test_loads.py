"""Benches that load instances in turn, in their smallest form."""

import shlex
import sys
from collections.abc import Callable

import pytest
from bench.beside import main as beside
from bench.low_rate import main as low_rate
from bench.scaling import main as scaling
from bench.steady import main as steady
from tests.real_servers import require_binary

OURS_AS_RIVAL = f"other={shlex.quote(sys.executable)} -m aggregator -f {{config}} --workers 1 --data-dir {{directory}}"
"""The file that a rival gets is M3's, which names no place for the journal."""


@pytest.mark.parametrize("bench", [beside, low_rate, steady])
@pytest.mark.parametrize("against", ["nothing", "=x", "ours=x", "name="])
def test_a_rival_without_a_name_of_its_own_or_a_command_is_refused(
    bench: Callable[[list[str]], int], against: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench(["--against", against])
    assert "NAME=COMMAND" in capsys.readouterr().err


@pytest.mark.integration
def test_a_rival_gets_the_same_load_as_ours(capsys: pytest.CaptureFixture[str]) -> None:
    require_binary("etcd")
    small = ["--series", "50", "--turns", "1", "--seconds", "0.2", "--warm", "0.1"]
    assert beside([*small, "--against", OURS_AS_RIVAL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["timed,", "ours", "other", "ours:", "other:"]
    assert "ours has" in lines[-1]


@pytest.mark.integration
def test_numbers_of_workers_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling(["--workers", "1,2", "--series", "50", "--turns", "1", "--seconds", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["1", "workers:"], ["2", "workers:"]]


def test_numbers_of_workers_have_to_be_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling(["--workers", "1,many"])
    assert "expected numbers" in capsys.readouterr().err


@pytest.mark.integration
def test_every_series_once_per_window_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    require_binary("etcd")
    small = ["--kind", "counter", "--series", "50", "--resolution", "1", "--past", "1s", "--seconds", "1"]
    assert steady(small) == 0
    ours = capsys.readouterr().out.splitlines()[1]
    assert "20000 of 20000 messages acked" in ours
    assert "SUMS DIFFER" not in ours
