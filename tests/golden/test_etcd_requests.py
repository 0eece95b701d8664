"""What this project asks of etcd, beside what M3's processes asked (``golden/cluster/etcd_requests.jsonl``), on a real etcd.

Writes, their conditions, the leases and the order of both are M3's; so are the keys that are watched. Reads are not compared: candidates
are read as a whole instead of one by one, keys are read and watched in one go. What differs by intent:

* an aggregator that is told to end revokes its lease, M3 leaves the key to its time to live;
* flush times are put under the condition that the election key is still ours;
* the members of the cluster are not asked for: the endpoints are those of the configuration.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from lab.kv_servers import EtcdServer
from lab.waiting import until
from starlette.applications import Starlette
from tests.golden.vectors import Vector, lines
from tests.real_servers import require_server

from aggregator.config import kv_keys, load_config
from coordinator.api import admin_routes
from m3cluster import keys
from m3cluster.election import Election
from m3cluster.kv import Etcd, KVError, open_store
from m3cluster.kv.etcd import connection as rpc
from m3cluster.kv.etcd.messages import COMPARE_CREATE

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = "gclu/kv"
PREFIX = keys.election_prefix(ENVIRONMENT, "m3aggregator", "shardset/1/lock")
LONG_S = 60
TTL_S = 8
"""Long enough for a loaded machine; one lease of a killed candidate runs out."""

Write = tuple[Any, ...]
COMPARE = re.compile(r'compare:<(target:CREATE )?key:"([^"]+)" (?:version|create_revision):(\d+) > ')
PUT = re.compile(r'request_put:<key:"([^"]+)" value_size:(\d+) (?:lease:(\d+) )?>')
DELETE = re.compile(r'request_delete_range:<key:"([^"]+)" >')


def records(process: str) -> list[Vector]:
    return [v for v in lines("cluster/etcd_requests.jsonl") if v.get("process") == process and "rpc" in v]


def theirs(vector: Vector) -> Write | None:
    """A captured request that changes something: (condition, change); None for a read."""
    kind, text = vector["rpc"], vector["request"]
    if kind == "Lease/LeaseGrant":
        return ("grant",)
    if kind == "KV/Put":
        key = re.search(r'key:"([^"]+)" value_size:(\d+)', text)
        assert key is not None
        return None, ("put", key[1], int(key[2]), 0)
    if kind != "KV/Txn":
        return None
    condition = COMPARE.match(text)
    assert condition is not None, text
    target = "create" if condition[1] else "version"
    if put := PUT.search(text):
        change: Write = ("put", put[1], int(put[2]), int(put[3] or 0))
    else:
        delete = DELETE.search(text)
        assert delete is not None, text
        change = ("delete", delete[1])
    return (target, condition[2], int(condition[3])), change


def ours(method: rpc.RPC, request: Any) -> Write | None:
    """The same of one of our requests."""
    if method is rpc.LEASE_GRANT:
        return ("grant",)
    if method is rpc.LEASE_REVOKE:
        return ("revoke",)
    if method is not rpc.TXN or not request.get("compare"):
        assert method in (rpc.RANGE, rpc.TXN), method
        return None
    (compare,), (success,) = request["compare"], request["success"]
    target = "create" if compare["target"] == COMPARE_CREATE else "version"
    number = compare["create_revision"] if target == "create" else compare["version"]
    if put := success.get("put"):
        change: Write = ("put", put["key"].decode(), len(put["value"]), put.get("lease", 0))
    else:
        change = ("delete", success["delete_range"]["key"].decode())
    return (target, compare["key"].decode(), number), change


def without_names(writes: list[Write]) -> list[Write]:
    """Lease ids by order of appearance; a key's create revision is what its transaction gave it, so only whether it is 0 is left."""
    numbers: dict[str, str] = {}

    def named(text: str) -> str:
        head, slash, tail = text.rpartition("/")
        return f"{head}{slash}{numbers.setdefault(tail, f'lease {len(numbers) + 1}')}" if head == PREFIX else text

    found: list[Write] = []
    for write in writes:
        if len(write) == 1:
            found.append(write)
            continue
        (target, key, number), change = write
        if change[0] == "put" and change[3]:
            assert key == f"{PREFIX}/{change[3]:x}"
            change = ("put", named(change[1]), change[2], "its lease")
        else:
            change = (change[0], named(change[1]), *change[2:])
        found.append(((target, named(key), number if target == "version" else number > 0), change))
    return found


