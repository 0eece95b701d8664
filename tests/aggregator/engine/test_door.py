"""The package's public names, and its kernels' warm-up."""

from aggregator import engine
from aggregator.engine import warm


def test_public_names() -> None:
    assert sorted(engine.__all__) == engine.__all__
    assert all(hasattr(engine, name) for name in engine.__all__)


def test_warm_reports_its_steps() -> None:
    steps: list[str] = []
    warm(steps.append)
    assert [step.partition(":")[0] for step in steps] == ["aggregator.engine"] * len(steps)
    assert len(steps) >= 2
