"""A pair of aggregators and a coordinator with windows of a second, and traffic that touches most of what they count."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from lab.cluster import LOCAL, member, write_cluster
from lab.http import get, request
from lab.instances import Aggregator
from lab.kv import ENVIRONMENT
from lab.m3msg_client import M3MsgClient
from lab.ports import free_port
from lab.prometheus import remote_write
from msgspec.structs import replace
from tests.integration.conftest import Deployment

from m3cluster.keys import placement_key
from m3cluster.kv import Embedded, Store, open_store
from m3cluster.placement import encode_staged_placement
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3metrics.codec.unaggregated import (
    BatchTimerWithMetadatas,
    CounterWithMetadatas,
    ForwardedMetricWithMetadata,
    GaugeWithMetadatas,
    Metric,
    TimedMetricWithMetadatas,
    encode_metric,
)
from m3metrics.metadata import ForwardMetadata, PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy

SHARDS = 16
S = 1_000_000_000
POLICY = "1s:48h"
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_METADATAS = (StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(StoragePolicy.parse(POLICY),)),)),)
_NO_STAGE = (StagedMetadata(cutover_ns=2**62),)
_NO_PIPELINE = (StagedMetadata(cutover_ns=1),)
_COORDINATOR: dict[str, Any] = {
    "clusters": [{"namespaces": [{"namespace": "one", "type": "aggregated", "resolution": "1s", "retention": "48h"}]}],
    "downsample": {
        "rules": {
            "rollupRules": [
                {
                    "name": "by code",
                    "filter": "__name__:demo_requests_total",
                    "transforms": [
                        {"transform": {"type": "PerSecond"}},
                        {"rollup": {"metricName": "by_code", "groupBy": ["code"], "aggregations": ["Sum"]}},
                    ],
                    "storagePolicies": [{"resolution": "1s", "retention": "48h"}],
                }
            ]
        }
    },
}
_AGGREGATOR = {
    "bufferDurationForPastTimedMetric": "1s",
    "forwarding": {"maxConstDelay": "3s"},
    "entryTTL": "3s",
    "entryCheckInterval": "1s",
    "defaultStoragePolicies": [POLICY],
}
_LIMITS = {
    "writeValuesPerMetricLimitPerSecond": 20,
    "writeNewMetricLimitClusterPerSecond": 2 * SHARDS,
    "writeNewMetricNoLimitWarmupDuration": "6s",
}


def samples(page: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """What a page of metrics has: name, labels, value."""
    for line in page.splitlines():
        if found := _SAMPLE.match(line):
            yield found[1], dict(re.findall(r'(\w+)="([^"]*)"', found[2] or "")), float(found[3])


class Stack:
    """See the module."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._folder = deployment.folder
        names = ("one", "other")
        self._addresses = {name: f"127.0.0.1:{free_port()}" for name in names}
        self.seen: dict[str, float] = {}
        self._round = 0
        asyncio.run(self._write_cluster())
        rules = [
            {"pattern": ".*", "aggregation": {"type": "mean"}, "policies": [{"resolution": "1s", "retention": "48h"}]}
        ]
        carbon = {"ingester": {"listenAddress": f"127.0.0.1:{deployment.carbon}", "rules": rules}}
        deployment.start_coordinator(LOCAL / "m3coordinator.yml", **_COORDINATOR, carbon=carbon)
        self.instances = [self._start(name) for name in names]

    async def _write_cluster(self) -> None:
        async with self._store() as store:
            await write_cluster(store, self._members(), f"127.0.0.1:{self._deployment.ingest}", SHARDS)

    @contextlib.asynccontextmanager
    async def _store(self) -> AsyncIterator[Store]:
        store = await open_store(Embedded(self._folder / "kv.sqlite"))
        try:
            yield store
        finally:
            await store.close()

    def _members(self) -> list[Instance]:
        groups = zip(self._addresses.items(), "ab", strict=True)
        return [member(name, address, group) for (name, address), group in groups]

    async def _place(self, shards: tuple[Shard, ...], sets: tuple[int, int] = (1, 1)) -> None:
        """A placement with these shards for both; ``sets``: their shard sets."""
        instances = tuple(
            replace(one, shards=shards, shard_set_id=number) for one, number in zip(self._members(), sets, strict=True)
        )
        placement = Placement(
            instances, num_shards=SHARDS, replica_factor=2, is_sharded=True, is_mirrored=True, max_shard_set_id=2
        )
        async with self._store() as store:
            await store.set(placement_key(ENVIRONMENT, "m3aggregator"), encode_staged_placement(placement))

    def shards_go(self) -> None:
        """Of the shards one is cut off lately, one long ago, one is not cut over yet, and one is gone."""
        now_ns = time.time_ns()
        odd = (
            Shard(0, ShardState.LEAVING, cutoff_ns=now_ns - 60 * S),
            Shard(1, ShardState.LEAVING, cutoff_ns=now_ns - 7200 * S),
            Shard(2, ShardState.INITIALIZING, cutover_ns=now_ns + 7200 * S),
        )
        asyncio.run(self._place((*odd, *(Shard(number, ShardState.AVAILABLE) for number in range(4, SHARDS)))))

    def part(self) -> None:
        """The two are no pair any more."""
        asyncio.run(self._place(tuple(Shard(number, ShardState.AVAILABLE) for number in range(SHARDS)), (1, 2)))

    def shards_later(self) -> None:
        """The two, parted, have no shard yet: all are cut over in two hours."""
        cutover_ns = time.time_ns() + 7200 * S
        shards = tuple(Shard(number, ShardState.INITIALIZING, cutover_ns=cutover_ns) for number in range(SHARDS))
        asyncio.run(self._place(shards, (1, 2)))

    async def _break_times(self) -> None:
        async with self._store() as store:
            await store.set(f"_kv/{ENVIRONMENT}/shardset/2/flush", b"no flush times")

    def break_times(self) -> None:
        """The flush times of the second shard set are none."""
        asyncio.run(self._break_times())

    def _start(self, name: str) -> Aggregator:
        host = {"hostID": {"resolver": "config", "value": name}}
        return self._deployment.start_aggregator(
            name,
            LOCAL / "m3aggregator.yml",
            self._addresses[name],
            workers=1,
            aggregator={**_AGGREGATOR, **host},
            runtimeOptions=_LIMITS,
        )

    def leader(self) -> Aggregator | None:
        return next((one for one in self.instances if one.leads()), None)

    def ready(self) -> bool:
        return all(one.ready() for one in self.instances) and get(f"{self._deployment.base}/ready")[0] == 200

    def page(self, one: Aggregator | None = None) -> str:
        """The metrics of an instance, or of the coordinator."""
        url = f"http://127.0.0.1:{self._deployment.coordinator_metrics}/metrics" if one is None else one.metrics_url
        status, text = get(url)
        assert status == 200, text
        return text

    def look(self) -> set[str]:
        """The names of all figures that any page has shown other than 0 until now."""
        running = [one for one in self.instances if one.running]
        coordinator = [self.page()] if self._deployment.processes["coordinator"].running else []
        for page in (*coordinator, *map(self.page, running)):
            for name, _, value in samples(page):
                if value:
                    self.seen[name] = value
        return set(self.seen)

    # --- traffic

    def traffic(self) -> None:
        """A round of everything."""
        self._round += 1
        now_s = time.time()
        with socket.create_connection(("127.0.0.1", self._deployment.carbon)) as carbon:
            carbon.sendall(f"demo.cpu 40 {int(now_s)}\nno line\n".encode())
        labels = (("__name__", "demo_requests_total"), ("code", "200"), ("host", "a"))
        remote_write(self._deployment.base, [(labels, now_s % 1000, int(now_s * 1000))])
        for one in filter(lambda one: one.running, self.instances):
            with M3MsgClient(one.socket_address[1]) as client:
                client.send([*map(encode_metric, _metrics(time.time_ns(), self._round)), b"no message"])
                client.settle()
            with socket.create_connection(one.socket_address) as stranger:
                stranger.sendall(b"\xff" * 64)
        with M3MsgClient(self._deployment.ingest) as client:
            client.send([b"no metric"])
            client.settle()
        with socket.create_connection(("127.0.0.1", self._deployment.ingest)) as stranger:
            stranger.sendall(b"\xff" * 64)
        base = self._deployment.base
        assert get(f"{base}/api/v1/query?query=demo_cpu")[0] == 200
        assert get(f"{base}/api/v1/query?query=%7B%7B")[0] == 400
        assert request("POST", f"{base}/api/v1/prom/remote/write", b"no snappy")[0] == 400


