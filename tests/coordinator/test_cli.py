"""The command m3coordinator: exit codes, messages, signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.cli import main
from m3x.version import VERSION

ROOT = Path(__file__).parents[2]
LOCAL = str(ROOT / "configs/local/m3coordinator.yml")
FREE_PORTS = """
listenAddress: 127.0.0.1:0
metrics: {prometheus: {listenAddress: 127.0.0.1:0}}
carbon: {ingester: {listenAddress: 127.0.0.1:0}}
ingest: {m3msg: {server: {listenAddress: 127.0.0.1:0}}}
"""
NOT_INSIDE = "embeddedAggregator: {enabled: false}\n"
NAMESPACE = "clusters: [{namespaces: [{namespace: n, type: aggregated, resolution: 10s, retention: 6h}]}]\n"
AGGREGATED = "{policies: [{resolution: 10s, retention: 6h}]}"
DIRECT = "{aggregation: {enabled: false}, policies: [{resolution: 10s, retention: 6h}]}"


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for option, expected in (("--help", "--check-config"), ("--version", f"m3coordinator {VERSION}")):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "without_effect"),
    [
        ("configs/m3coordinator.yml", True),
        ("configs/local/m3coordinator.yml", False),
        ("configs/local/in-process.yml", False),
    ],
)
def test_check_config(name: str, without_effect: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-f", str(ROOT / name), "--check-config"]) == 0
    first, *more = capsys.readouterr().out.splitlines()
    assert first.endswith("the configuration is valid")
    assert ["ingest.ingester.opPool" in line for line in more] == [True] * without_effect


def test_each_problem_is_a_line_and_the_exit_code_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text("nonsense: 1\nlogging: {level: loud}\n")
    assert main(["-f", str(bad)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["nonsense", "logging"]


@pytest.mark.parametrize("check", [[], ["--check-config"]])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no configuration file given"),
        ("clusterManagement: {etcd: {service: x, etcdClusters: []}}", "etcdClusters must have an entry"),
        ("backend: m3db", ":1: backend: m3db takes a cluster with a client"),
        (
            "carbon: {ingester: {rules: [{policies: [{resolution: 1s, retention: 1h}]}]}}",
            ":1: carbon.ingester.rules[0].policies[0]: there is no aggregated namespace 1s:1h",
        ),
        ("listenAddress: 0.0.0.0:7203", "listenAddress and metrics.prometheus.listenAddress must differ"),
        (
            "clusterManagement: {etcd: {service: x, etcdClusters: [{endpoints: [e], tls: {crtPath: /none, keyPath: /none, "
            "caCrtPath: /none}}]}}",
            ":1: clusterManagement: cannot read etcd's TLS CA file /none",
        ),
        (
            "clusterManagement: {embedded: {}}\nclusters: [{client: {config: {service: {service: m3db, etcdClusters: [{endpoints: [e], "
            "tls: {crtPath: /none, keyPath: /none, caCrtPath: /none}}]}}}}]",
            ":2: clusters[0].client: cannot read etcd's TLS CA file /none",
        ),
        (
            "backend: prom-remote\nprometheusRemoteBackend: {endpoints: [{name: a, address: 'https://h/', tls: {caFile: /none}}]}",
            ":2: prometheusRemoteBackend.endpoints[0].tls: endpoint a: TLS: /none: No such file or directory",
        ),
        (
            f"{NAMESPACE}carbon: {{ingester: {{tls: {{mode: enforced, certFile: /none, keyFile: /none}}}}}}",
            ":2: carbon.ingester.tls: TLS: /none: No such file or directory",
        ),
        ("carbon: {ingester: {}}", ":1: carbon.ingester: the rule aggregates, but there is no aggregated namespace"),
        (
            f"{NAMESPACE}{NOT_INSIDE}carbon: {{ingester: {{rules: [{DIRECT}, {AGGREGATED}]}}}}",
            "carbon.ingester.rules[1]: the rule aggregates, but no aggregators are configured",
        ),
        (
            f"{NAMESPACE.replace('6h', '6h, readOnly: true')}carbon: {{ingester: {{rules: [{DIRECT}]}}}}",
            "carbon.ingester.rules[0].policies[0]: the namespace of 10s:6h is readOnly",
        ),
    ],
)
def test_what_cannot_start(
    text: str | None, expected: str, check: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.yml"
    if text is not None:
        file.write_text(text)
    assert main([*check, *([] if text is None else ["-f", str(file)])]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_a_check_says_where_namespaces_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file.yml"
    client = "clusters: [{client: {config: {service: {service: m3db, etcdClusters: [{endpoints: [e]}]}}}}]"
    file.write_text(f"{client}\n{NOT_INSIDE}carbon: {{ingester: {{rules: [{DIRECT}]}}}}")
    assert main(["--check-config", "-f", str(file)]) == 0
    said = capsys.readouterr().out
    assert "note: namespaces are those of M3DB's registry" in said
    assert "remote writes are stored as they come, and not aggregated: no aggregators are configured" in said


def test_a_check_says_what_remote_writes_will_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for backend, note in (("embedded", True), ("noop-etcd", False)):
        file = tmp_path / "file.yml"
        file.write_text(f"backend: {backend}\n{NAMESPACE}{NOT_INSIDE}")
        assert main(["-f", str(file), "--check-config"]) == 0
        out = capsys.readouterr().out
        assert ("warning: remote writes will be answered with 503: no aggregators are configured" in out) == note


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "prometheusRemoteBackend: {endpoints: [{name: a, address: 'http://h/'}]}",
            "prometheusRemoteBackend is without effect: that takes backend: prom-remote",
        ),
        (
            "backend: noop-etcd\nsinks: [{type: file, path: '-'}]",
            "sinks are without effect: a coordinator with backend: noop-etcd",
        ),
        (
            f"writes: {{ack: aggregated}}\n{NOT_INSIDE}",
            "writes.ack: aggregated is without effect: no aggregators are configured",
        ),
    ],
)
def test_a_check_names_sections_that_are_in_vain(
    text: str, warning: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.yml"
    file.write_text(text)
    assert main(["-f", str(file), "--check-config"]) == 0
    assert f"warning: {warning}" in capsys.readouterr().out


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    ports = tmp_path / "ports.yml"
    ports.write_text(FREE_PORTS.replace("listenAddress: 127.0.0.1:0", "listenAddress: 192.0.2.1:7201", 1))
    ended = _run(["-f", LOCAL, "-f", str(ports), "--data-dir", str(tmp_path)])
    _, error = ended.communicate(timeout=60)
    assert ended.returncode == 1
    assert "m3coordinator: " in error
    assert "cannot listen on 192.0.2.1:7201" in error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    ports = tmp_path / "ports.yml"
    ports.write_text(FREE_PORTS)
    process = _run(["-f", LOCAL, "-f", str(ports), "--data-dir", str(tmp_path)])
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "the coordinator is up" in line:
                break
        process.send_signal(number)
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "the coordinator has ended" in rest
    assert (tmp_path / "kv.sqlite").exists()


def _run(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "coordinator", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


IN_VAIN = """
clusters:
  - namespaces:
      - {namespace: ten, type: aggregated, resolution: 10s, retention: 48h}
      - {namespace: old, type: aggregated, resolution: 1m, retention: 960h, readOnly: true}
