"""A real Prometheus remote-writes to our coordinator; another one, with no data of its own, runs PromQL over remote read."""

import json
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.ports import free_port
from lab.prometheus import EQUAL, remote_read

METRIC = "process_cpu_seconds_total"

WRITER = """
global: {{scrape_interval: 1s, external_labels: {{replica: one}}}}
scrape_configs:
  - job_name: prometheus
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
remote_write:
  - url: {base}/api/v1/prom/remote/write
    queue_config: {{batch_send_deadline: 1s, min_backoff: 100ms, max_backoff: 2s}}
"""
READER = """
remote_read:
  - url: {base}/api/v1/prom/remote/read
    read_recent: true
"""


@contextmanager
def prometheus(binary: str, folder: Path, name: str, config: str, base: str) -> Iterator[int]:
    """A Prometheus with that configuration; yields its port."""
    port = free_port()
    path = folder / f"{name}.yml"
    path.write_text(config.format(port=port, base=base))
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [binary, f"--config.file={path}", f"--storage.tsdb.path={folder / name}", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield port
        finally:
            process.terminate()
            process.wait(20)


def promql(http_get: Callable[[str], tuple[int, str]], port: int, query: str, at: float) -> list[dict]:
    """Result vector of an instant query."""
    status, body = http_get(
        f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query, 'time': at})}"
    )
    assert status == 200, body
    return json.loads(body)["data"]["result"]


def test_prometheus_writes_and_another_reads_back(deployment, wait, http_get, real, tmp_path) -> None:
    binary = real("prometheus")
    deployment.start_local()

    with (
        prometheus(binary, tmp_path, "writer", WRITER, deployment.base) as writer,
        prometheus(binary, tmp_path, "reader", READER, deployment.base) as reader,
    ):
        started = int(time.time())

        def stored() -> dict[int, float]:
            points = remote_read(deployment.base, [("__name__", EQUAL, METRIC)], started * 1000, (started + 600) * 1000)
            return {t // 1000: v for one in points.values() for t, v in one.items() if t // 1000 > started + 15}

        wait("three aggregated windows are stored", lambda: len(stored()) >= 3, 90)
        for end, value in sorted(stored().items())[:3]:
            # The last scrape of the window, as the writer itself remembers it, is what the window keeps.
            own = promql(http_get, writer, METRIC, end - 0.001)
            read = promql(http_get, reader, METRIC, end)
            assert float(own[0]["value"][1]) == value
            assert float(read[0]["value"][1]) == value
            assert read[0]["metric"]["replica"] == "one"
        last = max(stored())
        up = promql(http_get, reader, 'sum(max_over_time({job="prometheus",__name__="up"}[20s]))', last)
        assert up[0]["value"][1] == "1"
        rate = promql(http_get, reader, f"sum by (job) (rate({METRIC}[1m]))", last)
        assert rate[0]["metric"] == {"job": "prometheus"}
        assert float(rate[0]["value"][1]) > 0
    assert deployment.stop() == {"coordinator": 0, "aggregator": 0}
