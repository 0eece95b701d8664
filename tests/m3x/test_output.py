"""What commands print, and readers that go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from m3x.output import complain, say

ROOT = Path(__file__).parents[2]


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb")
    assert capsys.readouterr().out == "a\nb"


def test_complaints_are_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    complain("a")
    assert capsys.readouterr() == ("", "a\n")


def test_a_reader_that_has_gone_is_no_error() -> None:
    code = "from m3x.output import say\nfor _ in range(3): say('x' * 100000)\nprint('afterwards')"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["coordinator", "--help"], 0),
        (["coordinator", "-f", "configs/local/m3coordinator.yml", "--check-config"], 0),
        (["coordinator", "-f", "configs/local/m3coordinator.yml", "--explain", "up"], 0),
        (["coordinator", "-f", "configs/local/m3coordinator.yml", "--explain-rules", "127.0.0.1:1"], 1),
        (["coordinator", "-f", "none.yml"], 2),
        (["aggregator", "-f", "configs/local/m3aggregator.yml", "--check-config"], 0),
        (["aggregator"], 2),
        (["aggregator", "-f", "none.yml"], 2),
        (["m3ctl", "placement", "--coordinator", "127.0.0.1:1"], 1),
        (["m3ctl", "placement", "--json", "--coordinator", "127.0.0.1:1"], 1),
        (["m3ctl", "doctor", "--json", "--coordinator", "127.0.0.1:1"], 1),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_a_command_whose_reader_has_gone_ends_as_ever(command: list[str], code: int) -> None:
    """Standard output and standard error are a pipe that nobody reads."""
    module, *arguments = command
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=write, stderr=write, cwd=ROOT) as process:
        os.close(write)
        assert process.wait(60) == code
