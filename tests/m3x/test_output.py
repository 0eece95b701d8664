"""What commands print, and readers that go."""

import subprocess
import sys

import pytest

from m3x.output import say


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb")
    assert capsys.readouterr().out == "a\nb"


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
