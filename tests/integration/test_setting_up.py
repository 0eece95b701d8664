"""docs/setting_up.md, followed as it stands: six curl calls, M3's own YAML, one of two aggregators dead, metrics out with the right values.

Takes about three minutes: a placement cuts over at a whole minute, and M3's file keeps a past buffer of one minute.
"""

import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from local_stack.prometheus import EQUAL, REGEX, remote_read, remote_write

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


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_page_line_by_line(deployment, wait, http_get, tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        alive, dead = one.getsockname()[1], two.getsockname()[1]
    deployment.start_coordinator(ROOT / "configs/m3coordinator.yml")
    names = {
        "http://m3coordinator01:7201": deployment.base,
        '"m3coordinator01:7507"': f'"127.0.0.1:{deployment.ingest}"',
        '"port": 7507': f'"port": {deployment.ingest}',
        '"endpoint": "m3aggregator01:6000"': f'"endpoint": "127.0.0.1:{alive}"',
        '"endpoint": "m3aggregator02:6000"': f'"endpoint": "127.0.0.1:{dead}"',
    }
    calls = curl_calls()
    assert len(calls) == 6
    answers = [run_call(call, names) for call in calls]
    assert len(answers[0]["placement"]["instances"]) == 2
    assert answers[2]["topic"]["consumerServices"][0]["consumptionType"] == "REPLICATED"
    assert "cut over" in http_get(f"{deployment.base}/ready")[1]

    aggregator = deployment.start_aggregator(
        "aggregator",
        ROOT / "configs/m3aggregator.yml",
        f"127.0.0.1:{alive}",
        env={"M3AGGREGATOR_HOST_ID": "m3aggregator01:6000"},
    )
    wait("the shards cut over and an instance leads", aggregator.leads, 90)
    wait("the coordinator takes writes", lambda: http_get(f"{deployment.base}/ready")[0] == 200, 60)

    first = feed(deployment.base, deployment.carbon, 35)
    start = (first // WINDOW_S + 1) * WINDOW_S
    ends = [start + WINDOW_S, start + 2 * WINDOW_S]

    def values(name: str, value: str) -> dict[int, float]:
        kind = EQUAL if name == "__name__" else REGEX
        points = remote_read(deployment.base, [(name, kind, value)], start * 1000, (first + 60) * 1000)
        merged: dict[int, float] = {}
        for stored in points.values():
            merged.update({time_ms // 1000: v for time_ms, v in stored.items()})
        return merged

    wait("the windows reach storage", lambda: ends[-1] in values("__name__", "howto_total"), 150)
    gauge, total = values("__name__", "howto_gauge"), values("__name__", "howto_total")
    carbon = values("__g1__", "carbon")
    for end in ends:
        assert gauge[end] == (end - 1) % 97 / 4
        assert total[end] == end - 1 - first
        window = [second % 50 for second in range(end - WINDOW_S, end)]
        assert carbon[end] == sum(window) / len(window)
    assert deployment.stop() == {"coordinator": 0, "aggregator": 0}
