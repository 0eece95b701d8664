"""The whole coordinator in one process: set up through its own admin API, metrics in, messages out, values read back."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import cramjam
import httpx
import pytest
from lab.ports import free_port
from lab.waiting import until

from coordinator.config import load_coordinator
from coordinator.prompb import WRITE_REQUEST
from coordinator.service import Coordinator, ServiceError, StartError, running
from m3cluster import kv
from m3cluster.keys import DEFAULT_ENVIRONMENT, placement_key, rule_namespaces_key, rule_set_key, topic_key
from m3cluster.kv.leased import LeasedStore
from m3cluster.proto import encode, parse_json
from m3cluster.proto.rules import NAMESPACES, RULE_SET
from m3metrics.codec import AggregatedMetric, decode_metric, encode_aggregated
from m3metrics.ids import ROLLUP_TAG, decode_tags, encode_tags
from m3metrics.policy import StoragePolicy
from m3msg.consumer import ConsumerServer, ReceivedBatch
from m3msg.frames import Message, Metadata, decode_ack, encode_message
from m3msg.producer import Producer
from m3x.protobuf import marshal

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"Cluster-Environment-Name": "namespace/m3db-cluster-name"}
INGEST = {**ENVIRONMENT, "Topic-Name": "aggregator_ingest"}
WRITE = "/api/v1/prom/remote/write"
OVERLAY = """
listenAddress: 127.0.0.1:0
metrics: {prometheus: {listenAddress: 127.0.0.1:0}}
carbon: {ingester: {listenAddress: 127.0.0.1:0}}
ingest: {m3msg: {server: {listenAddress: 127.0.0.1:0}}}
"""
IGNORE_CUTOVER = (
    "downsample: {remoteAggregator: {client: {m3msg: {producer: {writer: {ignoreCutoffCutover: true}}}}}}\n"
)
RULES_IN_KV = IGNORE_CUTOVER.replace("downsample: {", "downsample: {rules: null, ")
"""Rules of the file would win."""


class Aggregator:
    """Plays an aggregator: keeps and acks what it gets."""

    def __init__(self) -> None:
        self.metrics: list[Any] = []

    async def handle(self, batch: ReceivedBatch) -> None:
        self.metrics += [decode_metric(batch.value(i)) for i in range(len(batch))]
        batch.ack()


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    def make(more: str = "") -> Any:
        overlays = {"overlay.yml": OVERLAY, "more.yml": more}
        for name, text in overlays.items():
            (tmp_path / name).write_text(text)
        loaded = load_coordinator([ROOT / "configs/local/m3coordinator.yml", *(tmp_path / name for name in overlays)])
        return running(loaded.value, tmp_path, loaded.places)

    return make


def _client(coordinator: Coordinator) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{coordinator.ports['http']}", timeout=20)


def _body(value: float, time_ms: int, **labels: str) -> bytes:
    return _write(value, time_ms, [(name.encode(), text.encode()) for name, text in labels.items()])


def _write(value: float, time_ms: int, labels: Sequence[tuple[bytes, bytes]]) -> bytes:
    pairs = [{"name": name, "value": text} for name, text in labels]
    request = {"timeseries": [{"labels": pairs, "samples": [{"value": value, "timestamp": time_ms}]}]}
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE_REQUEST, request)))


async def _set_up(client: httpx.AsyncClient, port: int) -> None:
    """The how-to's calls as far as the way to the aggregators goes."""
    instance = {
        "id": "a", "isolation_group": "g", "zone": "embedded", "weight": 100, "endpoint": f"127.0.0.1:{port}",
        "hostname": "127.0.0.1", "port": port,
    }  # fmt: skip
    consumer = {
        "serviceId": {"name": "m3aggregator", "environment": "namespace/m3db-cluster-name", "zone": "embedded"},
        "consumptionType": "REPLICATED",
        "messageTtlNanos": "300000000000",
    }
    for path, headers, document in (
        ("/api/v1/services/m3aggregator/placement/init", ENVIRONMENT, {"num_shards": 64, "replication_factor": 1, "instances": [instance]}),
        ("/api/v1/topic/init", INGEST, {"numberOfShards": 64}),
        ("/api/v1/topic", INGEST, {"consumerService": consumer}),
    ):  # fmt: skip
        answer = await client.post(path, headers=headers, content=json.dumps(document))
        assert answer.status_code == 200, answer.text


