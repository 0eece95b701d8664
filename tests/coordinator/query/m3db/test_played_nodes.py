"""Queries over HTTP, down to the sockets of three played nodes."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from lab.m3db.faults import Error, Fault, Kind
from lab.m3db.namespaces import Namespace as PlayedNamespace
from lab.m3db.node import Node
from lab.m3db.series import quoted_id
from lab.m3db.storage import Point
from lab.waiting import until
from starlette.applications import Starlette
from tests.m3db.m3tsz.streams import bits_of

from coordinator.config import Namespace
from coordinator.query import ReadOptions, query_routes
from coordinator.query.m3db import M3DBSource
from m3db.options import RetryOptions, SessionOptions
from m3db.reader import Reader
from m3db.session import FixedTopology, open_session
from m3db.topology import Host, Topology
from m3metrics.ids import encode_tags
from m3x.instrument import Registry
from m3x.retry import Backoff

S = 10**9
START_S = 1_699_999_200
LONG_NS = 10**6 * S
NAMESPACES = (Namespace("raw", 0, 3600 * S), Namespace("agg", 10 * S, LONG_NS))


class Cluster:
    """The nodes, and a client of the coordinator that reads from them."""

    def __init__(self, nodes: list[Node], client: httpx.AsyncClient) -> None:
        self.nodes = nodes
        self.client = client

    def store(self, namespace: str, labels: dict[str, str], second: int, value: float, on: tuple[int, ...]) -> None:
        tags = [(name.encode(), text.encode()) for name, text in labels.items()]
        point = Point((START_S + second) * S, bits_of(value))
        for node in on:
            storage = self.nodes[node].storage
            storage.write(namespace, quoted_id(tags), encode_tags(tags), tags, point, 7200 * S)

    async def get(self, path: str, **params: Any) -> Any:
        answer = await self.client.get(f"/api/v1/{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """With replication factor 3; a read is not tried again."""
    async with contextlib.AsyncExitStack() as stack:
        played = [PlayedNamespace(one.name, retention_ns=LONG_NS) for one in NAMESPACES]
        nodes = [await stack.enter_async_context(Node(f"n{n}", namespaces=played)) for n in range(3)]
        topology = Topology.static([Host(node.name, node.address) for node in nodes], 16, 3)
        options, scope = SessionOptions(fetch_retry=RetryOptions(Backoff(), 0)), Registry().scope("m3db")
        session = await stack.enter_async_context(open_session(options, FixedTopology(topology), scope))
        await until(lambda: session.topology is not None and all(one.connections for one in session.hosts))
        source = M3DBSource(Reader(session, scope), lambda: NAMESPACES, clock=lambda: (START_S + 7200) * S)
        routes = query_routes(source, defaults=ReadOptions(series_limit=100, timeout_s=20.0))
        transport = httpx.ASGITransport(app=Starlette(routes=routes))
        client = httpx.AsyncClient(transport=transport, base_url="http://coordinator")
        yield Cluster(nodes, await stack.enter_async_context(client))


async def test_points_of_two_copies_of_three_while_a_node_is_away(cluster: Cluster) -> None:
    for second in range(0, 60, 10):
        node = second // 10 % 3
        cluster.store("agg", {"__name__": "up", "job": "a"}, second, second / 2, ((node + 1) % 3, (node + 2) % 3))
    cluster.store("raw", {"__name__": "up", "job": "b"}, 7190, 7.0, (0, 1, 2))
    wanted = [[START_S + second, str(second // 2)] for second in range(0, 60, 10)]
    for _ in range(2):
        span = {"start": START_S, "end": START_S + 50}
        # The range begins before the retention of the raw samples.
        (series,) = (await cluster.get("query_range", query="up", **span, step=10))["result"]
        assert series == {"metric": {"__name__": "up", "job": "a"}, "values": wanted}
        (series,) = (await cluster.get("query", query="up", time=START_S + 7195))["result"]
        assert series == {"metric": {"__name__": "up", "job": "b"}, "value": [START_S + 7195, "7"]}
        assert await cluster.get("labels", **span) == ["__name__", "job"]
        assert await cluster.get("label/job/values", **span) == ["a"]
        assert await cluster.get("series", **{"match[]": "up"}, **span) == [{"__name__": "up", "job": "a"}]
        await cluster.nodes[0].hang_up()


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        (Fault(Kind.ELEMENTS, error=Error.EXHAUSTED), 400, "ask for fewer series"),
        (Fault(Kind.ELEMENTS, error=Error.SERVER_TIMEOUT), 504, "failed to meet consistency level"),
        (Fault(Kind.ELEMENTS, error=Error.INTERNAL), 500, "0/3 success, 3 nodes responded"),
        (Fault(Kind.HANG), 504, "no answer within"),
    ],
    ids=["limit", "late", "internal", "silent"],
)
async def test_what_all_nodes_refuse(cluster: Cluster, fault: Fault, status: int, text: str) -> None:
    for node in cluster.nodes:
        node.fault("fetchTagged", fault)
    headers = {"M3-Timeout": "500ms"}
    answer = await cluster.client.get("/api/v1/query", params={"query": "up"}, headers=headers)
    assert answer.status_code == status
    assert text in answer.json()["error"]


async def test_limits_of_nodes(cluster: Cluster) -> None:
    for number in range(5):
        cluster.store("raw", {"__name__": "up", "i": str(number)}, 7190, 1.0, (0, 1, 2))
    params, headers = {"query": "up", "time": START_S + 7195}, {"M3-Limit-Max-Series": "3"}
    answer = await cluster.client.get("/api/v1/query", params=params, headers=headers)
    assert answer.status_code == 400
    assert "query exceeded limit: require_exhaustive=true, series_limit=3" in answer.json()["error"]
    headers["M3-Limit-Require-Exhaustive"] = "false"
    answer = await cluster.client.get("/api/v1/query", params=params, headers=headers)
    assert (answer.status_code, len(answer.json()["data"]["result"])) == (200, 3)
    assert answer.headers["M3-Results-Limited"] == "max_fetch_series_limit_applied"
