"""Commands and files of the documentation: each is run, or checked by the program that it is for, or listed with what keeps it from that.

What is run: ``curl`` and ``/dev/tcp``, by ``blocks.RUN``. What is checked: YAML, by the typed configuration or by promtool; JSON and TOML
by a parser; command lines of ours, in blocks and in running text, by their own argparse, and with ``--check-config`` where their files are
in the repository.
"""

import argparse
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.docs.blocks import PROGRAMS, ROOT, RUN, Block, Command, blocks, commands_of, inline_commands, is_run
from tests.real_servers import require_binary

from aggregator.config import load_config
from coordinator.config import load_coordinator

LANGUAGES = {"shell", "yaml", "json", "toml", "text"}
NOT_RUN = {
    "vmagent -promscrape": "vmagent is not packaged for Debian; its configuration is checked by promtool, as it is Prometheus' own",
    "OTEL_": "settings, not commands; tests/integration/test_senders.py exports with them",
    "etcd --name": "listens on ports of all interfaces; tests/integration start etcd with the same options on ports of their own",
    "export M3CTL_": "settings; the command below them is checked",
    "python3 -m venv /opt/m3": "writes outside the repository; tests/deploy/test_wheel.py does the same elsewhere",
    "/opt/m3/bin/pip install": "as above",
    "/opt/m3/bin/m3": "as above",
    "cp ": "needs root",
    "mkdir -p /etc": "needs root",
    "systemctl ": "needs root and systemd; tests/deploy/test_units.py verifies the unit",
    "docker ": "needs a container engine; tests/deploy/test_images.py runs the steps of the Dockerfile and reads the compose file",
    "helm ": "needs Kubernetes; tests/deploy/test_chart.py checks the chart",
    ".venv/bin/python -m pytest": "runs the tests",
    "./bin/m3aggregator": "what make makes; the aggregator's own line is checked under its name",
}
"""How a command begins, and why it is neither run nor checked by its own program. Each has to be used."""
OTHERS = {"receivers": "the file of an OpenTelemetry collector, which is not packaged for Debian"}
"""The first key of YAML that nothing here reads, and why."""
_EXISTING = ("configs/", "deploy/", "scripts/", "tests/", "docs/", "lab/", "src/", "bench/")
_FILE = str(ROOT / "configs/m3coordinator.yml")
_PLACEHOLDERS = {"FILE": _FILE, "COMMAND": "ingest", "N": "1", "S": "1"}


class Understood(Exception):
    """The arguments were parsed."""


def understand(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the program parse its arguments, and do nothing. Raises ``AssertionError`` where it does not take them."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *arguments: Any) -> Any:
        parse(parser, *arguments)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    program, *arguments = [_PLACEHOLDERS.get(word, word) for word in command.words]
    try:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        if main_of(program, arguments)() == 0:
            return
    except Understood:
        return
    except SystemExit as ended:
        if ended.code in (0, None):
            return
    raise AssertionError(f"{command.where}: {program} does not take this: {command.text}")


def main_of(program: str, arguments: list[str]) -> Callable[[], object]:
    """What a program calls first. Raises ``AssertionError`` for one that there is not."""
    name = program.rpartition("/")[2]
    if name in PROGRAMS:
        cli = importlib.import_module(f"{name.removeprefix('m3') if name != 'm3ctl' else name}.cli")
        return lambda: cli.main(arguments)
    script = ROOT / program
    assert script.is_file(), f"there is no {program}"
    if name == "supervisor":
        return main_of("m3aggregator", arguments)
    module = re.search(r"^exec \.venv/bin/python -m (\S+) \"\$@\"", script.read_text(), re.MULTILINE)
    if module is None:
        # Of scripts/test, which hands them to pytest, and of those without any.
        known = (ROOT / "tests/conftest.py").read_text()
        assert all(f'"{word}"' in known for word in arguments if word.startswith("--")), f"unknown option: {arguments}"
        raise Understood
    begins: Callable[[], object] = importlib.import_module(f"{module[1]}.__main__").main
    return begins


def is_ours(command: Command) -> bool:
    """Whether it is a program of the repository."""
    first = command.words[0] if command.words else ""
    return first in PROGRAMS or first.startswith("scripts/")


def reason_against(command: Command) -> str | None:
    """How the entry of ``NOT_RUN`` begins that it falls under; None: it is not there."""
    return next((begin for begin in NOT_RUN if command.text.startswith(begin)), None)


def name_of(item: Block | Command) -> str:
    return item.where


COMMANDS = [command for block in blocks("shell") for command in commands_of(block)]
IN_TEXT = list(inline_commands())


def test_every_block_says_what_it_is() -> None:
    assert [block.where for block in blocks() if block.language not in LANGUAGES] == []
    assert len(COMMANDS) > 30
    assert len(IN_TEXT) > 50


@pytest.mark.parametrize("block", blocks("shell"), ids=name_of)
def test_bash_reads_it(block: Block) -> None:
    read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_a_command_is_run_or_checked_or_listed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in command.words:
        if word.startswith(_EXISTING):
            assert (ROOT / word).exists(), f"{command.where}: there is no {word}"
    if is_ours(command):
        understand(command, monkeypatch)
    elif command.words and command.words[0] == "make":
        assert (
            subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, check=False).returncode
            == 0
        )
    elif not is_run(command):
        assert reason_against(command) is not None, f"{command.where}: run it, check it, or say why not: {command.text}"