async def test_from_nothing_to_messages_at_the_aggregator(start: Callable[..., Any]) -> None:
    aggregator = Aggregator()
    now_ms = time.time_ns() // 1_000_000
    async with ConsumerServer("127.0.0.1:0", aggregator.handle) as server, start(IGNORE_CUTOVER) as coordinator:
        async with _client(coordinator) as client:
            refused = await client.post(WRITE, content=_body(1.0, now_ms, __name__="up"))
            assert refused.status_code == 503
            assert "topic aggregator_ingest does not exist yet" in refused.json()["error"]
            assert int(refused.headers["retry-after"]) > 0
            ready = await client.get("/ready")
            assert ready.status_code == 500
            assert "create it (POST /api/v1/topic/init)" in ready.json()["reasons"][0]
            assert (await client.get("/ready?writes=false")).status_code == 200
            await _set_up(client, server.port)
            async with asyncio.timeout(20):
                while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110 - seen from outside
                    await asyncio.sleep(0.02)
            assert (await client.post(WRITE, content=_body(1.5, now_ms, __name__="up", job="x"))).status_code == 200
        _, carbon = await asyncio.open_connection("127.0.0.1", coordinator.ports["carbon"])
        carbon.write(f"demo.max.host-1 42 {now_ms // 1000}\n".encode())
        await carbon.drain()
        carbon.close()
        await carbon.wait_closed()
        await until(lambda: len(aggregator.metrics) == 2)
    by_value = {metric.value: metric for metric in aggregator.metrics}
    assert dict(decode_tags(by_value[1.5].id)) == {b"__name__": b"up", b"job": b"x"}
    assert by_value[1.5].time_ns == now_ms * 1_000_000
    (pipeline,) = by_value[42.0].metadatas[0].pipelines
    assert (pipeline.aggregation_id, str(pipeline.storage_policies[0])) == (8, "10s:2d")


