"""docs/setting_up.md, followed as it stands with a real etcd: six curl calls, M3's own YAML, two aggregators, the right values out.

Every process starts before etcd and says what it waits for; one starts again when etcd has gone for good. Overlay files change addresses,
endpoints of etcd and cacheDir only. Takes about two minutes: a placement cuts over at a whole minute, and M3's file keeps a past buffer of
one minute.
"""

import json
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
from lab.kv_servers import EtcdServer
from lab.ports import free_port
from lab.prometheus import EQUAL, REGEX, remote_read, remote_write
from tests.real_servers import require_server

ROOT = Path(__file__).resolve().parents[2]
WINDOW_S = 10


def curl_calls() -> list[str]:
    """The shell blocks of the page that call curl, in order."""
    page = (ROOT / "docs/setting_up.md").read_text()
    return [block for block in re.findall(r"```shell\n(.*?)```", page, re.S) if block.startswith("curl")]


def run_call(call: str, names: dict[str, str]) -> dict:
    """Runs one call with the names of this machine; its JSON answer."""
    for old, new in names.items():
        call = call.replace(old, new)
    done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{call}\n{done.stderr}"
    return json.loads(done.stdout)


def feed(base: str, carbon_port: int, seconds: int) -> int:
    """One sample a second of a gauge, a counter and a carbon path; returns the first second."""
    first = int(time.time()) + 1
    with socket.create_connection(("127.0.0.1", carbon_port)) as carbon:
        for second in range(first, first + seconds):
            time.sleep(max(0.0, second - time.time()))
            samples = [
                ((("__name__", "howto_gauge"), ("app", "a")), second % 97 / 4, second * 1000),
                ((("__name__", "howto_total"), ("app", "a")), float(second - first), second * 1000),
            ]
            remote_write(base, samples)
            carbon.sendall(f"howto.carbon.path {second % 50} {second}\n".encode())
    return first


@pytest.fixture
def etcd(tmp_path):
    """A server that is not started yet."""
    require_server(EtcdServer)
    server = EtcdServer(tmp_path / "etcd")
    yield server
    server.kill()


def test_the_page_line_by_line(deployment, wait, http_get, etcd, real, tmp_path) -> None:
    real("curl")

    def section(cache: str) -> dict:
        clusters = [{"zone": "embedded", "endpoints": [etcd.address]}]
        return {"etcd": {"cacheDir": str(tmp_path / cache), "etcdClusters": clusters}}

    # A file where the coordinator's cacheDir should be: a warning, nothing more.
    (tmp_path / "coordinator-kv").write_text("")
    coordinator = deployment.start_coordinator(
        ROOT / "configs/m3coordinator.yml", clusterManagement=section("coordinator-kv")
    )
    ports = {name: free_port() for name in ("m3aggregator01", "m3aggregator02")}

    def start(name: str):
        return deployment.start_aggregator(
            name,
            ROOT / "configs/m3aggregator.yml",
            f"127.0.0.1:{ports[name]}",
            workers=1,
            env={"M3AGGREGATOR_HOST_ID": f"{name}:6000"},
            kvClient=section(f"{name}-kv"),
        )

    aggregators = [start(name) for name in ports]

    def says_what_it_waits_for(url: str) -> bool:
        status, text = http_get(f"{url}/ready")
        return status >= 500 and f"waiting for etcd {etcd.address} since" in text and "is etcd running" in text

    for url in (deployment.base, *(one.http for one in aggregators)):
        wait(f"{url} says what it waits for", lambda url=url: says_what_it_waits_for(url))
    etcd.start()
    wait("the aggregators see etcd", lambda: "create it with POST" in http_get(f"{aggregators[0].http}/ready")[1])

    names = {
        "http://m3coordinator01:7201": deployment.base,
        '"m3coordinator01:7507"': f'"127.0.0.1:{deployment.ingest}"',
        '"port": 7507': f'"port": {deployment.ingest}',
        **{f'"endpoint": "{name}:6000"': f'"endpoint": "127.0.0.1:{port}"' for name, port in ports.items()},
    }
    calls = curl_calls()
    assert len(calls) == 6
    answers = [run_call(call, names) for call in calls]
    assert len(answers[0]["placement"]["instances"]) == 2
    assert answers[2]["topic"]["consumerServices"][0]["consumptionType"] == "REPLICATED"

    def cutover_is_said_or_over() -> bool:
        status, text = http_get(f"{deployment.base}/ready")
        return status == 200 or "cut over" in text

    wait("the coordinator says that it waits for the cutover", cutover_is_said_or_over)

    wait("one instance leads", lambda: sum(one.leads() for one in aggregators) == 1, 90)
    wait("the coordinator takes writes", lambda: http_get(f"{deployment.base}/ready")[0] == 200, 60)
    for one in aggregators:
        wait("every instance is ready", one.ready)
        notes = one.json("/ready")["notes"]
        assert any("INITIALIZING shards wait for nothing" in note for note in notes), notes
        assert "problems" not in one.json("/status")

    first = feed(deployment.base, deployment.carbon, 22)
    end = (first // WINDOW_S + 1) * WINDOW_S + WINDOW_S

    def values(name: str, value: str) -> dict[int, float]:
        kind = EQUAL if name == "__name__" else REGEX
        points = remote_read(deployment.base, [(name, kind, value)], (end - 1) * 1000, (first + 60) * 1000)
        merged: dict[int, float] = {}
        for stored in points.values():
            merged.update({time_ms // 1000: v for time_ms, v in stored.items()})
        return merged

    wait("the window reaches storage", lambda: end in values("__name__", "howto_total"), 150)
    wait("carbon reaches storage", lambda: end in values("__g1__", "carbon"), 30)
    wait("the gauge reaches storage", lambda: end in values("__name__", "howto_gauge"), 30)
    assert values("__name__", "howto_gauge")[end] == (end - 1) % 97 / 4
    assert values("__name__", "howto_total")[end] == end - 1 - first
    window = [second % 50 for second in range(end - WINDOW_S, end)]
    assert values("__g1__", "carbon")[end] == sum(window) / len(window)
    assert "cache cannot be written" in coordinator.log_file.read_text()

    etcd.kill()
    assert aggregators[1].process.stop() == 0
    again = start("m3aggregator02")

    def serves() -> bool:
        shards = again.json("/shards")["shards"]
        return len(shards) == 64 and all(shard["workerUp"] for shard in shards)

    wait("it serves what the cache file says", serves)
    wait("it says what it waits for", lambda: f"waiting for etcd {etcd.address}" in http_get(f"{again.http}/ready")[1])
    assert set(deployment.stop().values()) == {0}