@pytest.mark.parametrize("command", IN_TEXT, ids=name_of)
def test_a_command_in_running_text_is_understood(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    if command.words[0] == "make":
        assert (
            subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, check=False).returncode
            == 0
        )
    elif command.words[0] not in ("curl", "echo"):
        understand(command, monkeypatch)


def with_files(command: Command) -> list[Path]:
    """The configuration files of the repository that a service is started with."""
    if not command.words or command.words[0] not in ("m3aggregator", "m3coordinator"):
        return []
    return [ROOT / word for word in command.words if word.startswith("configs/")]


@pytest.mark.parametrize("command", [one for one in COMMANDS if with_files(one)], ids=name_of)
def test_a_service_would_start_so(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in command.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    arguments = [str(ROOT / word) if word.startswith("configs/") else word for word in command.words[1:]]
    main = main_of(command.words[0], [*arguments, "--check-config"])
    assert main() == 0, capsys.readouterr().err


def test_every_reason_is_used() -> None:
    found = {reason_against(command) for command in COMMANDS if not is_ours(command) and not is_run(command)}
    assert found - {None} == set(NOT_RUN)
    keys = {next(iter(yaml.safe_load(block.text))) for block in blocks("yaml")}
    assert keys >= set(OTHERS)


def test_what_runs_commands_runs_some_of_each_page() -> None:
    pages = {command.where.partition(":")[0] for command in [*COMMANDS, *IN_TEXT] if is_run(command)}
    assert pages == set(RUN)
    for test in RUN.values():
        assert "run_commands" in (ROOT / test).read_text()


# --- files


def check_yaml(block: Block, folder: Path) -> None:
    """Lets what it is for read it. Raises ``AssertionError``, and what the configuration raises."""
    text = re.sub(r"/var/(log|lib)/|/etc/", f"{folder}/", block.text)
    document = yaml.safe_load(text)
    first = next(iter(document))
    file = folder / "file.yml"
    file.write_text(text)
    if first in OTHERS:
        return
    if first in ("scrape_configs", "remote_write"):
        checked = subprocess.run(
            [require_binary("promtool"), "check", "config", str(file)], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
    elif first in ("kvClient", "m3msg", "aggregator") or "# aggregator" in text:
        load_config([ROOT / "configs/local/m3aggregator.yml", file])
    elif first in ("mappingRules", "rollupRules"):
        file.write_text("downsample:\n  rules:\n" + "".join(f"    {line}\n" for line in text.splitlines()))
        load_coordinator([ROOT / "configs/local/m3coordinator.yml", file])
    elif {"clusters", "backend"} & document.keys():
        assert load_coordinator([file]).value.unsupported() == []
    else:
        load_coordinator([ROOT / "configs/local/m3coordinator.yml", file])


@pytest.mark.parametrize("block", blocks("yaml"), ids=name_of)
def test_a_file_is_what_its_reader_takes(block: Block, tmp_path: Path) -> None:
    check_yaml(block, tmp_path)


@pytest.mark.parametrize("block", blocks("json", "toml"), ids=name_of)
def test_json_and_toml_can_be_read(block: Block) -> None:
    assert json.loads(block.text) if block.language == "json" else tomllib.loads(block.text)


# --- that it can fail


@pytest.mark.parametrize(
    "line",
    [
        "m3ctl docter",
        "m3ctl shards --evry",
        "m3coordinator --explain",
        "m3aggregator -f a.yml --wrokers 2",
        "scripts/run --no-dmeo",
        "scripts/bench ingest --kind gague",
        "scripts/cluster --kv consul",
        "scripts/nothing",
    ],
)
def test_a_wrong_command_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = commands_of(Block("page.md", 1, "shell", line))
    with pytest.raises(AssertionError):
        understand(command, monkeypatch)


@pytest.mark.parametrize(
    "text",
    [
        "writes:\n  akc: aggregated\n",
        "kvClient:\n  zookeepr: {}\n",
        "clusters: 7\n",
        "remote_write:\n  - urll: http://127.0.0.1/\n",
        "rollupRules: [{fliter: 'a:b'}]\n",
    ],
)
def test_a_wrong_file_is_found(text: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"."):
        check_yaml(Block("page.md", 1, "yaml", text), tmp_path)


def test_lines_that_belong_together_are_one_command() -> None:
    text = "a=1\nX=2 curl -d '{\n}' http://h/  # why\n\nb \\\n  c\n"
    found = commands_of(Block("page.md", 1, "shell", text))
    assert [(one.environment, one.words) for one in found] == [
        ({}, ["a=1"]),
        ({"X": "2"}, ["curl", "-d", "{\n}", "http://h/"]),
        ({}, ["b", "c"]),
    ]
    with pytest.raises(ValueError, match="quote"):
        commands_of(Block("page.md", 1, "shell", "echo 'a\n"))