class SlowAggregator(Aggregator):
    """Acks when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def handle(self, batch: ReceivedBatch) -> None:
        self.metrics += [decode_metric(batch.value(i)) for i in range(len(batch))]
        await self.may.wait()
        batch.ack()


@contextlib.asynccontextmanager
async def _waiting(
    start: Callable[..., Any], aggregator: SlowAggregator
) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A coordinator, and a remote write that waits for the aggregator."""
    more = IGNORE_CUTOVER + "writes: {ack: aggregated}"
    server = ConsumerServer("127.0.0.1:0", aggregator.handle)
    async with server, asyncio.timeout(40), contextlib.AsyncExitStack() as stack:
        async with start(more) as coordinator:
            client = await stack.enter_async_context(_client(coordinator))
            await _set_up(client, server.port)
            while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.02)
            body = _body(1.5, time.time_ns() // 1_000_000, __name__="up")
            task = asyncio.create_task(client.post(WRITE, content=body))
            await until(lambda: aggregator.metrics)
            metrics = (await client.get(f"http://127.0.0.1:{coordinator.ports['metrics']}/metrics")).text
            assert 'coordinator_write_ack_waiting{handler="remote-write"} 1.0' in metrics
            assert not task.done()
            yield task
        # What waited is answered before the coordinator has ended.
        assert task.done()


async def test_with_acks_a_write_is_answered_when_the_aggregator_has_acked(start: Callable[..., Any]) -> None:
    aggregator = SlowAggregator()
    async with _waiting(start, aggregator) as answer:
        aggregator.may.set()
        assert (await answer).status_code == 200
    assert len(aggregator.metrics) == 1


@pytest.mark.parametrize("acks", [True, False])
async def test_the_end_of_the_coordinator_answers_what_waits(start: Callable[..., Any], acks: bool) -> None:
    aggregator = SlowAggregator()
    async with _waiting(start, aggregator) as answer:
        if acks:
            asyncio.get_running_loop().call_later(0.3, aggregator.may.set)
        else:
            answer.add_done_callback(lambda _: aggregator.may.set())
    assert answer.result().status_code == (200 if acks else 503)
    if not acks:
        assert "the coordinator ends" in answer.result().text


def _rule_set(aggregation: str) -> bytes:
    policy = {
        "resolution": {"windowSize": "10000000000", "precision": "1000000000"},
        "retention": {"period": "172800000000000"},
    }
    rollup = {"type": "ROLLUP", "rollup": {"newName": "by_code", "tags": ["code"], "aggregationTypes": [aggregation]}}
    target = {"pipeline": {"ops": [rollup]}, "storagePolicies": [policy]}
    snapshot = {"name": "by code", "cutoverNanos": "1", "filter": "__name__:requests", "targetsV2": [target]}
    rule_set = {"namespace": "default", "rollupRules": [{"uuid": "1", "snapshots": [snapshot]}]}
    return encode(RULE_SET, parse_json(RULE_SET, json.dumps(rule_set)))


async def test_rules_in_kv_change_while_it_runs(start: Callable[..., Any], tmp_path: Path) -> None:
    aggregator = Aggregator()
    body = _body(1.0, time.time_ns() // 1_000_000, __name__="requests", host="a", code="200")

    def rolled_up(aggregation_id: int) -> bool:
        """Whether by_code has arrived with that aggregation."""
        name = (b"__name__", b"by_code")
        return any(
            name in decode_tags(m.id) and m.metadatas[0].pipelines[0].aggregation_id == aggregation_id
            for m in aggregator.metrics
        )

    server = ConsumerServer("127.0.0.1:0", aggregator.handle)
    async with server, start(RULES_IN_KV) as coordinator, _client(coordinator) as client, asyncio.timeout(40):
        await _set_up(client, server.port)
        operator = await kv.open_store(kv.Embedded(tmp_path / "kv.sqlite"))
        namespaces = parse_json(NAMESPACES, json.dumps({"namespaces": [{"name": "default", "snapshots": [{}]}]}))
        await operator.set(rule_namespaces_key(DEFAULT_ENVIRONMENT), encode(NAMESPACES, namespaces))
        for aggregation, number in (("SUM", 1 << 7), ("MAX", 1 << 3)):
            await operator.set(rule_set_key(DEFAULT_ENVIRONMENT, "default"), _rule_set(aggregation))
            while not rolled_up(number):
                await client.post(WRITE, content=body)
                await asyncio.sleep(0.02)
        await operator.set(rule_set_key(DEFAULT_ENVIRONMENT, "default"), b"broken")
        while "problems" not in (ready := await client.get("/ready")).json():  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.02)
        assert ready.status_code == 200
        (problem,) = ready.json()["problems"]
        assert "version 3 of the rule set of namespace 'default' is not usable" in problem
        assert "version 2 stays in effect" in problem
        answer = await client.get("/api/v1/rules/match", params={"metric": "requests{code=200}"})
        (rule,) = answer.json()["rules"]
        assert (rule["name"], rule["matches"], answer.json()["ruleSetVersion"]) == ("by code", True, 2)
        await operator.close()


IN_VAIN = """
downsample:
  rules:
    mappingRules: []
    rollupRules:
      - {name: by code, filter: 'app:*', transforms: [{rollup: {metricName: n}}], storagePolicies: [{resolution: 10s, retention: 744h}]}
  remoteAggregator: {client: {m3msg: {producer: {writer: {ignoreCutoffCutover: true}}}}}
"""


@contextlib.asynccontextmanager
async def _sending_aggregated(coordinator: Coordinator, policy: str) -> AsyncIterator[asyncio.StreamReader]:
    """Sends a value to the ingest server, as message 7."""
    metric = AggregatedMetric(
        id=encode_tags([(b"__name__", b"n"), ROLLUP_TAG]), time_ns=time.time_ns(), value=1.0,
        storage_policy=StoragePolicy.parse(policy),
    )  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", coordinator.ports["ingest"])
    writer.write(encode_message(Message(Metadata(3, 7, 5), encode_aggregated(metric))))
    yield reader
    writer.close()
    await writer.wait_closed()


async def test_a_rule_without_a_namespace_is_named_and_what_comes_of_it_is_acked(start: Callable[..., Any]) -> None:
    aggregator = Aggregator()
    server = ConsumerServer("127.0.0.1:0", aggregator.handle)
    async with server, start(IN_VAIN) as coordinator, _client(coordinator) as client, asyncio.timeout(40):
        await _set_up(client, server.port)
        while (ready := await client.get("/ready")).status_code != 200 or len(ready.json()["problems"]) > 1:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.02)
        (warning,) = ready.json()["problems"]
        assert "more.yml:6: downsample.rules.rollupRules[0].storagePolicies[0]: rollup rule 'by code'" in warning
        async with _sending_aggregated(coordinator, "10s:31d") as reader:
            size = int.from_bytes(await reader.readexactly(4), "big")
            assert [one.id for one in decode_ack(await reader.readexactly(size))] == [7]
        problems = (await client.get("/ready")).json()["problems"]
        assert len(problems) == 2
        named = next(line for line in problems if line.startswith("ingest: "))
        assert "1 message of policy 10s:31d not stored" in named
        assert 'like n{__rollup__="true"}' in named
        assert "asked for by rollup rule 'by code' of namespace 'default'" in named
        metrics = await client.get(f"http://127.0.0.1:{coordinator.ports['metrics']}/metrics")
        assert 'coordinator_ingest_m3msg_ingest_refused{reason="no-namespace"} 1.0' in metrics.text


