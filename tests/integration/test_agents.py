"""docs/sending.md as it is run: agents of others with the page's configurations, limits that they meet, and carbon over TLS."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.certificates import Authority
from lab.http import get, request
from lab.ports import free_ports
from lab.processes import Process
from lab.prometheus import EQUAL, remote_read
from lab.waiting import wait_until
from tests.integration.inside import serving
from tests.integration.test_senders import PAGE, Coordinator
from tests.real_servers import require_binary

from m3ctl.bench.remote_write import write_request

LIMITS = "writeLimits: {maxSamplesPerSecond: 300, burstSamples: 300}\n"


class Limited(Coordinator):
    """The one of the page with limits, and carbon over TLS."""

    def text(self) -> str:
        self.authority = Authority(self.folder)
        pair = self.authority.sign("server", "DNS:localhost", "IP:127.0.0.1")
        tls = f"    tls: {{mode: enforced, certFile: {pair.cert}, keyFile: {pair.key}}}\n"
        text = super().text().replace("bufferPast: 2s", "bufferPast: 30s")
        return text.replace("  ingester:\n", f"  ingester:\n{tls}") + LIMITS

    def figure(self, name: str) -> float:
        """A counter; 0: it is not there."""
        page = get(f"http://127.0.0.1:{self.metrics}/metrics")[1]
        name, brace, tags = name.partition("{")
        found = re.search(rf"^coordinator_{name}(?:_total)?{re.escape(brace + tags)} ([0-9.e+]+)$", page, re.MULTILINE)
        return float(found[1]) if found is not None else 0.0

    def limited(self, tenant: str) -> float:
        """Requests that came too fast."""
        return self.figure(f'write_limited_requests{{reason="rate",tenant="{tenant}"}}')

    def overdraw(self, tenant: str | None, seconds: int) -> None:
        """Leaves nothing on the account for so long."""
        now_ms = time.time_ns() // 1_000_000
        samples = [((("__name__", "much"), ("n", str(n))), 1.0, now_ms) for n in range(300 * seconds)]
        headers = {"X-Scope-OrgID": tenant} if tenant is not None else {}
        assert request("POST", f"{self.base}/api/v1/prom/remote/write", write_request(samples), headers, 60)[0] == 200

    def times(self, *labels: tuple[str, str]) -> list[int]:
        """In milliseconds: of the samples of one series, as they came."""
        now_ms = time.time_ns() // 1_000_000
        matchers = [(name, EQUAL, value) for name, value in labels]
        found = remote_read(self.base, matchers, now_ms - 600_000, now_ms + 60_000, {"M3-Metrics-Type": "unaggregated"})
        return sorted(at for points in found.values() for at in points)


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    with serving(Limited(tmp_path_factory.mktemp("agents"))) as made:
        yield made


def block(heading: str, number: int = 0) -> str:
    """A block of the page, with the ports of nobody."""
    part = PAGE.read_text().split(f"# {heading}\n")[1]
    return str(re.findall(r"^```\w*\n(.*?)^```", part, re.DOTALL | re.MULTILINE)[number])


@contextlib.contextmanager
def running(name: str, command: list[str], folder: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    process = Process(name, command, folder / f"{name}.log", env=env)
    try:
        yield
    finally:
        print(f"--- end of the log of {name}\n{process.tail()}")
        process.stop()


def comes_again(coordinator: Limited, tenant: str, job: str) -> None:
    """An agent whose first requests came too fast loses none of its samples."""
    wait_until("it is told to wait", lambda: coordinator.limited(tenant) > 0, 60)
    refused_ms = time.time_ns() // 1_000_000
    up = ("__name__", "up"), ("job", job)
    wait_until("what was refused has come", lambda: [at for at in coordinator.times(*up) if at < refused_ms], 150)


def test_prometheus(coordinator: Limited, tmp_path: Path) -> None:
    prometheus = require_binary("prometheus")
    (port,) = free_ports(1)
    text = block("Prometheus").replace("7203", str(coordinator.metrics)).replace("7201", str(coordinator.http))
    file = tmp_path / "prometheus.yml"
    # What it is without its headers, whatever the version.
    text = re.sub(r"    headers: .*\n", "", text)
    file.write_text(f"global: {{scrape_interval: 5s}}\n{text}")
    listening, data = f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'data'}"
    coordinator.overdraw(None, 25)
    with running("prometheus", [prometheus, f"--config.file={file}", listening, data], tmp_path):
        comes_again(coordinator, "anonymous", "coordinator")


def test_collectd_through_a_relay_and_tls(coordinator: Limited, tmp_path: Path) -> None:
    """Of an authority that the relay knows; what it sends is carbon's lines, decoded as all others."""
    collectd, relay = require_binary("collectd"), require_binary("carbon-c-relay")
    (port,) = free_ports(1)
    rules = block("carbon-c-relay").replace("2003 proto udp", "").replace("2003", str(port))
    rules = rules.replace("127.0.0.1:7204", f"127.0.0.1:{coordinator.carbon} transport plain ssl")
    (tmp_path / "relay.conf").write_text(rules)
    lines = [
        "Interval 0.2", 'Hostname "web-1"', f'BaseDir "{tmp_path}"', f'PIDFile "{tmp_path / "pid"}"',
        'TypesDB "/usr/share/collectd/types.db"', block("collectd").replace("7204", str(port)),
    ]  # fmt: skip
    (tmp_path / "collectd.conf").write_text("\n".join(lines))
    trusting = [relay, "-f", str(tmp_path / "relay.conf"), "-C", str(coordinator.authority.cert)]
    sending = [collectd, "-f", "-C", str(tmp_path / "collectd.conf")]
    with running("carbon-c-relay", trusting, tmp_path), running("collectd", sending, tmp_path):
        wait_until("its lines are taken", lambda: coordinator.figure("ingest_carbon_success") > 0, 90)
    assert coordinator.figure('ingest_carbon_malformed{reason="malformed"}') == 0
