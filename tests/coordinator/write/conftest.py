"""What the tests of the write path share."""

from collections.abc import Callable

import pytest

from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler
from coordinator.write import RefusedError, RemoteWriter, SeriesCache
from m3metrics.codec import decode_metric
from m3metrics.codec.unaggregated import TimedMetricWithMetadatas
from m3msg.batch import MessageBatch
from m3x.instrument import Registry

TEN_SECONDS = Namespace("ten", 10 * 10**9, 6 * 3600 * 10**9)


class RecordingSink:
    """Keeps what is produced; refuses while ``refusal`` is set."""

    largest_message = 1 << 20
    largest_batch = 100 << 20

    def __init__(self) -> None:
        self.metrics: list[TimedMetricWithMetadatas] = []
        self.shards: list[int] = []
        self.refusal: str | None = None
        self.asked = 0

    def ready(self, nbytes: int) -> int | None:
        self.asked += 1
        return None if self.refusal else 64

    async def admit(self, nbytes: int) -> int:
        if self.refusal is not None:
            raise RefusedError(self.refusal, retry_after_s=1)
        return 64

    def produce(self, batch: MessageBatch) -> bool:
        for i, shard in enumerate(batch.shards):
            metric = decode_metric(batch.payload[batch.offsets[i] : batch.offsets[i + 1]].tobytes())
            assert isinstance(metric, TimedMetricWithMetadatas)
            self.metrics.append(metric)
            self.shards.append(int(shard))
        return True


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def make_writer(sink: RecordingSink, registry: Registry) -> Callable[..., RemoteWriter]:
    def make(cache: SeriesCache | None = None) -> RemoteWriter:
        return RemoteWriter(
            Downsampler([TEN_SECONDS]), cache or SeriesCache(4096, 8 << 20), sink, registry.scope("test")
        )

    return make