@pytest.mark.parametrize("grace", ["1h", "1ms"])
async def test_without_namespaces_in_the_file_values_wait_for_the_grace(start: Callable[..., Any], grace: str) -> None:
    def refused(error_type: str) -> float:
        return float(coordinator.registry.counter("coordinator_ingest_m3msg_ingest_error", error_type=error_type))

    async with start(f"clusters: []\ncarbon: {{ingester: null}}\ningest: {{noNamespaceGrace: {grace}}}") as coordinator:
        async with _sending_aggregated(coordinator, "10s:2d"):
            await until(lambda: refused("internal_error") == 1)
        if grace == "1ms":
            async with _sending_aggregated(coordinator, "10s:2d"):
                await until(lambda: refused("non_retryable_error") == 1)


async def test_writes_wait_for_the_cutover(start: Callable[..., Any]) -> None:
    async with start() as coordinator, _client(coordinator) as client:
        await _set_up(client, 1)
        async with asyncio.timeout(20):
            while "cut over" not in (answer := await client.post(WRITE, content=_body(1.0, 0, __name__="up"))).text:
                # Shortly before a whole minute M3 takes the next one, so that this ends in time.
                assert answer.status_code == 503
                await asyncio.sleep(0.02)
        assert answer.status_code == 503


async def test_direct_writes_are_read_back(start: Callable[..., Any]) -> None:
    time_s = time.time_ns() // 1_000_000_000 - 20
    headers = {"M3-Metrics-Type": "aggregated", "M3-Storage-Policy": "10s:48h"}
    async with start() as coordinator, _client(coordinator) as client:
        assert (
            await client.post(WRITE, headers=headers, content=_body(7.25, time_s * 1000, __name__="direct"))
        ).status_code == 200
        answer = await client.get("/api/v1/query", params={"query": "direct", "time": time_s})
        assert answer.json()["data"]["result"][0]["value"] == [time_s, "7.25"]
        missing = await client.post(
            WRITE,
            headers={**headers, "M3-Storage-Policy": "1h:48h"},
            content=_body(1.0, time_s * 1000, __name__="direct"),
        )
        assert missing.status_code == 500
        assert "no configured cluster namespace for: retention=48h0m0s, resolution=1h0m0s" in missing.text
        metrics = await client.get(f"http://127.0.0.1:{coordinator.ports['metrics']}/metrics")
        assert b"coordinator_write_success" in metrics.content
        assert (await client.get("/api/v1/nothing")).status_code == 404
        assert "now" in (await client.get("/health")).json()
    # What was answered is there after a restart.
    async with start() as coordinator, _client(coordinator) as client:
        answer = await client.get("/api/v1/query", params={"query": "direct", "time": time_s})
        assert answer.json()["data"]["result"][0]["value"] == [time_s, "7.25"]


