"""A coordinator whose store is M3DB, over the sockets of played nodes: nothing there at first, then all of it, then less again."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cramjam
import httpx
import pytest
import yaml
from lab.m3db.namespaces import HOUR_NS, SECOND_NS
from lab.m3db.namespaces import Namespace as PlayedNamespace
from lab.m3db.node import Node
from lab.m3db.placements import Nodes, write_registry
from lab.m3msg_client import M3MsgClient, aggregated
from lab.waiting import until
from tests.m3db.m3tsz.streams import bits_of

from coordinator.config import load_coordinator
from coordinator.prompb import WRITE_REQUEST
from coordinator.service import Coordinator, running
from m3cluster import kv
from m3x.protobuf import marshal

RAW = PlayedNamespace("raw", retention_ns=6 * HOUR_NS)
TEN = PlayedNamespace("ten", retention_ns=48 * HOUR_NS, resolution_ns=10 * SECOND_NS)
WRITE = "/api/v1/prom/remote/write"
CONFIG: dict[str, Any] = {
    "listenAddress": "127.0.0.1:0",
    "metrics": {"prometheus": {"listenAddress": "127.0.0.1:0"}},
    "carbon": {"ingester": {"listenAddress": "127.0.0.1:0", "rules": [
        {"pattern": ".*", "aggregation": {"enabled": False}, "policies": [{"resolution": "10s", "retention": "48h"}]},
    ]}},
    "clusterManagement": {"embedded": {}},
    "ingest": {
        "ingester": {"workerPoolSize": 1}, "noNamespaceGrace": "1h", "m3msg": {"server": {"listenAddress": "127.0.0.1:0"}},
    },
    "downsample": {"remoteAggregator": {"client": {"type": "m3msg", "m3msg": {"producer": {"writer": {
        "topicName": "aggregator_ingest", "topicServiceOverride": {"zone": "embedded", "environment": "default_env"},
    }}}}}},
}  # fmt: skip
DYNAMIC = {"client": {"config": {"service": {"env": "test", "zone": "embedded", "service": "m3db"}}}}


def static(nodes: list[Node]) -> dict[str, Any]:
    hosts = [{"hostID": node.name, "listenAddress": node.address} for node in nodes]
    return {
        "namespaces": [
            {"namespace": "raw", "retention": "6h"},
            {"namespace": "ten", "type": "aggregated", "resolution": "10s", "retention": "48h"},
        ],
        "client": {"config": {"static": {"topology": {"shards": 16, "replicas": 3, "hosts": hosts}}}},
    }


class Scene:
    """Three nodes, the KV that a coordinator uses, and one of these."""

    def __init__(self, folder: Path, nodes: list[Node], store: kv.Store) -> None:
        self.nodes = nodes
        self.store = store
        self._folder = folder

    @contextlib.asynccontextmanager
    async def coordinator(
        self, cluster: dict[str, Any], **more: Any
    ) -> AsyncIterator[tuple[Coordinator, httpx.AsyncClient]]:
        """One with this cluster."""
        file = self._folder / "coordinator.yml"
        file.write_text(yaml.safe_dump({**CONFIG, "clusters": [cluster], **more}))
        config = load_coordinator([file]).value
        assert config.unsupported() == []
        async with running(config, self._folder) as coordinator:
            base = f"http://127.0.0.1:{coordinator.ports['http']}"
            async with httpx.AsyncClient(base_url=base, timeout=20) as client:
                yield coordinator, client

    async def place(self) -> None:
        """Writes the placement."""
        await Nodes(self.nodes, self.store, environment="test").write()

    async def register(self, *namespaces: PlayedNamespace) -> None:
        """Writes the registry."""
        await write_registry(self.store, namespaces, environment="test")

    def copies(self, namespace: str, value: float) -> int:
        """How many nodes have the value."""
        bits = bits_of(value)
        return sum(any(point.bits == bits for _, point in node.storage.values(namespace)) for node in self.nodes)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(Node(f"n{n}", namespaces=(RAW, TEN))) for n in range(3)]
        store = await kv.open_store(kv.Embedded(tmp_path / "kv.sqlite"))
        stack.push_async_callback(store.close)
        yield Scene(tmp_path, nodes, store)


def body(value: float, time_ms: int) -> bytes:
    labels = [{"name": b"__name__", "value": b"up"}, {"name": b"job", "value": b"a"}]
    request = {"timeseries": [{"labels": labels, "samples": [{"value": value, "timestamp": time_ms}]}]}
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE_REQUEST, request)))


async def problems(client: httpx.AsyncClient) -> list[str]:
    return list((await client.get("/ready?writes=false")).json().get("problems", []))


async def said(client: httpx.AsyncClient, text: str, *, gone: bool = False) -> None:
    """Returns once a problem has the text, or none has it any more."""
    async with asyncio.timeout(20):
        while any(text in line for line in await problems(client)) == gone:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.02)


def ingested(coordinator: Coordinator, value: float) -> M3MsgClient:
    """A client that has given a value to port 7507. Blocking."""
    client = M3MsgClient(coordinator.ports["ingest"])
    client.pump(0.05)
    client.send([aggregated({"__name__": "up", "job": "b"}, time.time_ns() // SECOND_NS * SECOND_NS, value, "10s:48h")])
    return client


async def acknowledged(coordinator: Coordinator, value: float) -> None:
    """Gives a value to port 7507; returns when it is acknowledged."""
    with await asyncio.to_thread(ingested, coordinator, value) as client:
        await asyncio.to_thread(client.settle)


async def test_from_nothing_to_values_at_the_nodes_and_back(scene: Scene) -> None:
    now_ms = time.time_ns() // 1_000_000
    raw = {"M3-Metrics-Type": "unaggregated"}
    policy = {"M3-Metrics-Type": "aggregated", "M3-Storage-Policy": "10s:48h"}
    async with scene.coordinator(DYNAMIC) as (coordinator, client):
        await said(client, "there is no placement of M3DB's nodes yet: _sd.placement/test/m3db")
        await said(client, "M3DB has no namespace yet (_kv/test/m3db.node.namespaces)")
        await said(client, "carbon: carbon.ingester.rules[0].policies[0]: there is no aggregated namespace")
        answer = await client.post(WRITE, headers=raw, content=body(1.0, now_ms))
        assert (answer.status_code, "unaggregated namespace is not yet initialized" in answer.text) == (503, True)
        # Taken as soon as it is known that it has a place, before it is known where: it waits in the queue.
        await scene.register(RAW, TEN)
        await said(client, "M3DB has no namespace yet", gone=True)
        answer = await client.post(WRITE, headers=raw, content=body(1.0, now_ms))
        assert answer.status_code == 200
        await scene.place()
        await until(lambda: scene.copies("raw", 1.0) >= 2)
        await said(client, "carbon", gone=True)
        answer = await client.post(WRITE, headers=policy, content=body(2.0, now_ms))
        assert answer.status_code == 200
        await until(lambda: scene.copies("ten", 2.0) >= 2)
        await acknowledged(coordinator, 4.0)
        await until(lambda: scene.copies("ten", 4.0) >= 2)
        matched = (await client.get("/api/v1/rules/match", params={"metric": "up"})).json()
        assert matched["unsent"] is None
        assert [sent["metric"] for sent in matched["sent"]] == ["up"]
        ready = (await client.get("/ready?writes=false")).json()
        assert sorted(one["id"] for one in ready["readyReads"]) == ["raw", "ten"]
        found = await client.get("/api/v1/query", params={"query": "up", "time": now_ms / 1000 + 1})
        (series,) = found.json()["data"]["result"]
        assert (series["metric"], series["value"][1]) == ({"__name__": "up", "job": "a"}, "1")
        found = await client.get(
            "/api/v1/query", params={"query": 'up{job="b"}', "time": time.time() + 1}, headers=policy
        )
        assert found.json()["data"]["result"][0]["value"][1] == "4"


async def test_a_namespace_that_goes_takes_nothing_more_and_is_followed_everywhere(scene: Scene) -> None:
    now_ms = time.time_ns() // 1_000_000
    await scene.place()
    await scene.register(RAW, TEN)
    async with scene.coordinator(DYNAMIC) as (coordinator, client):
        policy = {"M3-Metrics-Type": "aggregated", "M3-Storage-Policy": "10s:48h"}
        await said(client, "M3DB", gone=True)
        assert (await client.post(WRITE, headers=policy, content=body(1.0, now_ms))).status_code == 200
        await scene.register(RAW)

        async def refused() -> bool:
            answer = await client.post(WRITE, headers=policy, content=body(2.0, now_ms))
            return answer.status_code != 200

        async with asyncio.timeout(20):
            while not await refused():  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.02)
        await said(client, "carbon: carbon.ingester.rules[0]")
        with await asyncio.to_thread(ingested, coordinator, 5.0) as sender:
            await said(client, "no configured cluster namespace for: retention=2d, resolution=10s")
            assert len(sender.unacked) == 1
            ready = (await client.get("/ready?writes=false")).json()
            assert [one["id"] for one in ready["readyReads"]] == ["raw"]
            explained = (await client.get("/api/v1/rules/match", params={"metric": "up"})).json()
            assert "M3DB's registry has none that is ready" in explained["unsent"]


async def test_nodes_and_namespaces_of_the_file(scene: Scene) -> None:
    now_ms = time.time_ns() // 1_000_000
    async with scene.coordinator(static(scene.nodes)) as (coordinator, client):
        await said(client, "M3DB", gone=True)
        headers = {"M3-Metrics-Type": "unaggregated"}
        assert (await client.post(WRITE, headers=headers, content=body(1.0, now_ms))).status_code == 200
        await until(lambda: scene.copies("raw", 1.0) >= 2)
        await acknowledged(coordinator, 2.0)
        await until(lambda: scene.copies("ten", 2.0) >= 2)


async def test_a_value_that_no_node_would_take_is_refused_in_the_answer(scene: Scene) -> None:
    now_ms = time.time_ns() // 1_000_000
    await scene.place()
    await scene.register(RAW, TEN)
    async with scene.coordinator(DYNAMIC) as (_, client):
        await said(client, "M3DB", gone=True)
        headers = {"M3-Metrics-Type": "unaggregated"}
        answer = await client.post(WRITE, headers=headers, content=body(1.0, now_ms - 700_000))
        assert (answer.status_code, "beyond its bufferPast 10m0s" in answer.text) == (400, True)
        assert scene.copies("raw", 1.0) == 0


async def test_nodes_that_go_are_said_with_their_shards(scene: Scene) -> None:
    await scene.place()
    await scene.register(RAW, TEN)
    async with scene.coordinator(DYNAMIC) as (_, client):
        await said(client, "M3DB", gone=True)
        for node in scene.nodes[:2]:
            await node.hang_up()
        await said(client, "M3DB: node n0")
        await said(client, "M3DB: 16 of 16 shards (0, 1, 2, 3, 4, 5, 6, 7, …) are on too few connected nodes")


async def test_a_file_beside_it_gets_the_same_values(scene: Scene, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    path = tmp_path / "values.json"
    sinks = [{"type": "file", "path": str(path)}]
    async with scene.coordinator(static(scene.nodes), sinks=sinks) as (_, client):
        headers = {"M3-Metrics-Type": "unaggregated"}
        assert (await client.post(WRITE, headers=headers, content=body(1.5, now_ms))).status_code == 200
        await until(lambda: scene.copies("raw", 1.5) >= 2 and '"value": 1.5' in path.read_text())
        assert {one["name"] for one in (await client.get("/api/v1/sinks")).json()["sinks"]} == {"m3db", "file"}
