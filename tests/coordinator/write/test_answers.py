"""docs/answers.md row by row: what is answered, where the samples end, and what is counted, with real parts up to the producer.

The page is the expectation: status, destinations and counters are read from its rows, and every row has a case here.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cramjam
import httpx
import msgspec
import numpy as np
import pytest
from lab.prometheus import request_2
from lab.waiting import until
from starlette.applications import Starlette
from tests.coordinator.sinks.batches import RecordingSink
from tests.coordinator.write.otlp import requests as otlp

from coordinator.cli import main
from coordinator.config import load_coordinator
from coordinator.config.carbon import AggregationConfig, CarbonIngesterConfig, CarbonPolicyConfig, CarbonRuleConfig
from coordinator.config.cluster import Namespace
from coordinator.config.write_limits import WriteLimitsConfig
from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.downsample.policies import policy_of
from coordinator.not_kept import Reason
from coordinator.prompb import WRITE_REQUEST
from coordinator.service import running
from coordinator.sinks import (
    Delivered,
    EmbeddedSink,
    Hub,
    QueuedSink,
    QueueOptions,
    Refused,
    RefusedWhy,
    TryAgainError,
    Values,
    open_hub,
)
from coordinator.sinks.queue import Queue, QueueFullError
from coordinator.store import Store, StoreError, StoreOptions, open_store
from coordinator.write import (
    Acks,
    BodyRoom,
    CarbonIngester,
    CarbonServer,
    Door,
    HubDirectStore,
    IngestTopic,
    Limiter,
    RemoteWriter,
    SeriesCache,
    remote_write_routes,
    sender_routes,
)
from coordinator.write.carbon_rules import compile_rules
from coordinator.write.readiness import Opening
from m3cluster.kv import MemoryServer
from m3cluster.topology import Topology
from m3metrics.aggregation import AggregationType, compress
from m3metrics.filters import compile_filter
from m3metrics.past_limits import PastLimits
from m3metrics.policy import DropPolicy, StoragePolicy
from m3metrics.rules import (
    MappingRule,
    MappingSnapshot,
    RollupRule,
    RollupRuleOp,
    RollupSnapshot,
    RollupTarget,
    RuleSet,
)
from m3msg.batch import MessageBatch
from m3msg.producer import ProducerOptions
from m3x.config import Duration
from m3x.instrument import Registry
from m3x.protobuf import marshal, varint

PAGE = Path(__file__).parents[3] / "docs/answers.md"
PATH = "/api/v1/prom/remote/write"
SECOND, HOUR = 10**9, 3600 * 10**9
NOW_MS = time.time_ns() // 1_000_000
OLD_MS = NOW_MS - 72 * 3_600_000
TEN = Namespace("ten", 10 * SECOND, 48 * HOUR)
QUIET = Namespace("quiet", 10 * SECOND, 48 * HOUR, downsample_all=False)
AS_THEY_COME = Namespace("raw", 0, 48 * HOUR)
READ_ONLY = Namespace("past", 10 * SECOND, 48 * HOUR, read_only=True)
NO_AGGREGATORS = "no aggregators are configured"
LONG_LIMITS = PastLimits(((0, 3600 * SECOND),))
"""Tests may take long."""
UNAGGREGATED = {"M3-Metrics-Type": "unaggregated"}
DIRECT = {"M3-Metrics-Type": "aggregated", "M3-Storage-Policy": "10s:48h"}
NAN = float("nan")


class Row(NamedTuple):
    """A row of the page."""

    status: str
    """The status, or ``none`` for what has no answer, or ``exit 2``."""
    ends: Counter[str]
    counted: Counter[str]


def _counters(text: str) -> Counter[str]:
    """`` `name` 2, `other` `` → how often each."""
    return Counter({name: int(times or 1) for name, times in re.findall(r"`([^`]+)`(?: (\d+))?", text)})


def rows() -> dict[str, Row]:
    """The rows of all tables of the page, by key."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("| `") or len(cells) != 5:
            continue
        key, _, answer, ends, counted = cells
        destinations = Counter({place: int(n) for place, n in re.findall(r"(aggregators|storage): (\d+)", ends)})
        status = re.match(r"none|exit 2|\d{3}", answer)
        assert status is not None, line
        assert key.strip("`") not in found, f"{key} stands twice"
        found[key.strip("`")] = Row(status[0], destinations, _counters(counted))
    return found


def written() -> dict[str, str]:
    """How many samples were written, by the answers of the page that say so."""
    return dict(re.findall(r"^\| `([^`]+)` \|.*samples written: (\d+)", PAGE.read_text(), re.MULTILINE))


# --- the world around a request ---


class Producer:
    """Plays the producer behind the ingest topic: counts messages."""

    num_shards = 64

    def __init__(self) -> None:
        self.topology: Topology
        self.messages = 0
        self.free = 1 << 30
        self.takes = True

    def produce(self, batch: MessageBatch) -> bool:
        if self.takes:
            self.messages += len(batch)
        return self.takes

    def room(self) -> int:
        return self.free

    async def wait_room(self, nbytes: int = 1) -> None:
        while self.free < nbytes:  # noqa: ASYNC110 - nobody else waits
            await asyncio.sleep(0.005)


