"""Every command speaks JSON: the keys that docs/m3ctl.md has, exit codes as without it, also where nothing answers."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.m3ctl.conftest import ENV, FakeCluster, error
from tests.m3ctl.stored import Situation, stored
from tests.m3ctl.test_live import flows

from m3cluster.kv import Embedded
from m3ctl.arguments import make_parser
from m3ctl.cli import main

PAGE = Path(__file__).parents[2] / "docs/m3ctl.md"
ALWAYS = {"ok", "problems", "notes"}
COMMANDS: dict[str, list[str]] = {
    "placement": [],
    "topic": [],
    "shards": [],
    "leaders": [],
    "resign": ["m3aggregator01:6000"],
    "flush-times": [],
    "top": [],
    "tail": ["up{"],
    "completion": ["bash"],
    "bench": ["coordinator", "--yes", "--seconds", "0.1", "--rate", "20"],
    "migrate": ["--wait", "0.01"],
    "doctor": ["--wait", "1"],
}
"""What each is run with."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """All sub-commands' parsers, by name."""
    (action,) = (one for one in make_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return dict(action.choices)


def documented() -> dict[str, set[str]]:
    """Command → the keys of its object, as the page has them: what is in code before a colon, a semicolon or a comma of the first level."""
    page = PAGE.read_text(encoding="utf-8").partition("## JSON")[2].partition("\n## ")[0]
    found = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].startswith("`"):
            text = re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", cells[1])
            own = [re.sub(r":.*", "", part) for part in re.split(r"; ", text)]
            found[cells[0].strip("`")] = {key for part in own for key in re.findall(r"`(\w+)`", part)}
    return found


def test_every_command_takes_it_and_is_on_the_page() -> None:
    assert parsers().keys() == COMMANDS.keys() == documented().keys()
    for name, parser in parsers().items():
        assert "--json" in parser._option_string_actions, f"m3ctl {name} cannot print JSON"


@pytest.fixture
def run(cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``run("leaders", "--json")``: exit code and standard output, against a cluster that is well but for the query of ``tail``."""
    cluster.ours()
    flows(cluster)
    cluster.coordinator.answers["GET", f"/api/v1/query?query={quote('up{[122s]', safe='')}"] = error(400, "no selector")
    cluster.coordinator.answers["POST", "/api/v1/prom/remote/write"] = (200, b"")
    kv = Embedded(tmp_path / "kv.sqlite")
    stored(kv, Situation(cluster).values())

    def run(name: str, *more: str, at: str = cluster.coordinator.url) -> tuple[int, str]:
        where = [] if name == "completion" else ["--coordinator", at, "--env", ENV, "--timeout", "2"]
        where += ["--embedded", str(kv.path)] if name == "migrate" else []
        code = main([name, *where, *COMMANDS[name], *more])
        return code, capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"tail"}))
def test_the_object_has_the_keys_of_the_page_and_the_exit_code_is_the_same(
    run, cluster: FakeCluster, name: str
) -> None:
    code, out = run(name, "--json")
    found = json.loads(out)
    assert found.keys() - ALWAYS == documented()[name]
    assert found.keys() >= ALWAYS or name == "tail"
    assert code == (0 if found["ok"] else 1)
    cluster.states[:] = ["leader", "follower"]
    assert run(name, *(["--once"] if name == "top" else []))[0] == code


def test_a_line_of_tail_is_an_object(run) -> None:
    code, out = run("tail", "--json")
    (line,) = out.splitlines()
    found = json.loads(line)
    assert (code, found["ok"], found.keys()) == (1, False, ALWAYS)
    assert "no selector" in found["problems"][0]


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"completion", "migrate"}))
def test_where_nothing_answers_the_object_says_so(run, name: str) -> None:
    code, out = run(name, "--json", at="http://127.0.0.1:1")
    found = json.loads(out)
    assert (code, found["ok"]) == (1, False)
    assert found["problems"]
    assert run(name, *(["--once"] if name == "top" else []), at="http://127.0.0.1:1")[0] == code


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"completion"}))
def test_wrong_arguments_are_an_object_as_well(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--coordinator", "ftp://x", "--json", *COMMANDS[name]]) == 2
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_points_have_the_keys_of_the_page(cluster: FakeCluster) -> None:
    assert documented()["tail"] == {"time", "metric", "value", "ok"}
