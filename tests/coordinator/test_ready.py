"""What ``/ready`` says beside M3's lists."""

from coordinator.config import Namespace
from coordinator.ready import Readiness
from m3cluster.kv import MemoryServer
from m3msg.producer import ProducerStatus
from m3msg.producer.status import InstanceStatus, ServiceStatus


class FakeProducer:
    """A producer with two consumers, of which one is not there."""

    def problems(self) -> list[str]:
        return ["shard counts differ"]

    def status(self) -> ProducerStatus:
        instances = [
            InstanceStatus("a:6000", "agg01", True, "4/4", 0, 0, 0, ""),
            InstanceStatus("b:6000", "agg02", False, "0/4", 0, 0, 0, "connection refused"),
        ]
        return ProducerStatus(
            "ingest",
            4,
            self.problems(),
            [ServiceStatus("m3aggregator", "m3aggregator", "replicated", True, instances, 0)],
        )


async def test_consumers_that_nobody_reaches_are_named_with_their_endpoint() -> None:
    store = MemoryServer().client()
    readiness = Readiness([Namespace("n", 0, 1)], None, FakeProducer(), store, lambda: ["a broken rule"])  # type: ignore[arg-type]
    status, body = readiness.document()
    assert status == 200
    assert body["problems"] == [
        "shard counts differ",
        "topic ingest: agg02 of m3aggregator is not reached at b:6000 (connection refused): is it running, and is that its "
        "endpoint in the placement?",
        "a broken rule",
    ]
    await store.close()
