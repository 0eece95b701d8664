"""The command line: exit codes and one line per problem."""

from pathlib import Path

import pytest

from aggregator.cli import main
from m3x.version import VERSION

ROOT = Path(__file__).resolve().parents[2]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option, expected in (("--version", f"m3aggregator {VERSION}"), ("--help", "--check-config")):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out


def test_a_file_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "-f is required (no config files provided)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["configs/m3aggregator.yml", "configs/local/m3aggregator.yml"])
def test_the_shipped_files_are_valid(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("M3AGGREGATOR_HOST_ID", "m3aggregator01")
    assert main(["-f", str(ROOT / name), "--check-config"]) == 0
    assert "the configuration is valid" in capsys.readouterr().out


def test_every_problem_is_one_line_with_file_and_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yml"
    path.write_text("kvClient: {}\nhttp: {listenAddress: 5, readTimeout: soon}\nnonsense: 1\n")
    assert main(["-f", str(path), "--check-config"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith(str(path)) for line in lines)
    assert any("http.readTimeout" in line for line in lines)
    assert any("nonsense: unknown key" in line for line in lines)


def test_a_file_that_is_not_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yml"
    path.write_bytes(b"\xff\x00{{{")
    assert main(["-f", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


ETCD = "etcdClusters: [{endpoints: ['e:2379'], tls: {crtPath: /none, keyPath: /none, caCrtPath: /none}}]"


@pytest.mark.parametrize("check", [[], ["--check-config"]])
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", "the environment variable M3AGGREGATOR_HOST_ID is not set"),
        ("aggregator: {hostID: {resolver: file, file: {path: /none}}}", "aggregator.hostID.file: /none cannot be read"),
        ("aggregator: {flush: {handlers: [{staticBackend: {type: kafka}}]}}", "aggregator.flush.handlers[0]"),
        ("aggregator: {flush: {handlers: []}}", "no handler configuration"),
        (f"instance: {{runDirectory: /{'x' * 80}}}", "runDirectory is too long for the names of sockets"),
        ("http: {listenAddress: '127.0.0.1:6000'}", "must differ: both listen on port 6000"),
        (f"kvClient: {{etcd: {{service: m3aggregator, {ETCD}}}}}", "cannot read etcd's TLS CA file /none"),
    ],
)
def test_what_cannot_start_is_refused_and_says_so_when_checked(
    more: str,
    expected: str,
    check: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("M3AGGREGATOR_HOST_ID", raising=False)
    overlay = tmp_path / "overlay.yml"
    overlay.write_text(more)
    assert main(["-f", str(ROOT / "configs/m3aggregator.yml"), "-f", str(overlay), *check]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def test_workers_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["-f", "x", "--workers", "0"])
    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err


def test_a_child_belongs_to_its_parent_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    parents: list[int] = []
    monkeypatch.setattr("m3x.process.die_with_parent", parents.append)
    assert main(["--child-of", "7"]) == 2
    assert parents == [7]
