"""A rule whose storage policy nobody stores: it is named, and holds nothing back."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lab.admin_calls import admin_calls, create
from lab.ports import free_port
from lab.prometheus import remote_write

ROOT = Path(__file__).resolve().parents[2]
RULES = {
    "rollupRules": [
        {
            "name": "kept for a month",
            "filter": "__name__:demo_requests_total",
            "transforms": [
                {"rollup": {"metricName": "requests_by_code", "groupBy": ["code"], "aggregations": ["Sum"]}}
            ],
            "storagePolicies": [{"resolution": "10s", "retention": "744h"}],
        }
    ]
}


def doctor(base: str, aggregator: str, wait_s: float) -> list[dict[str, str]]:
    """What the doctor finds."""
    command = [sys.executable, "-m", "m3ctl", "doctor", "--json", "--coordinator", base, "--wait", str(wait_s)]
    command += ["--aggregator", f"m3aggregator-local={aggregator}", "--env", "namespace/m3db-cluster-name"]
    found = json.loads(subprocess.run(command, capture_output=True, check=False, timeout=120).stdout)["findings"]
    return list(found)


def test_flush_times_advance_past_values_that_nobody_stores(deployment, wait, http_get) -> None:
    deployment.start_coordinator(ROOT / "configs/local/m3coordinator.yml", downsample={"rules": RULES})
    m3msg = free_port()
    create(deployment.base, admin_calls("m3aggregator-local", f"127.0.0.1:{m3msg}", f"127.0.0.1:{deployment.ingest}"))
    aggregator = deployment.start_aggregator(
        "aggregator", ROOT / "configs/local/m3aggregator.yml", f"127.0.0.1:{m3msg}",
        aggregator={"bufferDurationForPastTimedMetric": "15s", "forwarding": {"maxConstDelay": "30s"}},
    )  # fmt: skip
    wait("an instance leads", aggregator.leads, 90)
    wait("its processes are up", aggregator.ready, 150)

    def ready() -> tuple[int, dict[str, Any]]:
        status, body = http_get(f"{deployment.base}/ready")
        return status, json.loads(body)

    wait("the coordinator takes writes", lambda: ready()[0] == 200, 30)
    (warning,) = ready()[1]["problems"]
    assert "coordinator-overlay.yml:" in warning
    assert "rollup rule 'kept for a month' asks for 10s:31d" in warning

    def named() -> bool:
        now_ms = int(time.time() * 1000)
        labels = (("__name__", "demo_requests_total"), ("code", "200"), ("host", "a"))
        remote_write(deployment.base, [(labels, 1.0, now_ms)])
        return len(ready()[1]["problems"]) == 2

    wait("a value has come back that nobody stores", named, 120)
    found = doctor(deployment.base, aggregator.http, 60)
    problems = [one["text"] for one in found if one["status"] == "problem"]
    assert len(problems) == 2, found
    (refused,) = [text for text in problems if text.startswith("ingest: ")]
    assert 'like requests_by_code{__rollup__="true", code="200"}' in refused
    assert "asked for by rollup rule 'kept for a month'" in refused
    assert [one["text"] for one in found if "advance" in one["text"]], found
