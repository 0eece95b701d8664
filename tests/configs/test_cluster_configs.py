"""docs/cluster.md and the files of configs/cluster: they load, the calls are accepted, and everything names everything alike."""

import json
import re
import shlex
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

import aggregator.cli
import coordinator.cli
from aggregator.config import instance_id, load_config
from coordinator.api import admin_routes
from coordinator.config import load_coordinator
from m3cluster.kv import MemoryServer

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/cluster.md").read_text()
AGGREGATOR = ROOT / "configs/cluster/m3aggregator.yml"
COORDINATOR = ROOT / "configs/cluster/m3coordinator.yml"
IDS = ["m3aggregator01:6000", "m3aggregator02:6000"]


@pytest.mark.parametrize(("main", "file"), [(aggregator.cli.main, AGGREGATOR), (coordinator.cli.main, COORDINATOR)])
def test_the_files_are_valid(main, file, monkeypatch, capsys) -> None:
    monkeypatch.setenv("M3AGGREGATOR_HOST_ID", IDS[0])
    assert main(["-f", str(file), "--check-config"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    # No key without effect, nothing that the service would not start with.
    assert len(out.splitlines()) == 1, out


def test_both_services_name_the_same_etcd_environment_and_topics(monkeypatch) -> None:
    monkeypatch.setenv("M3AGGREGATOR_HOST_ID", IDS[0])
    service = load_config([AGGREGATOR]).value
    other = load_coordinator([str(COORDINATOR)]).value
    kv, management = service.kv_client, other.cluster_management
    assert kv.store(None).endpoints == management.store(None).endpoints
    assert (kv.environment, kv.zone) == (management.environment, management.zone)
    assert instance_id(service.aggregator, service.m3msg.server.listen_address) == IDS[0]
    assert all(text in COORDINATOR.read_text() for text in ("topicName: aggregator_ingest", kv.environment))
    assert "topicName: aggregated_metrics" in AGGREGATOR.read_text()


def calls() -> list[tuple[dict[str, str], str, str, dict]]:
    """Headers, method, path and body of the page's curl calls."""
    found = []
    for block in re.findall(r"```(?:shell)?\n(curl.*?)```", PAGE, re.S):
        words = shlex.split(block)
        headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
        (url,) = (word for word in words if word.startswith("http://m3coordinator01:7201/"))
        body = json.loads(words[words.index("-d") + 1])
        found.append((headers, words[words.index("-X") + 1], url.removeprefix("http://m3coordinator01:7201"), body))
    return found


async def test_the_calls_of_the_page_make_the_cluster() -> None:
    store = MemoryServer().client()
    now = [1_700_000_000_000_000_000]
    transport = httpx.ASGITransport(Starlette(routes=admin_routes(store, clock=lambda: now[0])))
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
        answers = []
        for headers, method, path, body in calls():
            answer = await client.request(method, path, headers=headers, json=body)
            assert answer.status_code == 200, f"{path}: {answer.text}"
            answers.append(answer.json())
            # The page says to leave two minutes between changes of the placement.
            now[0] += 120_000_000_000
    first, *_, grown = answers
    assert len(answers) == 7
    assert sorted(first["placement"]["instances"]) == IDS
    assert {i["shardSetId"] for i in first["placement"]["instances"].values()} == {1}
    assert answers[3]["topic"]["consumerServices"][0]["consumptionType"] == "REPLICATED"
    assert answers[5]["topic"]["consumerServices"][0]["consumptionType"] == "SHARED"
    # The added pair is a shard set of its own and takes half of the shards over.
    added = grown["placement"]["instances"]["m3aggregator03:6000"]
    assert (added["shardSetId"], len(added["shards"])) == (2, 32)
    await store.close()
