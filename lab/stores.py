"""Real stores that take remote write: Prometheus and VictoriaMetrics as processes, and what they have stored."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from lab.errors import LabError
from lab.http import get
from lab.ports import free_port
from lab.processes import Process
from lab.prometheus import Points

__all__ = ["PrometheusStore", "RemoteStore", "VictoriaMetrics"]


class RemoteStore:
    """A process that keeps its port and its data while it is stopped and started; ``with`` starts and stops it."""

    binary = ""
    write_path = ""
    ready_path = ""

    def __init__(self, folder: Path, *, ends_with_us: bool = False) -> None:
        """``folder``: an existing one for its data and log. ``ends_with_us``: as for a ``Process``.

        Raises ``LabError`` if the binary is not installed.
        """
        if shutil.which(self.binary) is None:
            raise LabError(f"{self.binary} is not installed")
        self.folder, self.port = folder, free_port()
        self._ends_with_us = ends_with_us
        self.process: Process | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def write_url(self) -> str:
        """Where remote write goes."""
        return self.url + self.write_path

    def command(self) -> Sequence[str]:
        """What starts it."""
        raise NotImplementedError

    def samples(self, match: str, start_ms: int, end_ms: int) -> Points:
        """Stored samples of the series that a selector (``{job="a"}``) matches, both times included."""
        raise NotImplementedError

    def start(self) -> None:
        """Returns when it is ready."""
        log = self.folder / f"{self.binary}.log"
        self.process = Process(self.binary, self.command(), log, ends_with_us=self._ends_with_us)
        self.process.wait_for_http(self.url + self.ready_path)

    def stop(self) -> None:
        """In order, if it runs."""
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        """With SIGKILL."""
        if self.process is not None:
            self.process.kill()

    def __enter__(self) -> "RemoteStore":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class PrometheusStore(RemoteStore):
    """Prometheus with its remote write receiver; refuses late samples, but for those of ``out_of_order_window`` (``10m``)."""

    binary, write_path, ready_path = "prometheus", "/api/v1/write", "/-/ready"

    def __init__(self, folder: Path, out_of_order_window: str = "", *, ends_with_us: bool = False) -> None:
        super().__init__(folder, ends_with_us=ends_with_us)
        window = (
            f"storage: {{tsdb: {{out_of_order_time_window: {out_of_order_window}}}}}\n" if out_of_order_window else ""
        )
        (folder / "prometheus.yml").write_text(f"global: {{scrape_interval: 1h}}\n{window}")

    def command(self) -> Sequence[str]:
        """With nothing to scrape."""
        return [
            self.binary, f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/prometheus",
            f"--web.listen-address=127.0.0.1:{self.port}", "--web.enable-remote-write-receiver",
        ]  # fmt: skip

    def samples(self, match: str, start_ms: int, end_ms: int) -> Points:
        """By an instant query over a range."""
        query = urlencode({"query": f"{match}[{end_ms - start_ms + 1}ms]", "time": end_ms / 1000})
        result = json.loads(_ok(f"{self.url}/api/v1/query?{query}"))["data"]["result"]
        return {
            tuple(sorted(series["metric"].items())): {round(at * 1000): float(value) for at, value in series["values"]}
            for series in result
        }

    def write_requests(self) -> dict[int, int]:
        """How many write requests it has answered, by status."""
        found = {}
        for line in _ok(f"{self.url}/metrics").splitlines():
            if line.startswith("prometheus_http_requests_total{") and 'handler="/api/v1/write"' in line:
                found[int(line.partition('code="')[2][:3])] = int(float(line.split()[-1]))
        return found


class VictoriaMetrics(RemoteStore):
    """VictoriaMetrics, single node; takes every sample, in any order."""

    binary, write_path, ready_path = "victoria-metrics", "/api/v1/write", "/health"

    def command(self) -> Sequence[str]:
        """Data of the last month."""
        return [
            self.binary, f"-storageDataPath={self.folder}/victoria-metrics", f"-httpListenAddr=127.0.0.1:{self.port}",
            "-retentionPeriod=1",
        ]  # fmt: skip

    def samples(self, match: str, start_ms: int, end_ms: int) -> Points:
        """What was written a moment ago is made visible first."""
        _ok(f"{self.url}/internal/force_flush")
        query = urlencode({"match[]": match, "start": start_ms / 1000, "end": end_ms / 1000})
        found: Points = {}
        for line in _ok(f"{self.url}/api/v1/export?{query}").splitlines():
            series = json.loads(line)
            labels = tuple(sorted(series["metric"].items()))
            found.setdefault(labels, {}).update(zip(series["timestamps"], series["values"], strict=True))
        return found


def _ok(url: str) -> str:
    status, text = get(url)
    if status != 200:
        raise LabError(f"{url} answered {status}: {text[:300]}")
    return text