class Process:
    """A client of etcd that keeps what it writes."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.writes: list[Write] = []
        call = store._connection.call

        async def recorded(method: rpc.RPC, request: Any, **more: Any) -> Any:
            if (write := ours(method, request)) is not None:
                self.writes.append(write)
            return await call(method, request, **more)

        store._connection.call = recorded


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    require_server(EtcdServer)
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
async def process(etcd: EtcdServer) -> AsyncIterator[Any]:
    made: list[Process] = []

    async def start() -> Process:
        made.append(Process(await open_store(Etcd((etcd.address,)))))
        return made[-1]

    yield start
    for one in made:
        await one.store.close()


CALLS = [
    ("services/m3aggregator/placement/init", "", {
        "num_shards": 8, "replication_factor": 2,
        "instances": [
            {
                "id": name, "isolation_group": group, "zone": "embedded", "weight": 100,
                "endpoint": f"{host}:6000", "hostname": host, "port": 6000,
            }
            for name, group, host in (("agg01", "a", "127.0.2.232"), ("agg02", "b", "127.0.2.233"))
        ],
    }),
    ("topic/init", "aggregator_ingest", {"numberOfShards": 8}),
    ("topic/init", "aggregated_metrics", {"numberOfShards": 8}),
    ("topic", "aggregator_ingest", {"consumerService": {
        "serviceId": {"name": "m3aggregator", "environment": ENVIRONMENT, "zone": "embedded"},
        "consumptionType": "REPLICATED", "messageTtlNanos": "300000000000",
    }}),
    ("services/m3coordinator/placement/init", "", {"instances": [
        {"id": "sink", "zone": "embedded", "endpoint": "127.0.2.234:7507", "hostname": "127.0.2.234", "port": 7507},
    ]}),
    ("topic", "aggregated_metrics", {"consumerService": {
        "serviceId": {"name": "m3coordinator", "environment": ENVIRONMENT, "zone": "embedded"},
        "consumptionType": "SHARED", "messageTtlNanos": "300000000000",
    }}),
]  # fmt: skip
"""The calls of the capture; what they stored is in ``kv_values.jsonl``."""


async def test_the_admin_calls_write_what_m3_writes_under_the_same_conditions(process: Any) -> None:
    coordinator = await process()
    routes = admin_routes(coordinator.store, clock=lambda: 1795374267183061403)
    transport = httpx.ASGITransport(Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
        for path, topic, body in CALLS:
            headers = {"Cluster-Environment-Name": ENVIRONMENT} | ({"Topic-Name": topic} if topic else {})
            answer = await client.post(f"/api/v1/{path}", headers=headers, json=body)
            assert answer.status_code == 200, answer.text
    expected = [write for vector in records("m3coordinator") if (write := theirs(vector)) is not None]
    assert len(expected) == len(CALLS)
    assert coordinator.writes == expected


async def until_candidates(store: Any, count: int) -> None:
    async def there() -> bool:
        return len(await store.keys(PREFIX + "/")) == count

    await until(there)


async def test_an_election_takes_the_course_of_m3s(process: Any) -> None:
    """The actions of the capture, one after the other: two candidates, a resignation, an orderly end, a new start, a kill -9."""
    led: list[str] = []
    first, second, observer = await process(), await process(), await process()

    async def lead(election: Election, name: str) -> None:
        await election.campaign(name)
        led.append(name)

    async with asyncio.timeout(LONG_S):
        agg01 = Election(first.store, PREFIX, TTL_S)
        agg02 = Election(second.store, PREFIX, TTL_S)
        await lead(agg02, "agg02")
        waiting = asyncio.ensure_future(lead(agg01, "agg01"))
        await until_candidates(observer.store, 2)
        await agg02.resign()
        await waiting
        waiting = asyncio.ensure_future(lead(agg02, "agg02"))
        await until_candidates(observer.store, 2)
        await agg01.close()
        await waiting
        restarted = await process()
        agg01 = Election(restarted.store, PREFIX, TTL_S)
        waiting = asyncio.ensure_future(lead(agg01, "agg01"))
        await until_candidates(observer.store, 2)
        await second.store.abandon()
        await waiting
        await agg01.close()

    logs = [v for v in lines("cluster/etcd_requests.jsonl") if v.get("log", "").endswith("follower to leader")]
    assert led == [v["process"] for v in logs]
    found = {"agg01": first.writes + restarted.writes, "agg02": second.writes}
    for name, writes in found.items():
        captured = [theirs(vector) for vector in records(name)]
        expected = [w for w in captured if w is not None and (w == ("grant",) or w[0] is not None)]
        assert without_names([w for w in writes if w != ("revoke",)]) == without_names(expected), name
    # Ours by intent: ending in order takes the key away at once. A process that is killed revokes nothing.
    assert [w for w in first.writes if w == ("revoke",)] == [("revoke",)]
    assert ("revoke",) not in second.writes


async def test_flush_times_are_put_under_m3s_key_while_the_election_key_is_ours(process: Any) -> None:
    key = keys.flush_times_key(ENVIRONMENT, 1)
    captured = [w for name in ("agg01", "agg02") for v in records(name) if v["rpc"] == "KV/Put" and (w := theirs(v))]
    assert {change[1] for _, change in captured} == {key}
    leader, other = await process(), await process()
    election = Election(leader.store, PREFIX, TTL_S)
    await election.campaign("agg01")
    leader.writes.clear()
    await leader.store.put_if(key, b"times", election.key, election.revision)
    assert leader.writes == [(("create", election.key, election.revision), ("put", key, 5, 0))]
    await other.store.delete_if(election.key, election.revision)
    with pytest.raises(KVError):
        await leader.store.put_if(key, b"late", election.key, election.revision)
    assert (await other.store.get(key)).data == b"times"
    await election.close()


def test_the_keys_that_an_aggregator_watches(tmp_path: Path) -> None:
    text = (ROOT / "configs/m3aggregator.yml").read_text().replace("namespace/m3db-cluster-name", ENVIRONMENT)
    (tmp_path / "m3aggregator.yml").write_text(text)
    found = kv_keys(load_config([tmp_path / "m3aggregator.yml"], {"M3AGGREGATOR_HOST_ID": "agg01"}).value)
    watched = {
        found.placement,
        found.flush_times(1),
        found.values_limit,
        found.new_metrics_limit,
        keys.topic_key(ENVIRONMENT, "aggregator_ingest"),
        keys.topic_key(ENVIRONMENT, "aggregated_metrics"),
        keys.placement_key(ENVIRONMENT, "m3coordinator"),
    }
    for name in ("agg01", "agg02"):
        requests = [v["request"] for v in records(name) if v["rpc"] == "Watch/Create" and PREFIX not in v["request"]]
        assert {re.match(r'key:"([^"]+)"', text)[1] for text in requests} == watched  # type: ignore[index]
    assert found.election(1) == PREFIX


def test_every_kind_of_request_of_the_capture_is_known() -> None:
    kinds = {v["rpc"] for v in lines("cluster/etcd_requests.jsonl") if "rpc" in v}
    assert kinds == {
        "KV/Range", "KV/Put", "KV/Txn", "Lease/LeaseGrant", "Watch/Create", "Cluster/MemberList",
    }  # fmt: skip