async def test_labels_that_options_let_in_are_read_as_prometheus_has_them(start: Callable[..., Any]) -> None:
    """Whoever wrote them, and after a restart as well; what clients ask about a Prometheus is answered beside."""
    options = "tagOptions: {allowTagNameDuplicates: true, allowTagValueEmpty: true}\n"
    time_ms = (time.time_ns() // 1_000_000_000 - 20) * 1000
    headers = {"M3-Metrics-Type": "aggregated", "M3-Storage-Policy": "10s:48h"}
    written = [
        [(b"__name__", b"m"), (b"a", b"1"), (b"a", b"2"), (b"b", b"")],
        [(b"__name__", b"m"), (b"a", b""), (b"a", b"1")],
        [(b"__name__", b"m"), (b"a", b"")],
    ]
    for restarted in (False, True):
        async with start(options) as coordinator, _client(coordinator) as client:
            for value, labels in enumerate([] if restarted else written):
                answer = await client.post(WRITE, headers=headers, content=_write(float(value), time_ms, labels))
                assert answer.status_code == 200, answer.text
            for prefix in ("", "/prometheus"):
                found = (await client.get(f"{prefix}/api/v1/query?query=m&time={time_ms / 1000}")).json()["data"][
                    "result"
                ]
                assert [(one["metric"], one["value"][1]) for one in found] == [
                    ({"__name__": "m"}, "2"),
                    ({"__name__": "m", "a": "1"}, "1"),
                ]
                assert (await client.get(f"{prefix}/api/v1/labels")).json()["data"] == ["__name__", "a"]
                assert (await client.get(f"{prefix}/api/v1/rules")).json()["data"] == {"groups": []}
            read = {"query": 'm{a!="2",b=""}', "start": 0, "end": time_ms / 1000, "format": "json"}
            series = (await client.get("/api/v1/prom/remote/read", params=read)).json()["queries"][0]["series"]
            assert [one["tags"] for one in series] == [[["__name__", "m"]], [["__name__", "m"], ["a", "1"]]]


async def test_a_refused_sample_is_logged_with_its_time_and_what_is_likely_wrong(
    start: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    headers = {"M3-Metrics-Type": "aggregated", "M3-Storage-Policy": "10s:48h"}
    async with start() as coordinator, _client(coordinator) as client:
        capsys.readouterr()
        body = _body(1.0, time.time_ns() // 1_000_000_000, __name__="seconds", job="a")
        assert (await client.post(WRITE, headers=headers, content=body)).status_code == 400
    lines = map(json.loads, capsys.readouterr().err.splitlines())
    (line,) = [line for line in lines if line["msg"] == "samples are refused"]
    assert (line["metric"], line["samples"]) == ('seconds{job="a"}', 1)
    assert line["time"].startswith("1970-01-")
    assert line["likely"] == "its sender seems to give seconds where milliseconds are meant"


async def test_a_store_that_cannot_be_opened_is_named(start: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "metrics.duckdb").write_text("not a database")
    with pytest.raises(StartError, match=r"metrics\.duckdb"):
        async with start():
            pass


async def test_a_producer_that_fails_ends_the_service_and_nothing_is_accepted_meanwhile(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = asyncio.Event()

    async def ticks(_: Producer) -> None:
        await fail.wait()
        raise RuntimeError("out of order")

    monkeypatch.setattr(Producer, "_ticks", ticks)
    aggregator = Aggregator()
    server = ConsumerServer("127.0.0.1:0", aggregator.handle)
    async with server, start(RULES_IN_KV) as coordinator, _client(coordinator) as client, asyncio.timeout(40):
        await _set_up(client, server.port)
        body = _body(1.0, 0, __name__="up")
        while (await client.post(WRITE, content=body)).status_code != 200:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.02)
        fail.set()
        with pytest.raises(ServiceError, match=r"producer .* has failed: RuntimeError\('out of order'\)"):
            await coordinator.wait(asyncio.Event())
        refused = await client.post(WRITE, content=body)
        assert refused.status_code == 503
        assert "has failed" in refused.json()["error"]
        assert (await client.get("/ready")).status_code == 500


async def test_each_key_of_the_kv_is_watched_once(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    watched: Counter[str] = Counter()
    watch = LeasedStore.watch

    def counted(store: LeasedStore[Any], key: str) -> Any:
        watched[key] += 1
        return watch(store, key)

    monkeypatch.setattr(LeasedStore, "watch", counted)
    aggregator, environment = Aggregator(), ENVIRONMENT["Cluster-Environment-Name"]
    async with (
        ConsumerServer("127.0.0.1:0", aggregator.handle) as server,
        start(RULES_IN_KV) as coordinator,
        _client(coordinator) as client,
    ):
        await _set_up(client, server.port)
        async with asyncio.timeout(20):
            while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.02)
    assert watched == {
        topic_key(environment, "aggregator_ingest"): 1,
        placement_key(environment, "m3aggregator"): 1,
        rule_namespaces_key(DEFAULT_ENVIRONMENT): 1,
    }


async def test_a_coordinator_that_administrates_only_says_that_etcd_is_away_before_the_first_call(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.yml").write_text(f"""
listenAddress: 127.0.0.1:0
metrics: {{prometheus: {{listenAddress: 127.0.0.1:0}}}}
backend: noop-etcd
clusterManagement:
  etcd: {{env: e, zone: embedded, service: s, etcdClusters: [{{zone: embedded, endpoints: ["127.0.0.1:{free_port()}"]}}]}}
""")
    loaded = load_coordinator([tmp_path / "c.yml"])
    async with running(loaded.value, tmp_path, loaded.places) as coordinator, _client(coordinator) as client:
        async with asyncio.timeout(20):
            while not (problems := (await client.get("/ready")).json().get("problems")):  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.05)
    assert problems[0].startswith("waiting for etcd 127.0.0.1:")