def _metrics(now_ns: int, number: int) -> list[Metric]:
    def gauge(name: str, metadatas: StagedMetadatas) -> Metric:
        return GaugeWithMetadatas(id=f"stack.{name}".encode(), value=1.0, metadatas=metadatas)

    def forwarded(name: str, time_ns: int) -> Metric:
        return ForwardedMetricWithMetadata(
            id=f"stack.{name}".encode(), metric_type=MetricType.GAUGE, time_ns=time_ns // S * S, values=(1.0,),
            metadata=ForwardMetadata(
                aggregation_id=1 << 7, storage_policy=StoragePolicy.parse(POLICY), source_id=1, num_forwarded_times=1
            ),
        )  # fmt: skip

    tombstone = (StagedMetadata(cutover_ns=1, tombstoned=True, pipelines=_METADATAS[0].pipelines),)
    newer = (StagedMetadata(cutover_ns=2, pipelines=_METADATAS[0].pipelines),)
    timed = dict(metric_type=MetricType.GAUGE, value=1.0, metadatas=_METADATAS)
    return [
        CounterWithMetadatas(id=b"stack.counter", value=1, metadatas=_METADATAS),
        GaugeWithMetadatas(id=b"stack.gauge", value=1.0, metadatas=_METADATAS),
        BatchTimerWithMetadatas(id=b"stack.timer", values=[1.0, 2.0], metadatas=_METADATAS),
        GaugeWithMetadatas(id=b"stack.unstaged", value=1.0, metadatas=_NO_STAGE),
        TimedMetricWithMetadatas(id=b"stack.timed", time_ns=now_ns, **timed),
        TimedMetricWithMetadatas(id=b"stack.late", time_ns=now_ns - 3600 * S, **timed),
        TimedMetricWithMetadatas(id=b"stack.early", time_ns=now_ns + 3600 * S, **timed),
        gauge("pipeless", _NO_PIPELINE),
        gauge("empty", ()),
        gauge("stale", newer),
        gauge("stale", _METADATAS),
        gauge("gone", _METADATAS),
        gauge("gone", tombstone),
        *[gauge("often", _METADATAS)] * 30,
        *(gauge(f"new.{number}.{k}", _METADATAS) for k in range(20 * SHARDS)),
        forwarded("rollup", now_ns),
        forwarded("rollup", now_ns),
        forwarded("late.rollup", now_ns - 3600 * S),
    ]
