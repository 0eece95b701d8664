"""The systemd units: systemd takes them, they let the services do little else than their work, and name what exists."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aggregator.cli import _parser as aggregator_parser
from coordinator.cli import _parser as coordinator_parser

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
PREFIX = "/opt/m3"
MOST_EXPOSED = 1.5
"""Of 10, as ``systemd-analyze security`` counts."""


def settings(unit: Path) -> dict[str, list[str]]:
    """Each key with its values in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture(params=UNITS, ids=lambda unit: unit.stem)
def unit(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def here(unit: Path, tmp_path: Path) -> Path:
    """The unit with its programs at a place that this machine has."""
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("REQUIRE_SERVERS"):
            pytest.fail("systemd-analyze is not installed")
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "bin" / unit.stem
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PREFIX, str(tmp_path)))
    return copy


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
    )  # fmt: skip


def test_there_is_one_for_each_service() -> None:
    assert [unit.stem for unit in UNITS] == ["m3aggregator", "m3coordinator"]


def test_systemd_takes_it(here: Path) -> None:
    done = analyze("verify", "--man=no", here)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_fault_would_be_found(here: Path) -> None:
    here.write_text(here.read_text().replace("WatchdogSec=60", "WatchdogSec=often\nProtectSytem=yes"))
    found = analyze("verify", "--man=no", here).stderr
    assert "often" in found
    assert "ProtectSytem" in found


def test_it_is_exposed_little(here: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", here)
    assert done.returncode == 0, done.stdout


def test_it_is_called_as_the_command_wants_it(unit: Path) -> None:
    parser = {"m3aggregator": aggregator_parser, "m3coordinator": coordinator_parser}[unit.stem]()
    found = settings(unit)
    for command in found["ExecStartPre"] + found["ExecStart"]:
        program, *arguments = command.split()
        assert program == f"{PREFIX}/bin/{unit.stem}"
        parser.parse_args(arguments)


def test_its_folders_are_those_that_it_is_told(unit: Path) -> None:
    """What the example file and the command line name can be written."""
    found = settings(unit)
    example = (ROOT / "configs" / f"{unit.stem}.yml").read_text()
    named = set(re.findall(r"/var/lib/([\w-]+)", example + found["ExecStart"][0]))
    assert named <= set(found["StateDirectory"][0].split())
    assert f"/etc/{unit.stem}/{unit.stem}.yml" in found["ExecStart"][0]
    assert found["ConfigurationDirectory"] == [unit.stem]
    assert "CacheDirectory" in found


def test_what_it_compiles_may_be_run(unit: Path) -> None:
    assert "MemoryDenyWriteExecute" not in settings(unit)


def test_no_key_is_given_twice_but_those_that_add_up(unit: Path) -> None:
    twice = {key for key, values in settings(unit).items() if len(values) > 1}
    assert twice <= {"SystemCallFilter"}
