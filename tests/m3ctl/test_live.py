"""``top``, ``tail`` and ``completion``."""

import json
import subprocess
import time
from urllib.parse import quote

import pytest
from tests.m3ctl.conftest import compact, error

from m3ctl.cli import main
from m3ctl.client import CtlError
from m3ctl.cluster import Cluster, Settings
from m3ctl.tail import tail


def lane(rate: float | None, *, trouble: str = "", waiting: str = "") -> dict:
    return {
        "name": "Samples",
        "steps": [
            {"kind": "stage", "name": "senders", "lines": [], "trouble": ""},
            {"kind": "edge", "rate": rate, "unit": "samples", "waiting": waiting, "trouble": ""},
            {"kind": "stage", "name": "front", "lines": ["3 connections"], "trouble": trouble},
        ],
    }


def flows(cluster, **of_the_first) -> None:
    cluster.coordinator.answers["GET", "/flow"] = (200, compact({"lanes": [lane(1234.5)]}))
    for server, rate in zip(cluster.aggregators, (5.25, None), strict=True):
        found = {"instanceId": "x", "lanes": [lane(rate, **of_the_first)]}
        server.answers["GET", "/flow"] = (200, compact(found))
        of_the_first = {}


def test_one_look_at_what_goes_from_where_to_where(cluster, ctl) -> None:
    flows(cluster, waiting="3 KiB wait")
    code, out, _ = ctl("top", "--once")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("as of ")
    rows = [line.split() for line in lines[2:5]]
    assert rows[0] == ["coordinator", "senders", "1,234", "samples/s", "front"]
    assert rows[1] == [cluster.ids[0], "senders", "5.2", "samples/s", "front", "3", "KiB", "wait"]
    assert rows[2] == [cluster.ids[1], "senders", "-", "samples/s", "front"]


def test_who_is_busy_and_with_which_names(cluster, ctl) -> None:
    flows(cluster)
    for number, server in enumerate(cluster.aggregators):
        loads = [
            {"name": "front", "worker": -1, "cpuShare": 0.25, "waitingBytes": 0, "unackedBytes": 0},
            {"name": "worker 0", "worker": 0, "cpuShare": None, "waitingBytes": 2048, "unackedBytes": 1024},
        ]
        names = [{"name": f"only_{number}", "perSecond": 3.25}, {"name": "up", "perSecond": 1000}]
        refused = [{"name": "up", "reason": "frame", "perSecond": 0.5}]
        traffic = {
            "messages": 5,
            "lookedAt": 5,
            "samples": names,
            "updates": [],
            "timerBytes": names[:1],
            "refused": refused,
        }
        server.answers["GET", "/status/load"] = (200, compact({"instanceId": "x", "processes": loads}))
        server.answers["GET", "/status/traffic"] = (200, compact(traffic))
    code, out, _ = ctl("top", "--once")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert [cluster.ids[0], "front", "25", "%", "0", "0"] in rows
    assert [cluster.ids[1], "worker", "0", "-", "2.0", "KiB", "1.0", "KiB"] in rows
    assert ["most", "samples", "up", "2,000"] in rows
    assert ["most", "samples", "only_1", "3.2"] in rows
    assert ["most", "timer", "bytes", "only_0", "0.0", "KiB"] in rows
    assert ["most", "refused", "up", "1.0", "frame"] in rows
    found = json.loads(ctl("top", "--json")[1])
    assert found["names"]["samples"][0] == {"name": "up", "perSecond": 2000}
    assert found["processes"][cluster.ids[0]][1]["waitingBytes"] == 2048
    # An older one of ours, or M3's, does not say.
    del cluster.aggregators[0].answers["GET", "/status/load"], cluster.aggregators[0].answers["GET", "/status/traffic"]
    code, out, _ = ctl("top", "--once")
    assert code == 0
    assert "1,000" in out


def test_what_is_in_trouble_is_a_problem_and_the_json_has_it(cluster, ctl) -> None:
    flows(cluster, trouble="worker 1 is not up")
    code, out, _ = ctl("top", "--json")
    assert code == 1
    found = json.loads(out)
    assert [edge["rate"] for edge in found["edges"]] == [1234.5, 5.25, None]
    assert found["problems"] == [f"{cluster.ids[0]}, senders to front: worker 1 is not up"]
    assert found["services"]["coordinator"]["lanes"][0]["name"] == "Samples"


def test_services_of_m3_are_named_and_those_that_do_not_answer_delay_no_other(cluster, ctl) -> None:
    flows(cluster)
    del cluster.aggregators[0].answers["GET", "/flow"]
    cluster.aggregators[1].close()
    code, out, _ = ctl("top", "--once")
    assert code == 1
    assert f"note: {cluster.ids[0]} does not say what goes through it" in out
    assert f"problem: instance {cluster.ids[1]}" in out
    assert "1,234" in out


def _asking(selector: str) -> str:
    return f"/api/v1/query?query={quote(f'{selector}[122s]', safe='')}"


def told(cluster, *answers: list, rounds: int, as_json: bool = False) -> list[str]:
    """What ``tail`` says to answers that come one after the other."""
    left = [
        (200, compact({"status": "success", "data": {"resultType": "matrix", "result": result}})) for result in answers
    ]
    cluster.coordinator.answers["GET", _asking('up{job="x"}')] = lambda _: left.pop(0)
    said: list[str] = []
    slept: list[float] = []
    tail(
        Cluster(Settings(coordinator=cluster.coordinator.url)), 'up{job="x"}',
        every_s=2.0, since_s=60, as_json=as_json, say=said.append, sleep=slept.append, rounds=rounds,
    )  # fmt: skip
    assert slept == [2.0] * (rounds - 1)
    return said


def test_every_point_is_said_once_in_order_of_time(cluster) -> None:
    now = int(time.time())
    one, two = {"__name__": "up", "job": "x"}, {"__name__": "up", "job": "x", "host": "b"}
    first = [
        {"metric": one, "values": [[now - 90, "0"], [now - 30, "1"], [now - 20, "2"]]},
        {"metric": two, "values": [[now - 25, "7"]]},
    ]
    second = [{"metric": one, "values": [[now - 30, "1"], [now - 20, "2"], [now - 10, "NaN"]]}]
    said = told(cluster, first, second, [], rounds=3)
    assert [line.split()[3:] for line in said] == [
        ["1", 'up{job="x"}'], ["7", 'up{host="b",job="x"}'], ["2", 'up{job="x"}'], ["NaN", 'up{job="x"}'],
    ]  # fmt: skip
    (line,) = told(cluster, [{"metric": two, "values": [[now, "7"]]}], rounds=1, as_json=True)
    assert json.loads(line) == {"time": now, "metric": two, "value": "7"}


def test_a_selector_that_is_refused_is_said(cluster) -> None:
    cluster.coordinator.answers["GET", _asking("sum(up)")] = error(400, "only plain selectors")
    with pytest.raises(CtlError, match="only plain selectors"):
        tail(
            Cluster(Settings(coordinator=cluster.coordinator.url)), "sum(up)",
            every_s=2.0, since_s=60, as_json=False, say=print, rounds=1,
        )  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_is_a_script_that_knows_commands_and_options(
    capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    for word in ("flush-times", "doctor", "--token-file"):
        assert word in out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out.encode(), check=True)
