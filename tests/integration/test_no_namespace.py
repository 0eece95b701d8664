"""A rule whose storage policy nobody stores: it is named, and holds nothing back."""

import json
import subprocess
import sys
import time
from typing import Any

from lab.prometheus import remote_write

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
    aggregator = deployment.start_local(
        coordinator={"downsample": {"rules": RULES}},
        aggregator={"aggregator": {"bufferDurationForPastTimedMetric": "15s", "forwarding": {"maxConstDelay": "30s"}}},
        processes_s=150,
    )

    def ready() -> tuple[int, dict[str, Any]]:
        status, body = http_get(f"{deployment.base}/ready")
        return status, json.loads(body)

    def about_the_rule() -> list[str]:
        """What is said beside passing troubles of a machine that has much to do."""
        return [problem for problem in ready()[1]["problems"] if "kept for a month" in problem]

    (warning,) = about_the_rule()
    assert "coordinator-overlay.yml:" in warning
    assert "rollup rule 'kept for a month' asks for 10s:31d" in warning

    def named() -> bool:
        now_ms = int(time.time() * 1000)
        labels = (("__name__", "demo_requests_total"), ("code", "200"), ("host", "a"))
        remote_write(deployment.base, [(labels, 1.0, now_ms)])
        return len(about_the_rule()) == 2

    wait("a value has come back that nobody stores", named, 120)
    found = doctor(deployment.base, aggregator.http, 60)
    problems = [one["text"] for one in found if one["status"] == "problem"]
    assert len(problems) == 2, found
    (refused,) = [text for text in problems if text.startswith("ingest: ")]
    assert 'like requests_by_code{__rollup__="true", code="200"}' in refused
    assert "asked for by rollup rule 'kept for a month'" in refused
    assert [one["text"] for one in found if "advance" in one["text"]], found
