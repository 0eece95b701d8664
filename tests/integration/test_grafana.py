"""Grafana's requests to a real Prometheus that has the same series: it answers what the coordinator is tested to answer."""

import json
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.http import request
from lab.stores import PrometheusStore
from lab.waiting import wait_until
from tests.coordinator.query.grafana import SERIES, Call, calls

from m3ctl.bench.remote_write import write_request


def answered(store: PrometheusStore, call: Call) -> tuple[int, Any]:
    """Status and document."""
    text = urllib.parse.urlencode([(name, str(value)) for name, value in call.params])
    url, form = store.url + call.path, {"Content-Type": "application/x-www-form-urlencoded"}
    if call.method == "GET":
        status, body = request("GET", f"{url}?{text}")
    else:
        status, body = request("POST", url, text.encode(), form)
    return status, json.loads(body) if body else None


def ordered(data: Any) -> Any:
    """With the rows of a vector sorted, which Prometheus gives in any order."""
    if isinstance(data, dict) and isinstance(data.get("result"), list) and data["resultType"] in ("vector", "matrix"):
        return data | {"result": sorted(data["result"], key=str)}
    return data


def test_the_table_is_what_a_real_prometheus_answers(real: Callable[[str], str], tmp_path: Path) -> None:
    real("prometheus")
    base_s = int(time.time()) - 5
    with PrometheusStore(tmp_path) as store:
        assert isinstance(store, PrometheusStore)
        for k in range(len(SERIES[0][1])):
            rows = [
                (tuple(sorted(tags.items())), points[k][1], (base_s + points[k][0]) * 1000) for tags, points in SERIES
            ]
            status, text = request("POST", store.write_url, write_request(rows), {"Content-Encoding": "snappy"})
            assert status in (200, 204), text
        wait_until("the samples are there", lambda: store.samples("up", (base_s - 60) * 1000, base_s * 1000))
        compared = 0
        for call in calls(base_s):
            if call.recent:
                continue
            status, document = answered(store, call)
            context = f"{call}\n{document}"
            assert status == call.status, context
            compared += 1
            if call.error_type:
                assert document["errorType"] == call.error_type, context
                assert set(document) == {"status", "errorType", "error"}, context
            elif call.path.endswith("buildinfo"):
                assert set(document["data"]) == {"version", "revision", "branch", "buildUser", "buildDate", "goVersion"}
            elif status == 200:
                assert set(document) == {"status", "data"}, context
                assert ordered(document["data"]) == ordered(call.data), context
        assert compared > 80
