"""``python -m aggregator.warmup``."""

import pytest

from aggregator import warmup


def test_one_line_per_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "PACKAGES", ("m3msg.kernels",))
    assert warmup.main(["--also", "aggregator.front"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "compiling kernels 1/2 m3msg.kernels",
        "compiling kernels 2/2 aggregator.front",
    ]


@pytest.mark.parametrize("name", ["aggregator.no_such_package", "aggregator.ipc"])
def test_a_package_that_cannot_be_warmed_is_named(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert warmup.main(["--also", name]) == 1
    assert name in capsys.readouterr().out.splitlines()[-1]