@dataclass
class World:
    """Real parts around one request."""

    registry: Registry
    producer: Producer
    topic: IngestTopic
    store: Store
    direct: HubDirectStore
    downsampler: Downsampler
    cache: SeriesCache
    namespaces: list[Namespace]
    stored: Registry
    hub: Hub
    acks: Acks | None = None
    door: Door | None = None
    limiter: Limiter | None = None
    bodies: BodyRoom | None = None

    def app(self) -> Starlette:
        scope = self.registry.scope("coordinator").tagged(handler="remote-write")
        writer = RemoteWriter(
            self.downsampler, self.cache, self.topic, scope, direct=self.direct, acks=self.acks, door=self.door,
            limiter=self.limiter, bodies=self.bodies,
        )  # fmt: skip
        return Starlette(routes=[*remote_write_routes(writer), *sender_routes(writer, scope)])

    async def post(self, body: bytes, headers: dict[str, str], path: str = PATH) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app()), base_url="http://test") as client:
            return await client.post(path, content=body, headers=headers)

    def carbon(self, *rules: CarbonRuleConfig) -> CarbonIngester:
        compiled = compile_rules(CarbonIngesterConfig(rules=list(rules)), self.namespaces)
        scope = self.registry.scope("coordinator").sub("ingest-carbon")
        return CarbonIngester(
            compiled, self.downsampler, self.cache, self.topic, scope, direct=self.direct, door=self.door
        )

    def counted(self) -> Counter[str]:
        """All counters, named as on the page."""
        found: Counter[str] = Counter()
        for family in self.registry.collect():
            for sample in family.samples:
                if family.type == "counter" and sample.value:
                    tags = ",".join(f'{k}="{v}"' for k, v in sample.labels.items() if k != "handler")
                    name = re.sub(r"^coordinator_(ingest_carbon_)?", "", sample.name)
                    found[name + (f"{{{tags}}}" if tags else "")] += int(sample.value)
        found["sink_refused_after_answer"] = sum(sink.refused_after_answer for sink in self.hub.status())
        return +found

    def ends(self) -> Counter[str]:
        """A store that has a queue keeps what is in it, and is not refused."""
        queued = sum(sink.appended - sum(sink.refused.values()) for sink in self.hub.status())
        return +Counter(aggregators=self.producer.messages, storage=queued + int(self.stored.counter("store_rows")))


@dataclass
class SetUp:
    """What is particular about the coordinator of a case."""

    namespaces: list[Namespace] = field(default_factory=lambda: [TEN])
    rules: RuleSet | None = None
    no_aggregators: str | None = None
    opening: Opening = field(default_factory=lambda: Opening(0))
    store: StoreOptions = field(default_factory=StoreOptions)
    cache_bytes: int = 64 << 20
    buffer: dict[str, Any] = field(default_factory=dict)
    sink: RecordingSink | None = None
    """A store behind a queue, instead of the embedded one alone."""
    write_timeout_s: float = 5.0
    inside: bool = False
    """Aggregation happens inside: how late samples are is judged here."""
    limits: WriteLimitsConfig | None = None
    change: Callable[[World, pytest.MonkeyPatch], None] = lambda _world, _patch: None


