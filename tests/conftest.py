"""Settings of the whole test suite."""

import os
from pathlib import Path, PurePath

import pytest
from hypothesis import HealthCheck, settings
from tests.golden import vectors
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from m3x import log

# Without the vectors captured from the real M3 their readers are left out; golden/test_vectors.py says so, or fails where they must be.
if not vectors.present():
    collect_ignore = sorted(
        reader for reader in {*vectors.READERS.values(), *vectors.ALSO} if Path(reader).name.startswith("test_")
    )

# A kernel's first call compiles it or loads it from the cache: no example has a deadline. Continuous integration judges a change by the
# same examples every time; new ones are looked for wherever else the tests run.
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("project")

_DEPLOYMENTS = "deployments"
_WAITING = (
    ("test_failover", "test_m3db", "test_rollup_rules"),
    ("test_acks", "test_setting_up"),
    ("test_cluster_script", "test_crash", "test_no_namespace"),
)
"""Modules of ``integration`` that mostly wait for placements, windows and leases, in rows that take about as long; the rest of
``integration`` is one row more."""
_BY_THE_CLOCK = (
    "m3cluster", "aggregator/supervisor", "aggregator/front", "aggregator/worker", "m3x/processes", "coordinator/sinks",
)  # fmt: skip
"""Suites that start processes or watch the clock: they run beside deployments, which leave them the processor, before all that computes."""


@pytest.fixture(autouse=True)
def _log_as_a_service_does() -> None:
    """Commands that tests call in this process set another level; a closed stream, written to behind a test, ends logging for good."""
    log.configure("info")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow (minutes each)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        left_out = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=_rank)


class Rows(LoadScopeScheduling):
    """With several test processes each file stays in one of them; rows of deployments begin at once, the rest runs beside them."""

    def _split_scope(self, nodeid: str) -> str:
        return _row(PurePath(nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Rows:
    """In place of those that ``--dist`` names."""
    return Rows(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long each suite took, all processes together."""
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folders = Path(report.nodeid.partition("::")[0]).parts[1:-1]
                suite = "/".join(folders[:2])
                seconds[suite] = seconds.get(suite, 0.0) + report.duration
    terminalreporter.section("time per suite", sep="-")
    for suite, took in sorted(seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{took:8.1f} s  {suite or '.'}")


def _rank(item: pytest.Item) -> int:
    """What begins first has the lowest."""
    if _row(item.path).startswith(_DEPLOYMENTS):
        return 0
    path = item.path.as_posix()
    return next((k for k, suite in enumerate(_BY_THE_CLOCK, 1) if f"tests/{suite}/" in path), len(_BY_THE_CLOCK) + 1)


def _row(path: PurePath) -> str:
    """What runs in one process, one after the other."""
    if "integration" not in path.parts:
        return str(path)
    return f"{_DEPLOYMENTS} {next((k for k, modules in enumerate(_WAITING) if path.stem in modules), len(_WAITING))}"
