"""Producers joined in memory with their consumers (``producer_pair``)."""

from collections.abc import Callable, Sequence

import pytest
from tests.m3msg.producer_pair import Joined, make_batch, make_placement

from m3cluster.placement.model import Placement
from m3cluster.topic import ConsumptionType, Filters
from m3msg.batch import MessageBatch
from m3msg.producer import ProducerOptions
from m3msg.producer.options import BufferOptions, ConnectionOptions, WriterOptions


@pytest.fixture
def batch_of() -> Callable[..., MessageBatch]:
    return make_batch


@pytest.fixture
def placement_of() -> Callable[..., Placement]:
    return make_placement


@pytest.fixture
def joined() -> Callable[..., Joined]:
    """``joined(kind, owners, **settings)``: a connected producer with one service."""

    def make(
        kind: ConsumptionType = ConsumptionType.SHARED,
        owners: dict[str, Sequence[int]] | None = None,
        *,
        shards: int = 4,
        num_connections: int = 1,
        ttl_s: float = 0,
        filters: Filters | None = None,
        connect: bool = True,
        writer: dict[str, object] | None = None,
        window_size: int = 16 << 20,
        buffer: dict[str, object] | None = None,
        **kwargs: object,
    ) -> Joined:
        connection = ConnectionOptions(num_connections=num_connections, window_size=window_size)
        options = ProducerOptions(
            writer=WriterOptions(topic_name="t", connection=connection, **(writer or {})),
            buffer=BufferOptions(**(buffer or {})),
        )
        pair = Joined(options, shards, **kwargs)
        assert pair.topic(pair.service(kind, ttl_s, filters)) == []
        if owners is not None:
            pair.place(owners)
            if connect:
                pair.connect(*owners)
        return pair

    return make
