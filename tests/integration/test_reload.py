"""Real services whose files change: SIGHUP and ``/-/reload``, over all of their processes; and what they say of themselves meanwhile."""

import json
import os
import signal
from collections.abc import Iterator

import pytest
import yaml
from lab.http import get, request
from lab.waiting import wait_until
from tests.integration.conftest import Deployment
from tests.integration.inside import Inside, serving

from m3ctl.bench.remote_write import write_request

WRITE = "/api/v1/prom/remote/write"
CONFIG = """
workers: 2
listenAddress: 127.0.0.1:{http}
logging: {{level: {level}}}
metrics: {{prometheus: {{listenAddress: "127.0.0.1:{metrics}"}}}}
clusters:
  - namespaces:
      - {{namespace: raw, type: unaggregated, retention: 48h}}
      - {{namespace: two, type: aggregated, resolution: 2s, retention: 48h}}
writeLimits: {{maxSeriesPerRequest: {series}}}
downsample:
  rules:
    mappingRules:
      - {{name: {rule}, filter: "__name__:x", aggregations: [Sum], storagePolicies: [{{resolution: 2s, retention: 48h}}]}}
embeddedAggregator: {{workers: {workers}}}
"""


class Coordinator(Inside):
    """With two write processes, and an aggregator inside."""

    def text(self, level: str = "info", series: int = 2, rule: str = "first", workers: int = 1) -> str:
        return CONFIG.format(
            http=self.http, metrics=self.metrics, level=level, series=series, rule=rule, workers=workers
        )

    def figure(self, name: str) -> float:
        _, text = get(f"http://127.0.0.1:{self.metrics}/metrics")
        return next(
            (float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"coordinator_{name} ")), 0.0
        )


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with serving(Coordinator(tmp_path_factory.mktemp("reload"))) as made:
        wait_until("nobody is missing", lambda: "problems" not in json.loads(get(f"{made.base}/ready")[1]), 60)
        yield made


def three_series(coordinator: Coordinator) -> list[int]:
    """What a few requests with three series are answered, over new connections: any of the processes."""
    body = write_request([((("__name__", "x"), ("n", str(n))), 1.0, 0) for n in range(3)])
    headers = {"Content-Encoding": "snappy"}
    return [request("POST", coordinator.base + WRITE, body, headers)[0] for _ in range(8)]


def test_all_processes_take_what_has_changed_and_the_rest_is_named(coordinator: Coordinator) -> None:
    assert set(three_series(coordinator)) == {413}
    coordinator.file.write_text(coordinator.text(level="debug", series=5, rule="second", workers=2))
    status, text = request("POST", f"{coordinator.base}/-/reload")
    assert (status, json.loads(text)) == (
        200,
        {
            "ok": True,
            "applied": ["logging.level", "downsample.rules.mappingRules", "writeLimits.maxSeriesPerRequest"],
            "needsRestart": ["embeddedAggregator.workers"],
            "problems": [],
        },
    )
    assert 413 not in three_series(coordinator)
    _, explained = get(f"{coordinator.base}/api/v1/rules/match?metric=x")
    assert "second" in explained
    assert get(f"{coordinator.base}/debug/log-level") == (200, "debug\n")
    assert json.loads(get(f"{coordinator.base}/debug/state")[1])["needsRestart"] == ["embeddedAggregator.workers"]


def test_a_signal_does_the_same_and_a_wrong_file_changes_nothing(coordinator: Coordinator) -> None:
    coordinator.file.write_text(coordinator.text(series=2))
    before = coordinator.figure("config_reload_success")
    coordinator.process.popen.send_signal(signal.SIGHUP)
    wait_until("it is reloaded", lambda: coordinator.figure("config_reload_success") > before)
    assert set(three_series(coordinator)) == {413}
    coordinator.file.write_text(coordinator.text().replace("workers: 2", "workrs: 2"))
    status, text = request("POST", f"{coordinator.base}/-/reload")
    assert status == 500
    assert "workrs" in json.loads(text)["problems"][0]
    assert set(three_series(coordinator)) == {413}


def test_a_write_process_that_starts_later_has_the_new_configuration(coordinator: Coordinator) -> None:
    coordinator.file.write_text(coordinator.text(series=7))
    assert request("POST", f"{coordinator.base}/-/reload")[0] == 200
    pids = json.loads(get(f"{coordinator.base}/debug/state")[1])["processes"]
    before = {name: one["pid"] for name, one in pids.items()}
    assert set(before) == {"writer 0", "writer 1"}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        now = json.loads(get(f"{coordinator.base}/debug/state")[1])["processes"]
        return all(one["pid"] and one["pid"] != before[name] for name, one in now.items())

    wait_until("both are new", lambda: replaced() and get(f"{coordinator.base}/-/ready")[0] == 200, 60)
    assert 413 not in three_series(coordinator)


def test_stacks_of_all_processes(coordinator: Coordinator) -> None:
    _, text = get(f"{coordinator.base}/debug/stacks")
    for name in ("coordinator", "writer 0", "writer 1"):
        assert f"=== {name}, process" in text
    assert text.count("run_forever") >= 3
    status, text = get(f"{coordinator.base}/debug/profile?seconds=0.3&process=writer%200")
    assert status == 200
    assert "run_forever" in text
    assert get(f"{coordinator.base}/-/healthy") == (200, "m3coordinator is healthy\n")


def test_an_aggregator_takes_limits_and_its_worker_tells_its_stacks(deployment: Deployment) -> None:
    aggregator = deployment.start_local(aggregator={"workers": 1})
    overlay = deployment.folder / "aggregator-overlay.yml"
    changed = {**yaml.safe_load(overlay.read_text()), "logging": {"level": "debug"}}
    changed["runtimeOptions"] = {"writeValuesPerMetricLimitPerSecond": 7}
    changed["aggregator"] = {"resignTimeout": "50s"}
    overlay.write_text(yaml.safe_dump(changed))
    aggregator.process.popen.send_signal(signal.SIGHUP)
    wait_until("it is reloaded", lambda: aggregator.json("/debug/state")["needsRestart"])
    assert aggregator.json("/debug/state")["needsRestart"] == ["aggregator.resignTimeout"]
    assert get(f"{aggregator.http}/debug/log-level") == (200, "debug\n")
    assert "limits of the configuration changed" in aggregator.process.log_file.read_text()
    _, text = get(f"{aggregator.http}/debug/stacks?process=worker%200")
    assert "in _turn" in text or "in _wait" in text
    _, text = get(f"{aggregator.http}/debug/stacks?process=front")
    assert "aggregator/front" in text
    assert aggregator.ready()
