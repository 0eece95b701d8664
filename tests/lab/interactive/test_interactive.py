"""The parts of scripts/cluster that need no processes: who is where, what is typed, who leads, and the files of the services."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab.cluster import ROOT
from lab.errors import LabError
from lab.interactive.files import aggregator_files, coordinator_files
from lab.interactive.layout import make_layout
from lab.interactive.leadership import Leadership
from lab.interactive.orders import KV, Order, Typed, parse
from lab.kv import KINDS, kv_of

import aggregator.cli
import coordinator.cli
from m3ctl.answers import Placement
from m3ctl.cluster import Target
from m3ctl.leaders import Member, ShardSetState


def test_every_aggregator_has_m3s_ports_on_an_address_of_its_own() -> None:
    layout = make_layout(4, 2, free_ports=False)
    assert [one.url for one in layout.instances] == [f"http://127.0.0.{n}:6001" for n in (11, 12, 13, 14)]
    assert [one.isolation_group for one in layout.instances] == ["group-a", "group-b", "group-a", "group-b"]
    assert layout.coordinator == "http://127.0.0.1:7201"
    assert layout.instances[1].placed().body()["endpoint"] == "127.0.0.12:6000"


def test_free_ports_are_the_same_for_all_aggregators() -> None:
    layout = make_layout(2, 2, free_ports=True)
    first, second = layout.instances
    assert (first.m3msg, first.http, first.metrics) == (second.m3msg, second.http, second.metrics)
    assert len({*layout.coordinator_ports, first.m3msg, first.http, first.metrics}) == 7
    assert first.placed().body()["metadata"] == {"debugPort": first.http}


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("kill 1", Order("kill", 1)),
        ("  RESIGN agg2 ", Order("resign", 2)),
        ("pause kv", Order("pause", KV)),
        ("resign kv", "resign needs the number of an instance, 1 to 2"),
        ("status", Order("status")),
        ("", None),
        ("kill", "kill needs the number of an instance, 1 to 2"),
        ("kill 3", "kill needs the number of an instance, 1 to 2"),
        ("kill 0", "kill needs the number of an instance, 1 to 2"),
        ("pause ²", "pause needs the number of an instance, 1 to 2"),
        ("rm -rf", "'rm -rf' is no command; help shows them"),
        ("quit now", "'quit now' is no command; help shows them"),
    ],
)
def test_what_is_typed(line: str, order: object) -> None:
    assert parse(line, 2) == order


def test_lines_come_whole_and_the_end_is_seen() -> None:
    out, into = os.pipe()
    typed = Typed(out)
    try:
        assert (typed.lines(0), typed.closed) == ([], False)
        os.write(into, b"kill 1\nsta")
        assert typed.lines(1) == ["kill 1"]
        os.write(into, b"tus\nquit\n")
        assert typed.lines(1) == ["status", "quit"]
        os.close(into)
        assert (typed.lines(1), typed.closed) == ([], True)
    finally:
        os.close(out)


class Watched:
    """A cluster of one shard set whose leaders a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.leaders: list[str] = []
        self.now = 0.0
        monkeypatch.setattr("lab.interactive.leadership.look", lambda *_: [self._state()])
        self.leadership = Leadership(None, clock=lambda: self.now, _placement=Placement())  # type: ignore[arg-type]

    def _state(self) -> ShardSetState:
        members = [
            Member(Target(name, ""), "leader" if name in self.leaders else "follower") for name in ("agg1", "agg2")
        ]
        return ShardSetState(1, members, 0, [0])

    def look(self, now: float, *leaders: str) -> list[str]:
        self.now, self.leaders = now, list(leaders)
        return self.leadership.look()


def test_changes_of_leadership_are_said_once_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    assert watched.look(0) == []
    assert watched.look(1, "agg1") == ["shard set 1: agg1 leads"]
    assert watched.look(2, "agg1") == []
    assert (watched.leadership.complete, watched.leadership.changes) == (True, 0)
    assert watched.look(3) == ["shard set 1: agg1 does not lead any more; nobody leads"]
    assert not watched.leadership.complete
    assert watched.look(13, "agg2") == ["shard set 1: agg2 leads, after 10.0 s without a leader"]
    assert watched.look(14, "agg1") == ["shard set 1: agg1 leads; before, agg2 did"]
    assert watched.leadership.changes == 2
    watched.look(15, "agg1", "agg2")
    assert not watched.leadership.complete


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_both_services_are_valid(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout, kv = make_layout(2, 2, free_ports=True), kv_of(kind, tmp_path)
    files = coordinator_files(layout, kv.section("m3coordinator"), tmp_path)
    assert coordinator.cli.main([*files, "--check-config"]) == 0
    files = aggregator_files(layout.instances[1], kv.section("m3aggregator"), tmp_path)
    assert aggregator.cli.main([*files, "--check-config"]) == 0
    assert "note:" not in capsys.readouterr().out
    assert kv.m3ctl().startswith(f"--{kind} ")


@pytest.mark.parametrize(("kind", "package"), [("etcd", "etcd-server"), ("zookeeper", "zookeeper")])
def test_a_missing_server_is_named_with_its_package(kind: str, package: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    server = kv_of(kind, tmp_path).server
    assert server is not None
    with pytest.raises(LabError, match=f"apt-get install {package} "):
        server.start()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--instances", "3"], "must be a multiple of --rf"),
        (["--instances", "0"], "must be a multiple of --rf"),
        (["--rf", "0"], "must be at least 1"),
        (["--demo", "--duration", "20"], "at least 40 seconds: values must be out by then"),
        (["--duration", "nan"], "must be at least 1"),
        (["--kv", "consul"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_exit_code_2(arguments: list[str], said: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "lab.interactive", *arguments],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert found.returncode == 2
    assert said in found.stderr