@asynccontextmanager
async def world_of(set_up: SetUp, directory: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    patch.setattr("coordinator.write.topic.judge", lambda *_: set_up.opening)
    patch.setattr("coordinator.write.topic.ROOM_TIMEOUT_S", 0.02)
    options = msgspec.convert({"writer": {"topicName": "aggregator_ingest"}, "buffer": set_up.buffer}, ProducerOptions)
    registry, stored, producer, rules = Registry(), Registry(), Producer(), RulesInEffect()
    if set_up.rules is not None:
        rules.put("default", set_up.rules)
    policies = [policy_of(n.resolution_ns, n.retention_ns) for n in set_up.namespaces]
    async with AsyncExitStack() as stack:
        kv = MemoryServer().client()
        stack.push_async_callback(kv.close)
        producer.topology = Topology(kv, "/topic/env/aggregator_ingest", "env", placement_namespace="/placement")
        store = await stack.enter_async_context(
            open_store(directory / "store.duckdb", policies, set_up.store, stored.scope("store"))
        )
        sink = QueuedSink(EmbeddedSink.of(store, set_up.namespaces), None)
        if set_up.sink is not None:
            sink = QueuedSink(set_up.sink, QueueOptions())
        hub = await stack.enter_async_context(open_hub([sink], directory / "queues", stored.scope("sink")))
        world = World(
            registry,
            producer,
            IngestTopic(options, producer),  # type: ignore[arg-type]
            store,
            HubDirectStore(hub, set_up.namespaces, set_up.write_timeout_s),
            Downsampler(
                set_up.namespaces,
                rules,
                no_aggregators=set_up.no_aggregators,
                now_ns=time.time_ns(),
                inside=set_up.inside,
            ),
            SeriesCache(4096, set_up.cache_bytes),
            set_up.namespaces,
            stored,
            hub,
            door=Door(LONG_LIMITS, lambda: NOW_MS * 1_000_000) if set_up.inside else None,
            limiter=Limiter(set_up.limits, registry.scope("coordinator").sub("write")) if set_up.limits else None,
        )
        set_up.change(world, patch)
        yield world


# --- requests ---


def series(name: str = "up", *values: float, at_ms: int = NOW_MS, **more: Any) -> dict[str, Any]:
    labels = [{"name": b"__name__", "value": name.encode()}]
    labels += [{"name": k.encode(), "value": v.encode()} for k, v in more.pop("labels", ())]
    samples = [{"value": value, "timestamp": at_ms + i * 1000} for i, value in enumerate(values)]
    return {"labels": labels, "samples": samples, **more}


def packed(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def body(*many: dict[str, Any]) -> bytes:
    return packed(marshal(WRITE_REQUEST, {"timeseries": list(many)}))


def with_field(number: int, content: bytes = b"\x08\x01") -> bytes:
    """A series without samples, but with a field of that number."""
    label = marshal(WRITE_REQUEST, {"timeseries": [series("up")]})[2:]
    inner = label + varint(number << 3 | 2) + varint(len(content)) + content
    return packed(b"\x0a" + varint(len(inner)) + inner)


GOOD = series("good", 1.0)
ORDINARY = body(series("up", 1.0))
MANY = [(f"l{i}", "x") for i in range(65_535)]
LARGE = series("large", 1.0, labels=[(f"l{i}", "x" * 60_000) for i in range(20)])
METADATA = packed(b"\x1a\x04\x08\x01\x12\x00")
REMOTE_WRITE_2 = {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}
ZSTD = {"Content-Encoding": "zstd"}
NO_SYMBOL = b"\x2a\x06\x0a\x02\x63\x63\x12\x00"
"""A series of Remote Write 2.0 with a sample, and with references that lead nowhere."""

STARTED = b"\x2a\x08\x0a\x02\x01\x02\x12\x02\x18\x01"
"""A series with the first label of the request, and with a sample at 0 that has begun at 1."""


def body_2(*many: dict[str, Any], more: bytes = b"") -> bytes:
    """A body of Remote Write 2.0. ``more``: fields behind it."""
    return packed(request_2(list(many)) + more)


def zstd(data: bytes) -> bytes:
    """What is packed, packed otherwise."""
    return bytes(cramjam.zstd.compress(bytes(cramjam.snappy.decompress_raw(data))))


def dropping(name: str = "up", rollup: bool = False, filters: str = "") -> RuleSet:
    drop = MappingSnapshot(
        name="d",
        cutover_ns=1,
        filter=compile_filter(filters or f"__name__:{name}"),
        drop_policy=DropPolicy.IF_ONLY_MATCH,
    )
    target = RollupTarget(
        (RollupRuleOp.create(b"all", [], compress([AggregationType.SUM])),), (StoragePolicy.parse("10s:48h"),)
    )
    rolled = RollupSnapshot(name="r", cutover_ns=1, filter=compile_filter("__name__:up"), targets=(target,))
    return RuleSet(
        namespace="default",
        mapping_rules=(MappingRule("d", (drop,)),),
        rollup_rules=(RollupRule("r", (rolled,)),) if rollup else (),
    )


def map_tags(tag: str, value: str) -> dict[str, str]:
    return {"M3-Map-Tags-JSON": f'{{"tagMappers":[{{"write":{{"tag":"{tag}","value":"{value}"}}}}]}}'}


def failing_store(world: World, patch: pytest.MonkeyPatch) -> None:
    async def write(_batch: Any) -> Any:
        raise StoreError("disk full")

    patch.setattr(world.store, "write", write)


def broken_downsampler(world: World, patch: pytest.MonkeyPatch) -> None:
    """A mistake that nobody has thought of."""
    patch.setattr(Downsampler, "advance", lambda *_: 1 // 0)


def full_buffer(world: World, _patch: pytest.MonkeyPatch) -> None:
    world.producer.free = 0


def refusing_producer(world: World, _patch: pytest.MonkeyPatch) -> None:
    world.producer.takes = False


def full_queue(_world: World, patch: pytest.MonkeyPatch) -> None:
    def append(*_: Any, **__: Any) -> Any:
        raise QueueFullError("the queue has 1 of 1 bytes")

    patch.setattr(Queue, "append", append)


def refusing_last(batch: Values) -> Delivered:
    """What a store says that does not like the last sample of a batch."""
    rows = np.array([len(batch) - 1])
    return Delivered([Refused(RefusedWhy.OUT_OF_ORDER, rows, "status 400: out of order sample")])


def behind_queue(verdict: Callable[[Values], Delivered | Exception] = lambda _: Delivered(), **more: Any) -> SetUp:
    """A store with a queue, which says ``verdict``."""
    sink = RecordingSink("store", lanes=1)
    sink.verdict = verdict
    return SetUp([TEN, AS_THEY_COME], sink=sink, **more)


def away(_: Values) -> Exception:
    return TryAgainError("connection refused", arrived=False)


class Post(NamedTuple):
    """A write over HTTP."""

    body: bytes = ORDINARY
    headers: dict[str, str] = {}
    says: str = ""
    """A part of the answer."""
    set_up: SetUp = SetUp()
    path: str = PATH


POSTS = {
    # what is in the body
    "samples": Post(body(series("up", 1.0, 2.0))),
    "no-series": Post(packed(b"")),
    "no-samples": Post(body(series("up"))),
    "nan": Post(body(series("up", NAN))),
    "metadata": Post(METADATA),
    "native-histogram": Post(with_field(4)),
    "exemplar": Post(with_field(3)),
    "duplicate-label": Post(body(GOOD, series("up", 1.0, labels=[("k", "1"), ("k", "2")])), says="duplicate"),
    "empty-label": Post(body(GOOD, series("up", 1.0, labels=[("k", "")])), says="tag value empty"),
    "too-many-labels": Post(body(GOOD, series("up", 1.0, labels=MANY)), says="too many tags to encode"),
    "long-label": Post(body(GOOD, series("up", 1.0, labels=[("k", "x" * 65_536)])), says="label literal is too long"),
    "too-large": Post(body(GOOD, LARGE), says="are sent at most 1048576"),
    "larger-than-cache": Post(body(GOOD, LARGE), says="raise writeCache.maxBytes", set_up=SetUp(cache_bytes=1 << 20)),
    "larger-than-buffer": Post(
        body(series("up", *[1.0] * 100)),
        says="the buffer towards the aggregators has room for 9000",
        set_up=SetUp(buffer={"maxBufferSize": 9000, "maxMessageSize": 1000}),
    ),
    "unknown-m3-type": Post(body(GOOD, series("up", 1.0, m3_type=9)), says="invalid M3 metric type: 9"),
    "corrupt": Post(b"\x05nonsense", {"Content-Type": "application/x-www-form-urlencoded"}, "snappy: corrupt input"),
    "not-protobuf": Post(packed(b"\x0a\x05\x0a"), says="unexpected EOF"),
    "huge": Post(varint((64 << 20) + 1) + b"\x00", says="the body has more than 67108864 bytes"),
    # content types
    "remote-write-2-as-1": Post(
        body_2(series("up", 1.0)), {"Content-Type": "application/x-protobuf"}, "like one of Remote Write 2.0"
    ),
    "other-message": Post(
        headers={"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v3.Request"},
        says="Remote Write 1.0 and 2.0 are: ",
    ),
    "zstd": Post(zstd(ORDINARY), ZSTD),
    "zstd-corrupt": Post(zstd(ORDINARY)[:-1], ZSTD, "zstd: incomplete frame"),
    "zstd-huge": Post(bytes(cramjam.zstd.compress(bytes((64 << 20) + 1))), ZSTD, "the body has more than 67108864 bytes"),
    # Remote Write 2.0
    "remote-write-2": Post(body_2(series("up", 1.0, 2.0)), REMOTE_WRITE_2),
    "remote-write-2-zstd": Post(zstd(body_2(series("up", 1.0))), {**REMOTE_WRITE_2, **ZSTD}),
    "remote-write-2-no-series": Post(packed(b""), REMOTE_WRITE_2),
    "remote-write-2-no-symbol": Post(
        body_2(GOOD, more=NO_SYMBOL), REMOTE_WRITE_2, "labels_refs are no pairs, or lead to no symbol"
    ),
    "remote-write-2-invalid-labels": Post(
        body_2(GOOD, series("up", 1.0, labels=[("k", "")])), REMOTE_WRITE_2, "tag value empty"
    ),
    "remote-write-2-native-histogram": Post(body_2(GOOD, more=b"\x2a\x06\x0a\x02\x01\x02\x1a\x00"), REMOTE_WRITE_2),
    "remote-write-2-exemplar": Post(body_2(GOOD, more=b"\x2a\x06\x0a\x02\x01\x02\x22\x00"), REMOTE_WRITE_2),
    "remote-write-2-created": Post(body_2(GOOD, more=STARTED), REMOTE_WRITE_2),
    "remote-write-2-drop-rule": Post(body_2(series("up", 1.0)), REMOTE_WRITE_2, set_up=SetUp(rules=dropping())),
    "remote-write-2-storage-fails": Post(
        body_2(series("up", 1.0)), {**REMOTE_WRITE_2, **DIRECT}, "disk full", SetUp(change=failing_store)
    ),
    "remote-write-2-buffer-full": Post(
        body_2(series("up", 1.0)), REMOTE_WRITE_2, "nothing was accepted, send it again", SetUp(change=full_buffer)
    ),
    "remote-write-2-not-protobuf": Post(packed(b"\x2a\x05\x0a"), REMOTE_WRITE_2, "unexpected EOF"),
    "remote-write-1-as-2": Post(headers=REMOTE_WRITE_2, says="with other fields than Remote Write 2.0 has"),
    "other-type": Post(
        b"{}", {"Content-Type": "application/json"}, "Content-Type: application/json (snappy: corrupt input) is not"
    ),
    "other-encoding": Post(
        bytes(cramjam.gzip.compress(b"x")), {"Content-Encoding": "gzip"}, "Content-Encoding: gzip (snappy: corrupt input) is not"
    ),
    "readable-all-the-same": Post(headers={"Content-Type": "text/plain", "Content-Encoding": "gzip"}),
    # rules
    "drop-rule": Post(set_up=SetUp(rules=dropping())),
    "drop-rule-and-rollup": Post(set_up=SetUp(rules=dropping(rollup=True))),
    "no-rule": Post(set_up=SetUp([QUIET])),
    "read-only-namespaces": Post(set_up=SetUp([READ_ONLY])),
    "too-late": Post(
        body(series("up", 1.0, at_ms=NOW_MS - 3_600_001), GOOD), says="datapoint for aggregation too far in past: off_by=1ms",
        set_up=SetUp(inside=True),
    ),
    "too-early": Post(
        body(GOOD, series("up", 1.0, 2.0, at_ms=NOW_MS + 59_500)), says="too far in future: off_by=500ms", set_up=SetUp(inside=True)
    ),
    "counter-last": Post(body(series("up", 1.0, m3_type=1)), set_up=SetUp(inside=True)),
    "no-aggregated-namespace": Post(says="there is no aggregated namespace", set_up=SetUp([])),
    # headers
    "no-aggregators": Post(says=NO_AGGREGATORS, set_up=SetUp(no_aggregators=NO_AGGREGATORS)),
    "no-aggregators-aggregate": Post(
        headers={"M3-Write-Type": "aggregate"}, says=NO_AGGREGATORS, set_up=SetUp(no_aggregators=NO_AGGREGATORS)
    ),
    "no-aggregators-direct": Post(headers=DIRECT, set_up=SetUp(no_aggregators=NO_AGGREGATORS)),
    "unaggregated": Post(headers={"M3-Metrics-Type": "unaggregated"}, says="unaggregated namespace is not yet"),
    "unaggregated-with-policy": Post(
        headers={**DIRECT, "M3-Metrics-Type": "unaggregated"}, says="should not be set for unaggregated metrics"
    ),
    "direct": Post(headers=DIRECT),
    "direct-nan": Post(body(series("up", NAN)), DIRECT),
    "direct-too-old": Post(body(GOOD, series("up", 1.0, at_ms=OLD_MS)), DIRECT, "too far in past or in future"),
    "direct-in-the-future": Post(
        body(GOOD, series("up", 1.0, at_ms=NOW_MS + 7_200_000)), DIRECT, "too far in past or in future"
    ),
    "direct-invalid-labels": Post(body(GOOD, series("up", 1.0, labels=[("k", "")])), DIRECT, "tag value empty"),
    "direct-too-many-labels": Post(body(GOOD, series("up", 1.0, labels=MANY)), DIRECT, "too many tags to encode"),
    "direct-no-namespace": Post(
        headers={**DIRECT, "M3-Storage-Policy": "1m:48h"},
        says="no configured cluster namespace for: retention=48h0m0s, resolution=1m0s",
    ),
    "direct-read-only": Post(
        headers=DIRECT,
        says="cannot write to read only namespace past (10s:48h0m0s)",
        set_up=SetUp([READ_ONLY]),
    ),
    "direct-without-policy": Post(headers={"M3-Metrics-Type": "aggregated"}, says="could not parse storage policy"),
    "direct-storage-full": Post(
        body(GOOD, series("up", 1.0)), DIRECT, "as many series as it may", SetUp(store=StoreOptions(max_series=1))
    ),
    "unexpected": Post(says="unexpected ZeroDivisionError", set_up=SetUp(change=broken_downsampler)),
    "direct-storage-fails": Post(headers=DIRECT, says="disk full", set_up=SetUp(change=failing_store)),
    "aggregate": Post(headers={"M3-Write-Type": "aggregate"}),
    "aggregated-aggregate": Post(headers={**DIRECT, "M3-Write-Type": "aggregate"}),
    "unaggregated-aggregate": Post(headers={"M3-Metrics-Type": "unaggregated", "M3-Write-Type": "aggregate"}),
    "policy-alone": Post(headers={"M3-Storage-Policy": "1m:48h"}),
    "map-tags": Post(headers=map_tags("zone", "eu")),
    "map-tags-to-nothing": Post(headers=map_tags("__name__", ""), says="tag value empty"),
    "map-tags-unsupported": Post(
        headers={"M3-Map-Tags-JSON": '{"tagMappers":[{"drop":{"tag":"a"}}]}'}, says="Drop operation is not yet"
    ),
    "unknown-metrics-type": Post(headers={"M3-Metrics-Type": "x"}, says="unrecognized metrics type: x"),
    "unknown-write-type": Post(headers={"M3-Write-Type": "x"}, says="unrecognized write type: x"),
    "unknown-prometheus-type": Post(headers={"Prometheus-Metric-Type": "x"}, says="unknown prom metric type x"),
    # the way to the aggregators
    "no-topic": Post(says="does not exist yet", set_up=SetUp(opening=Opening(None, "the topic does not exist yet"))),
    "before-cutover": Post(says="cut over in", set_up=SetUp(opening=Opening(1 << 62, "the shards will be cut over"))),
    "producer-failed": Post(
        says="out of order", set_up=SetUp(change=lambda world, _patch: world.topic.fail("out of order"))
    ),
    "buffer-full": Post(says="nothing was accepted, send it again", set_up=SetUp(change=full_buffer)),
    "producer-refuses": Post(says="nothing was accepted, send it again", set_up=SetUp(change=refusing_producer)),
    # unaggregated namespaces, and stores behind queues
    "raw-beside": Post(set_up=SetUp([TEN, AS_THEY_COME])),
    "raw-no-samples": Post(body(series("up")), says="write query with no datapoints", set_up=SetUp([TEN, AS_THEY_COME])),
    "raw-unaggregated": Post(headers=UNAGGREGATED, set_up=SetUp([TEN, AS_THEY_COME])),
    "raw-aggregate": Post(headers={"M3-Write-Type": "aggregate"}, set_up=SetUp([TEN, AS_THEY_COME])),
    "raw-drop-rule": Post(set_up=SetUp([TEN, AS_THEY_COME], rules=dropping())),
    "raw-drop-rule-and-rollup": Post(set_up=SetUp([TEN, AS_THEY_COME], rules=dropping(rollup=True))),
    "raw-drop-rule-unaggregated": Post(headers=UNAGGREGATED, set_up=SetUp([TEN, AS_THEY_COME], rules=dropping())),
    "raw-no-rule": Post(set_up=SetUp([QUIET, AS_THEY_COME])),
    "raw-only": Post(set_up=SetUp([AS_THEY_COME])),
    "raw-only-aggregate": Post(headers={"M3-Write-Type": "aggregate"}, set_up=SetUp([AS_THEY_COME])),
    "raw-no-aggregators": Post(set_up=SetUp([TEN, AS_THEY_COME], no_aggregators=NO_AGGREGATORS)),
    "raw-invalid-labels": Post(
        body(GOOD, series("up", 1.0, labels=[("k", "1"), ("k", "2")])), says="duplicate", set_up=SetUp([TEN, AS_THEY_COME])
    ),
    "raw-too-old": Post(
        body(GOOD, series("up", 1.0, at_ms=OLD_MS)), says="too far in past or in future", set_up=SetUp([TEN, AS_THEY_COME])
    ),
    "store-takes": Post(set_up=behind_queue()),
    "store-refuses": Post(
        body(GOOD, series("up", 1.0)), says="status 400: out of order sample", set_up=behind_queue(refusing_last)
    ),
    "store-away": Post(set_up=behind_queue(away, write_timeout_s=0.05)),
    # limits of a tenant
    "limit-body": Post(says="more than 9 bytes", set_up=SetUp(limits=WriteLimitsConfig(max_body_bytes=9))),
    "limit-series": Post(
        body(GOOD, series("up", 1.0)), says="2 series, more than 1", set_up=SetUp(limits=WriteLimitsConfig(max_series_per_request=1))
    ),
    "limit-labels": Post(
        body(GOOD, series("up", 1.0, 2.0, labels=[("k", "v")])), {"X-Scope-OrgID": "t"}, "the limit of tenant 't': up{k=",
        SetUp(limits=WriteLimitsConfig(max_labels_per_series=1)),
    ),
    "limit-label-name": Post(
        body(GOOD, series("up", 1.0, labels=[("k" * 9, "v")])), says="the name of a label has more than 8 bytes",
        set_up=SetUp(limits=WriteLimitsConfig(max_label_name_bytes=8)),
    ),
    "limit-label-value": Post(
        body(GOOD, series("up", 1.0, labels=[("k", "v" * 5)])), says="the value of a label has more than 4 bytes",
        set_up=SetUp(limits=WriteLimitsConfig(max_label_value_bytes=4)),
    ),
    "limit-active-series": Post(
        body(GOOD, series("up", 1.0)), says="there are 1 series already", set_up=SetUp(limits=WriteLimitsConfig(max_active_series=1))
    ),
    "queue-full": Post(
        says="not yet safe with store", set_up=behind_queue(write_timeout_s=0.05, change=full_queue)
    ),
}  # fmt: skip


INFLUX, JSON, OTLP_PATH = "/api/v1/influxdb/write", "/api/v1/json/write", "/api/v1/otlp/v1/metrics"
NOW_S = NOW_MS // 1000
LINE = b"cpu,host=a usage=1 %d000000000\n" % NOW_S
GZIP = {"Content-Encoding": "gzip"}
NO_HEADERS: Mapping[str, str] = {}


def influx(data: bytes, says: str = "", headers: Mapping[str, str] = NO_HEADERS, query: str = "", **more: Any) -> Post:
    return Post(data, dict(headers), says, path=INFLUX + query, **more)


def json_write(data: str, says: str = "", headers: Mapping[str, str] = NO_HEADERS, **more: Any) -> Post:
    return Post(data.encode(), dict(headers), says, path=JSON, **more)


JSON_UP = f'{{"tags": {{"__name__": "up"}}, "timestamp": "{NOW_S}", "value": 1}}'
OTHER_SENDERS = {
    "influx-line": influx(b"cpu,host=a usage=1,idle=9i %d\n" % NOW_S, query="?precision=s"),
    "influx-no-tags": influx(b"cpu usage=1\n"),
    "influx-text": influx(b'cpu usage=1,name="a b" %d000000000\n' % NOW_S),
    "influx-malformed": influx(b"cpu usage=x\n" + LINE, "line 1 cannot be read: field 'usage': 'x' is neither"),
    "influx-duplicate-label": influx(b"cpu,a.b=1,a-b=2 usage=1\n" + LINE, "duplicate: 'a_b' appears more than once"),
    "influx-long-label": influx(b"cpu,a=%s usage=1\n" % (b"x" * 65_536) + LINE, "is longer than 65535 bytes"),
    "influx-comment": influx(b"# nothing\n"),
    "influx-empty": influx(b"", "empty request body"),
    "influx-precision": influx(LINE, "precision='d' is unknown", query="?precision=d"),
    "influx-gzip": influx(bytes(cramjam.gzip.compress(LINE)), headers=GZIP),
    "influx-corrupt": influx(b"\x1f\x8bno", "gzip: ", GZIP),
    "influx-too-large": influx(
        bytes(cramjam.gzip.compress(b"\n" * ((16 << 20) + 1))), "the body has more than 16777216 bytes", GZIP
    ),
    "influx-encoding": influx(LINE, "Content-Encoding: zstd is not understood", {"Content-Encoding": "zstd"}),
    "influx-direct": influx(LINE, headers=DIRECT),
    "influx-raw-only": influx(LINE, set_up=SetUp([AS_THEY_COME])),
    "influx-limit": influx(
        b"cpu,host=%s usage=1\n" % (b"x" * 11) + LINE,
        "more than 10 bytes",
        set_up=SetUp(limits=WriteLimitsConfig(max_label_value_bytes=10)),
    ),
    "influx-drop-rule": influx(b"up v=1\n", set_up=SetUp(rules=dropping("up_v"))),
    "influx-too-late": influx(b"cpu usage=1 1\n" + LINE, "too far in past", set_up=SetUp(inside=True)),
    "influx-buffer-full": influx(LINE, "nothing was accepted, send it again", set_up=SetUp(change=full_buffer)),
    "influx-unexpected": influx(LINE, "unexpected ZeroDivisionError", set_up=SetUp(change=broken_downsampler)),
    "json": json_write(JSON_UP),
    "json-no-json": json_write("{", "truncated"),
    "json-null": json_write("null", "Expected `object`, got `null`"),
    "json-time": json_write('{"tags": {"a": "b"}, "timestamp": "x", "value": 1}', "invalid timestamp for x"),
    "json-number-as-time": json_write('{"tags": {"a": "b"}, "timestamp": 1, "value": 1}', "at `$.timestamp`"),
    "json-no-tags": json_write(f'{{"tags": {{}}, "timestamp": "{NOW_S}", "value": 1}}', "no tags"),
    "json-raw-only": json_write(JSON_UP, set_up=SetUp([AS_THEY_COME])),
    "json-storage-fails": json_write(JSON_UP, "disk full", DIRECT, set_up=SetUp(change=failing_store)),
}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
GAUGE = {"name": "load", "gauge": {"data_points": [otlp.point(1.5, time_ns=NOW_MS * 1_000_000)]}}
DELTA = {
    "name": "requests",
    "sum": {"data_points": [otlp.point(1, time_ns=NOW_MS * 1_000_000)], "aggregation_temporality": otlp.DELTA},
}


def otlp_post(*metrics: dict[str, Any], says: str = "", headers: Mapping[str, str] = PROTOBUF, **more: Any) -> Post:
    data = otlp.request(*metrics).SerializeToString()
    return Post(data, dict(headers), says, path=OTLP_PATH, **more)


def otlp_raw(data: bytes, says: str, kind: str = "application/x-protobuf") -> Post:
    return Post(data, {"Content-Type": kind}, says, path=OTLP_PATH)


def with_points(metric: str, kind: str, *points: dict[str, Any]) -> dict[str, Any]:
    return {"name": metric, kind: {"data_points": list(points)}}


def summing() -> RuleSet:
    one = MappingSnapshot(
        name="s",
        cutover_ns=1,
        filter=compile_filter("__m3_type__:{counter,timer}"),
        aggregation_id=compress([AggregationType.SUM]),
        storage_policies=(StoragePolicy.parse("10s:48h"),),
    )
    return RuleSet(namespace="default", mapping_rules=(MappingRule("s", (one,)),))


OTLP_JSON = b'{"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "e", "exponentialHistogram": {"dataPoints": [{}]}}]}]}]}'
OTHER_SENDERS |= {
    "otlp-gauge": otlp_post(GAUGE),
    "otlp-gzip": Post(
        bytes(cramjam.gzip.compress(otlp.request(GAUGE).SerializeToString())), {**PROTOBUF, **GZIP}, path=OTLP_PATH
    ),
    "otlp-empty": otlp_post(),
    "otlp-json": otlp_raw(
        OTLP_JSON, '"partialSuccess": {"rejectedDataPoints": "1", "errorMessage": "bad', "application/json"
    ),
    "otlp-exponential": otlp_post(
        GAUGE, with_points("e", "exponential_histogram", otlp.point()), says="metric 'e' is an exponential histogram"
    ),
    "otlp-exemplar": otlp_post(with_points("g", "gauge", otlp.point(1, exemplars=[{"as_int": 1}]))),
    "otlp-malformed": otlp_post(
        GAUGE, with_points("g", "gauge", otlp.point()), says="a data point of 'g' has no value"
    ),
    "otlp-too-late": otlp_post(
        GAUGE, with_points("g", "gauge", otlp.point(1, time_ns=1)), says="too far in past", set_up=SetUp(inside=True)
    ),
    "otlp-delta": otlp_post(DELTA, set_up=SetUp(inside=True, rules=summing())),
    "otlp-delta-without-rule": otlp_post(
        GAUGE, DELTA, says="delta sums need a rule that asks for Sum", set_up=SetUp(inside=True)
    ),
    "otlp-limit": otlp_post(
        GAUGE,
        with_points("g", "gauge", otlp.point(1, {"host": "a"})),
        says="more than 1 labels",
        set_up=SetUp(limits=WriteLimitsConfig(max_labels_per_series=1)),
    ),
    "otlp-drop-rule": otlp_post(with_points("up", "gauge", otlp.point(1)), set_up=SetUp(rules=dropping())),
    "otlp-raw-only": otlp_post(GAUGE, set_up=SetUp([AS_THEY_COME])),
    "otlp-corrupt": otlp_raw(b"\xff", "the body is no ExportMetricsServiceRequest"),
    "otlp-corrupt-json": otlp_raw(b"{", "the body is no ExportMetricsServiceRequest in JSON", "application/json"),
    "otlp-too-large": otlp_raw(b" " * ((4 << 20) + 1), "the body has more than 4194304 bytes", "application/json"),
    "otlp-other-type": otlp_raw(b"", "OTLP/HTTP is: Content-Type: application/x-protobuf or", "text/plain"),
    "otlp-storage-fails": otlp_post(
        GAUGE, says="disk full", headers={**PROTOBUF, **DIRECT}, set_up=SetUp(change=failing_store)
    ),
    "otlp-buffer-full": otlp_post(GAUGE, says="nothing was accepted, send it again", set_up=SetUp(change=full_buffer)),
    "otlp-unexpected": otlp_post(GAUGE, says="unexpected ZeroDivisionError", set_up=SetUp(change=broken_downsampler)),
}
POSTS |= OTHER_SENDERS


@pytest.mark.parametrize("key", POSTS)
async def test_over_http(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    post, row = POSTS[key], rows()[key]
    async with world_of(post.set_up, tmp_path, monkeypatch) as world:
        answer = await world.post(post.body, post.headers, post.path)
        assert (str(answer.status_code), world.ends(), world.counted()) == row
        assert post.says in answer.text
        assert answer.headers.get("X-Prometheus-Remote-Write-Samples-Written") == written().get(key)
        assert ("retry-after" in answer.headers) == (row.status in ("503", "429"))


# --- carbon ---

AT = NOW_MS // 1000
POLICY = CarbonPolicyConfig(resolution=Duration(10 * SECOND), retention=Duration(48 * HOUR))
MEAN = CarbonRuleConfig(pattern="^a", policies=[POLICY])
ON = CarbonRuleConfig(pattern="^a", policies=[POLICY], continue_=True)
RAW = CarbonRuleConfig(pattern="^raw", aggregation=AggregationConfig(enabled=False), policies=[POLICY])


class Line(NamedTuple):
    """Carbon lines."""

    data: bytes
    set_up: SetUp = SetUp()
    rules: tuple[CarbonRuleConfig, ...] = (MEAN, RAW)


LINES = {
    "line": Line(b"a.b 1 %d\n" % AT),
    "line-loose": Line(b"\ta.b  1\t%d.5 \r\n" % AT),
    "line-too-late": Line(b"a.b 1 %d\na.b 2 %d\n" % (AT - 3602, AT), SetUp(inside=True)),
    "line-malformed": Line(b"a.b 1\n"),
    "line-bad-path": Line(b"a..b 1 %d\n" % AT),
    "line-too-large": Line(
        b"a.%s 1 %d\n" % (b"x" * 2000, AT), SetUp(buffer={"maxMessageSize": 1000, "maxBufferSize": 1 << 20})
    ),
    "line-larger-than-cache": Line(
        b".".join([b"a" * 60_000] * 4) + b" 1 %d\n" % AT, SetUp(cache_bytes=1 << 20), (ON,) * 5
    ),
    "line-too-long": Line(b"a.%s 1 %d\n" % (b"x" * (400 << 10), AT)),
    "line-unmatched": Line(b"other 1 %d\n" % AT),
    "line-direct": Line(b"raw.b 1 %d\n" % AT),
    "line-direct-too-old": Line(b"raw.b 1 %d\n" % (OLD_MS // 1000)),
    "line-direct-storage-fails": Line(b"raw.b 1 %d\n" % AT, SetUp(change=failing_store)),
    "line-direct-store-refuses": Line(b"raw.b 1 %d\n" % AT, behind_queue(refusing_last)),
    "line-direct-store-away": Line(b"raw.b 1 %d\n" % AT, behind_queue(away, write_timeout_s=0.05)),
    "line-producer-refuses": Line(b"a.b 1 %d\n" % AT, SetUp(change=refusing_producer)),
}


async def _send(world: World, data: bytes, *rules: CarbonRuleConfig) -> None:
    """Sends over TCP, and waits until the server has read it all."""
    scope = world.registry.scope("coordinator").sub("ingest-carbon")
    async with CarbonServer(world.carbon(*rules), scope).serve("127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("key", LINES)
async def test_carbon(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line, row = LINES[key], rows()[key]
    async with world_of(line.set_up, tmp_path, monkeypatch) as world:
        await _send(world, line.data, *line.rules)
        assert ("none", world.ends(), world.counted()) == row


# --- what needs more than one request ---

Check = Callable[[str, Path, pytest.MonkeyPatch], Awaitable[None]]


async def _line_waits(key: str, directory: Path, patch: pytest.MonkeyPatch) -> None:
    set_up = SetUp(opening=Opening(None, "no topic"))
    async with world_of(set_up, directory, patch) as world:
        data = np.frombuffer(bytearray(b"a.b 1 %d\n" % AT), np.uint8)
        waiting = asyncio.create_task(world.carbon(MEAN).ingest(data))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert (world.ends(), world.counted()) == (Counter(), Counter())
        world.topic._opening = Opening(0)
        assert await waiting == len(data)
        assert ("none", world.ends(), world.counted()) == rows()[key]


async def _line_waits_for_a_queue(key: str, directory: Path, patch: pytest.MonkeyPatch) -> None:
    async with world_of(behind_queue(write_timeout_s=0.01), directory, patch) as world:
        with pytest.MonkeyPatch.context() as full:
            full_queue(world, full)
            full.setattr("coordinator.write.direct._PATIENT_S", 0.01)
            data = np.frombuffer(bytearray(b"raw.b 1 %d\n" % AT), np.uint8)
            waiting = asyncio.create_task(world.carbon(RAW).ingest(data))
            attempts = 0

            def write_watched(*arguments: Any) -> Any:
                nonlocal attempts
                attempts += 1
                return Hub.write_watched(world.hub, *arguments)

            full.setattr(world.hub, "write_watched", write_watched)
            await until(lambda: attempts > 2)
            assert (world.ends(), world.counted()) == (Counter(), Counter())
        assert await waiting == len(data)
        assert ("none", world.ends(), world.counted()) == rows()[key]


async def _store_refuses_later(key: str, directory: Path, patch: pytest.MonkeyPatch) -> None:
    set_up = behind_queue(refusing_last, write_timeout_s=0.05)
    assert set_up.sink is not None
    set_up.sink.open.clear()
    async with world_of(set_up, directory, patch) as world:
        answer = await world.post(ORDINARY, {})
        assert world.ends() == Counter(aggregators=1, storage=1)
        set_up.sink.open.set()
        await until(lambda: world.hub.status()[0].refused)
        assert (str(answer.status_code), world.ends(), world.counted()) == rows()[key]


def _overlay(directory: Path, text: str) -> Path:
    path = directory / "coordinator.yml"
    path.write_text(f"listenAddress: 127.0.0.1:0\nmetrics: {{prometheus: {{listenAddress: 127.0.0.1:0}}}}\n{text}")
    return path


async def _administration_only(key: str, directory: Path, _patch: pytest.MonkeyPatch) -> None:
    config = load_coordinator([_overlay(directory, "backend: noop-etcd\n")]).value
    async with (
        running(config, directory) as coordinator,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{coordinator.ports['http']}") as client,
    ):
        answer = await client.post(PATH, content=ORDINARY)
        assert (str(answer.status_code), Counter(), Counter()) == rows()[key]
        assert (await client.get("/ready")).status_code == 200


async def _refused_at_start(key: str, directory: Path, _patch: pytest.MonkeyPatch) -> None:
    clusters = "clusters: [{namespaces: [{namespace: n, type: aggregated, resolution: 10s, retention: 48h, readOnly: true}]}]\n"
    rule = {
        "line-no-aggregators": "{policies: [{resolution: 10s, retention: 48h}]}",
        "line-direct-read-only": "{aggregation: {enabled: false}, policies: [{resolution: 10s, retention: 48h}]}",
    }[key]
    inside = "embeddedAggregator: {enabled: false}\n" if key == "line-no-aggregators" else ""
    path = _overlay(directory, f"{clusters}{inside}carbon: {{ingester: {{rules: [{rule}]}}}}\n")
    for check in ([], ["--check-config"]):
        assert main(["-f", str(path), *check]) == 2
    assert rows()[key] == ("exit 2", Counter(), Counter())


async def _too_fast(key: str, directory: Path, patch: pytest.MonkeyPatch) -> None:
    limits = WriteLimitsConfig(max_samples_per_second=0.01, burst_samples=1)
    async with world_of(SetUp(limits=limits), directory, patch) as world:
        app = world.app()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert (await client.post(PATH, content=ORDINARY)).status_code == 200
            answer = await client.post(PATH, content=ORDINARY)
        assert (str(answer.status_code), world.ends(), world.counted()) == rows()[key]
        assert 90 < int(answer.headers["retry-after"]) <= 100


async def _no_room_for_bodies(key: str, directory: Path, patch: pytest.MonkeyPatch) -> None:
    async with world_of(SetUp(), directory, patch) as world:
        scope = world.registry.scope("coordinator").tagged(handler="remote-write")
        room = world.bodies = BodyRoom(len(ORDINARY), scope)
        with room.request() as other:
            other.take(1)
            answer = await world.post(ORDINARY, {})
            assert (str(answer.status_code), world.ends(), world.counted()) == rows()[key]
            assert answer.headers["retry-after"] == "1"
        assert (await world.post(ORDINARY, {})).status_code == 200


MORE: dict[str, Check] = {
    "bodies-full": _no_room_for_bodies,
    "limit-rate": _too_fast,
    "line-waits": _line_waits,
    "line-direct-queue-full": _line_waits_for_a_queue,
    "store-refuses-later": _store_refuses_later,
    "administration-only": _administration_only,
    "line-no-aggregators": _refused_at_start,
    "line-direct-read-only": _refused_at_start,
}


@pytest.mark.parametrize("key", MORE)
async def test_more(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await MORE[key](key, tmp_path, monkeypatch)


def test_every_row_of_the_page_has_its_case_and_the_other_way_round() -> None:
    """Those of answers that wait for the aggregators are in ``test_acks``."""
    assert sorted(key for key in rows() if not key.startswith("ack-")) == sorted([*POSTS, *LINES, *MORE])


def test_every_reason_is_explained() -> None:
    explained = re.findall(r"^\| `([^`]+)` \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(Reason)


async def test_a_coordinator_without_aggregators_says_so(tmp_path: Path) -> None:
    """In its own process, as an operator meets it: 503, ``/ready`` with the reason, rules that say that nothing is sent."""
    clusters = "clusters: [{namespaces: [{namespace: n, type: aggregated, resolution: 10s, retention: 48h}]}]\n"
    config = load_coordinator([_overlay(tmp_path, clusters + "embeddedAggregator: {enabled: false}\n")]).value
    async with (
        running(config, tmp_path) as coordinator,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{coordinator.ports['http']}") as client,
    ):
        refused = await client.post(PATH, content=ORDINARY)
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert NO_AGGREGATORS in refused.json()["error"]
        ready = await client.get("/ready")
        assert ready.status_code == 500
        assert NO_AGGREGATORS in ready.json()["reasons"][0]
        assert (await client.get("/ready?writes=false")).status_code == 200
        explained = (await client.get("/api/v1/rules/match", params={"metric": "up"})).json()
        assert (explained["sent"], NO_AGGREGATORS in explained["unsent"]) == ([], True)
        assert (await client.post(PATH, content=ORDINARY, headers=DIRECT)).status_code == 200
        metrics = (await client.get(f"http://127.0.0.1:{coordinator.ports['metrics']}/metrics")).text
        assert 'coordinator_write_errors{code="5XX",handler="remote-write"} 1.0' in metrics
