"""Every line about a wrong set-up says what, where and what to do."""

import asyncio
import socket

from lab.ports import free_port
from msgspec.structs import replace

from aggregator.supervisor.placement import View, view
from aggregator.supervisor.set_up import (
    connect_error,
    endpoint_warning,
    host_id_fault,
    ingest_topic_warning,
    no_placement_fault,
    output_topic_fault,
    replicas_warning,
    shard_counts_fault,
    try_endpoint,
)
from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic

SHARDS = tuple(Shard(i, ShardState.AVAILABLE) for i in range(4))


def seen(*groups: str, factor: int = 2, endpoint: str = "") -> View:
    """A shard set with one instance per given isolation group, as its first one sees it."""
    instances = tuple(
        Instance(id=f"agg{number}", isolation_group=group, shards=SHARDS, shard_set_id=1, endpoint=endpoint)
        for number, group in enumerate(groups)
    )
    return view(Placement(instances, num_shards=4, replica_factor=factor, version=3), "agg0")


def test_no_placement() -> None:
    assert "POST /api/v1/services/m3aggregator/placement/init" in no_placement_fault("/placement/e/m3aggregator")


def test_a_host_id_that_is_not_in_the_placement_learns_the_nearest() -> None:
    stranger = replace(seen("a", "b").placement)
    text = host_id_fault(view(stranger, "agg"))
    assert text is not None
    assert "instance agg is not in the placement of version 3" in text
    assert "agg0, agg1" in text or "agg1, agg0" in text
    assert host_id_fault(seen("a", "b")) is None


def test_isolation_groups_that_cannot_satisfy_the_replication_factor() -> None:
    text = replicas_warning(seen("a", "a"))
    assert text is not None
    assert "isolation group a holds agg0 and agg1 of shard set 1" in text
    assert "needs 2 different isolation groups" in text
    assert "placement/replace" in text
    assert replicas_warning(seen("a", "b")) is None
    assert replicas_warning(seen("a", factor=1)) is None


def test_a_shard_set_that_is_too_small() -> None:
    text = replicas_warning(seen("a"))
    assert text is not None
    assert "1 of the 2 instances" in text


def test_shard_counts_that_differ() -> None:
    text = shard_counts_fault(Topic("aggregator_ingest", 8), seen("a", "b"))
    assert text is not None
    assert "topic aggregator_ingest has 8 shards and the placement 4" in text
    assert '"numberOfShards": 4' in text
    assert shard_counts_fault(Topic("t", 4), seen("a", "b")) is None
    assert shard_counts_fault(None, None) is None


def test_a_topic_without_consumers() -> None:
    consumer = ConsumerService(ServiceID("m3aggregator"), ConsumptionType.REPLICATED)
    assert "does not exist: create it" in (output_topic_fault("out", None) or "")
    assert "no consumer service: nobody gets" in (output_topic_fault("out", Topic("out", 4)) or "")
    assert output_topic_fault("out", Topic("out", 4, (consumer,))) is None
    assert "does not exist: coordinators send nothing" in (ingest_topic_warning("in", None, "m3aggregator") or "")
    assert "does not have m3aggregator" in (ingest_topic_warning("in", Topic("in", 4), "m3aggregator") or "")
    assert ingest_topic_warning("in", Topic("in", 4, (consumer,)), "m3aggregator") is None


async def test_an_endpoint_that_nobody_can_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
        assert await connect_error(endpoint) is None
    endpoint = f"127.0.0.1:{free_port()}"
    error = await connect_error(endpoint)
    text = endpoint_warning(seen("a", endpoint=endpoint), "0.0.0.0:6000", error)
    assert text is not None
    assert f"is reached at {endpoint}" in text
    assert "listens on 0.0.0.0:6000" in text
    assert "not an address" in (await connect_error("") or "")
    assert endpoint_warning(seen("a"), "", None) is None


async def test_an_endpoint_is_tried_until_it_is_reached_and_again_when_it_changes() -> None:
    said: list[str | None] = []
    news = asyncio.Event()

    def say(text: str | None) -> None:
        said.append(text)
        news.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        now = seen("a", endpoint=f"127.0.0.1:{server.getsockname()[1]}")
        trying = asyncio.ensure_future(try_endpoint(lambda: now, lambda: "0.0.0.0:6000", say))
        await asyncio.wait_for(news.wait(), 30)
        assert said == [None]
        news.clear()
        now = seen("a", endpoint="nowhere")
        await asyncio.wait_for(news.wait(), 30)
    trying.cancel()
    assert len(said) == 2
    assert "is reached at nowhere" in (said[1] or "")