carbon: {ingester: {rules: [
  {pattern: ^a, policies: [{resolution: 10s, retention: 48h}]},
  {pattern: ^b, policies: [{resolution: 1m, retention: 960h}]}]}}
downsample:
  rules:
    mappingRules:
      - {filter: 'app:*', storagePolicies: [{resolution: 10s, retention: 48h}]}
    rollupRules:
      - name: by code
        filter: app:*
        transforms: [{rollup: {metricName: n}}]
        storagePolicies:
          - {resolution: 10s, retention: 48h}
          - {resolution: 10s, retention: 744h}
"""


def test_what_no_namespace_can_store_is_a_warning_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(IN_VAIN)
    assert main(["-f", LOCAL, "-f", str(file), "--check-config"]) == 0
    rule, carbon = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert rule.startswith(
        f"warning: {file}:19: downsample.rules.rollupRules[0].storagePolicies[1]: rollup rule 'by code' asks for 10s:31d: no "
    )
    assert carbon.startswith(
        f"warning: {file}:8: carbon.ingester.rules[1]: the rule asks for 1m@1s:40d: its namespace is read"
    )
    writer = tmp_path / "writer.yml"
    writer.write_text("ingest: null\n")
    assert main(["-f", LOCAL, "-f", str(file), "-f", str(writer), "--check-config"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text("downsample:\n  rules:\n    mappingRules: [{name: noise, filter: 'app:noise*', drop: true}]\n")
    files = ["-f", str(ROOT / "configs/local/m3coordinator.yml"), "-f", str(rules)]
    assert main([*files, "--explain", "up{app=noise1}"]) == 0
    out = capsys.readouterr().out
    assert "mapping rule 'noise', filter 'app:noise*'" in out
    assert "Nothing is sent to the aggregators: a drop rule matches" in out
    assert main([*files, "--explain", "{"]) == 2
    without_rules = str(ROOT / "configs/cluster/m3coordinator.yml")
    assert main(["-f", without_rules, "--explain", "up"]) == 0
    captured = capsys.readouterr()
    assert "GET /api/v1/rules/match" in captured.err
    assert "sent: up" in captured.out
