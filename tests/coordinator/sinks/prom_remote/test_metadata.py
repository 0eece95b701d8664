"""Types of metrics at an endpoint: when they are sent, what does not wait for them, and the way from port 7507 to the wire."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from lab.receiver import Received, Receiver, Reply
from lab.waiting import until
from tests.coordinator.sinks.prom_remote.batches import T0_NS, id_of, values_of

from coordinator.config.prom_remote import EndpointConfig, EndpointPolicyConfig, PromRemoteConfig, SecretText
from coordinator.ingest import HubOutlet, Ingester, IngestOptions
from coordinator.sinks import QueuedSink, QueueOptions, open_hub
from coordinator.sinks.metric_types import MetricTypes
from coordinator.sinks.prom_remote import LabelRules, PromRemoteSink
from coordinator.sinks.prom_remote.credentials import Address
from coordinator.sinks.prom_remote.metadata import EVERY_S, MetadataSender
from coordinator.sinks.prom_remote.opening import open_sinks
from coordinator.sinks.prom_remote.sender import Endpoint, Sender
from coordinator.sinks.series import SeriesTable
from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.policy import StoragePolicy
from m3x.config import Duration
from m3x.instrument import Registry
from m3x.protobuf import varint

COUNTER = b"\x08\x01\x10\x01"
POLICY = StoragePolicy.parse("10s:6h")


def told(request: Received) -> dict[bytes, int]:
    """Type by family of a request that has nothing but metadata; empty for samples."""
    rest, found = request.proto, {}
    while rest[:1] == b"\x1a":
        message, rest = rest[2 : 2 + rest[1]], rest[2 + rest[1] :]
        assert (message[0], message[2], message[3]) == (0x08, 0x12, len(message) - 4)
        found[message[4:]] = message[1]
    assert not (found and rest)
    return found


def note(types: MetricTypes, *names: str, annotation: bytes = COUNTER) -> None:
    """A value of each of these metrics."""
    table = SeriesTable()
    for name in names:
        data = id_of(name)
        buf = np.frombuffer(bytearray(data + annotation), np.uint8)
        places = np.zeros(1, np.int64), np.array([len(data)], np.int64)
        notes = np.array([len(data)], np.int64), np.array([len(annotation)], np.int64)
        types.note(table, table.numbers(buf, *places), buf, places, notes)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def sinks_of(url: str, registry: Registry, types: MetricTypes, **keys: object) -> list[PromRemoteSink]:
    """One endpoint of ``POLICY``."""
    policy = EndpointPolicyConfig(resolution=Duration(POLICY.window_ns), retention=Duration(POLICY.retention_ns))
    endpoint = EndpointConfig(name="a.b", address=SecretText(url), storage_policy=policy, **keys)  # type: ignore[arg-type]
    return open_sinks(PromRemoteConfig(endpoints=[endpoint]), LabelRules(), (types, registry.scope("sink")))


async def test_what_is_new_soon_and_everything_every_minute() -> None:
    types, clock, registry = MetricTypes(), Clock(), Registry()
    async with Receiver() as receiver:
        sender = Sender(Endpoint(Address.parse(receiver.url)))
        metadata = MetadataSender(types, sender, registry.scope("sink"), clock)

        async def due() -> list[dict[bytes, int]]:
            before, counted = len(receiver.requests), registry.counter("sink_metadata_sent")
            metadata.begin_if_due()
            if metadata.under_way:
                await until(lambda: not metadata.under_way, what="the request is answered")
            families = [told(one) for one in receiver.requests[before:]]
            assert registry.counter("sink_metadata_sent") - counted == sum(map(len, families))
            return families

        assert await due() == []
        note(types, "a", "b")
        assert await due() == [{b"a": 1, b"b": 1}]
        clock.now_s += 30
        assert await due() == []
        note(types, "c", "a")
        note(types, "b", annotation=b"\x08\x02")
        assert await due() == [{b"b": 2, b"c": 1}]
        note(types, "d")
        assert await due() == [], "not twice within a second"
        clock.now_s += 1
        assert await due() == [{b"d": 1}]
        clock.now_s += EVERY_S - 31
        assert await due() == [{b"a": 1, b"b": 2, b"c": 1, b"d": 1}]
        note(types, *(f"m{i}" for i in range(2500)))
        clock.now_s += EVERY_S
        assert [len(one) for one in await due()] == [2000, 504]
        await metadata.close()
        await sender.close()


@pytest.mark.parametrize("status", [400, 401, 413, 500])
async def test_a_refusal_is_counted_and_holds_no_sample_up(status: int) -> None:
    types, registry = MetricTypes(), Registry()
    note(types, "a")
    async with Receiver(lambda received: Reply(status if told(received) else 200)) as receiver:
        (sink,) = sinks_of(receiver.url, registry, types)
        for value in range(3):
            assert (await sink.deliver(values_of([(id_of("a"), value, T0_NS)]), again=False)).refused == []
        await until(lambda: registry.counter("sink_metadata_failed", sink="a_2eb") == 1, what="it is counted")
        await sink.close()
    assert registry.counter("sink_metadata_sent", sink="a_2eb") == 0
    assert sorted(len(one.series) for one in receiver.requests) == [0, 1, 1, 1]


async def test_samples_do_not_wait_for_an_answer_about_types_nor_does_the_end() -> None:
    types, registry = MetricTypes(), Registry()
    note(types, "a")
    async with Receiver(lambda received: Reply(delay_s=3600 if told(received) else 0)) as receiver:
        (sink,) = sinks_of(receiver.url, registry, types)
        async with asyncio.timeout(30):
            for value in range(3):
                await sink.deliver(values_of([(id_of("a"), value, T0_NS)]), again=False)
            await until(lambda: any(told(one) for one in receiver.requests), what="the types are asked for")
            await sink.close()
    assert [len(one.series) for one in receiver.requests if not told(one)] == [1, 1, 1]


@pytest.mark.parametrize("wanted", [True, False])
async def test_only_endpoints_that_want_it_are_told(wanted: bool) -> None:
    types = MetricTypes()
    note(types, "a")
    async with Receiver() as receiver:
        (sink,) = sinks_of(receiver.url, Registry(), types, send_metadata=wanted)
        await sink.deliver(values_of([(id_of("a"), 1.0, T0_NS)]), again=False)
        begun = {task.get_name() for task in asyncio.all_tasks()}
        await sink.close()
    assert ("metadata" in begun) == wanted


@pytest.mark.parametrize("annotation", [COUNTER, b""])
@pytest.mark.parametrize("odd", [False, True])
async def test_from_port_to_wire(annotation: bytes, odd: bool, tmp_path: Path) -> None:
    """Bytes of the message → ingester → hub → queue on disk → sink → endpoint. ``odd``: with a field that the kernel leaves to Python."""
    data = encode_aggregated(
        AggregatedMetric(
            id=id_of("requests_total"), time_ns=T0_NS, value=1.0, storage_policy=POLICY, annotation=annotation
        )
    )
    data += varint(100 << 3) + b"\x01" if odd else b""
    message, places = np.frombuffer(bytearray(data), np.uint8), (np.zeros(1, np.int64), np.array([len(data)], np.int64))
    registry, types = Registry(), MetricTypes()
    async with Receiver() as receiver:
        queued = [QueuedSink(sink, QueueOptions()) for sink in sinks_of(receiver.url, registry, types)]
        async with open_hub(queued, tmp_path, registry.scope("sink")) as hub:
            ingester = Ingester(HubOutlet(hub, types), [POLICY], IngestOptions(), registry.scope("x"))
            for _ in range(2):
                assert (await ingester.ingest(message, *places)).all()
            await until(lambda: registry.counter("sink_delivered", sink="a_2eb") == 2, what="both values are there")
            if annotation:
                await until(lambda: registry.counter("sink_metadata_sent", sink="a_2eb"), what="the type is there")
    assert types.version == len(annotation[:1])
    assert [told(one) for one in receiver.requests if told(one)] == ([{b"requests_total": 1}] if annotation else [])
    assert sum(len(samples) for one in receiver.requests for _, samples in one.series) == 2
