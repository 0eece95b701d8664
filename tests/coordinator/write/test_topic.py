"""What senders are told when the producer behind the ingest topic is gone."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from coordinator.write import IngestTopic, RefusedError
from coordinator.write.readiness import Opening
from m3cluster import kv
from m3cluster.keys import topic_key
from m3cluster.topology import Topology
from m3msg.batch import MessageBatch
from m3msg.producer import InstanceStatus, ProducerClosedError, ProducerOptions, ProducerStatus, ServiceStatus


class ClosedProducer:
    num_shards = 64
    topology: Topology

    def produce(self, batch: MessageBatch) -> bool:
        return True

    def room(self) -> int:
        return 0

    async def wait_room(self, nbytes: int = 1) -> None:
        raise ProducerClosedError("the producer of topic 'x' is closed")

    def status(self) -> ProducerStatus:
        def instance(n: int, unacked: int, error: str) -> InstanceStatus:
            return InstanceStatus(f"h{n}:6000", f"m3aggregator{n}", not error, "1/1", 0, unacked, 0, error)

        instances = [instance(n, n, "connection refused" if n == 2 else "") for n in range(6)]
        return ProducerStatus(
            "x", 64, [], [ServiceStatus("m3aggregator", "m3aggregator", "replicated", True, instances, 0)]
        )


@pytest.fixture
async def topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IngestTopic]:
    monkeypatch.setattr("coordinator.write.topic.judge", lambda *_: Opening(0))
    store = await kv.open_store(kv.Embedded(tmp_path / "kv.sqlite"))
    options = msgspec.convert({"writer": {"topicName": "x"}}, ProducerOptions)
    producer = ClosedProducer()
    producer.topology = Topology(store, topic_key("env", "x"), "env", placement_namespace="_sd.placement")
    yield IngestTopic(options, producer)  # type: ignore[arg-type]
    await store.close()


async def test_a_closed_producer_is_a_refusal(topic: IngestTopic) -> None:
    with pytest.raises(RefusedError, match="producer of topic 'x' is closed; nothing was accepted"):
        await topic.admit(10)


async def test_after_a_failure_everything_is_refused(topic: IngestTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClosedProducer, "room", lambda _: 1 << 20)
    assert topic.ready(10) == 64
    topic.fail("out of order")
    assert topic.ready(10) is None
    assert topic.refusal() == "out of order"
    with pytest.raises(RefusedError, match="out of order; nothing was accepted"):
        await topic.admit(10)


async def test_those_that_owe_acks_are_named(topic: IngestTopic) -> None:
    assert topic.behind() == (
        "m3aggregator1: 1 messages, connected; m3aggregator2: 2 messages, connection refused; "
        "m3aggregator3: 3 messages, connected; and 2 more"
    )
