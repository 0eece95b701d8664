"""When messages may be sent, and what is said until then."""

from coordinator.write.readiness import judge
from m3cluster.placement import NEVER_NS, Instance, Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
SERVICE = ServiceID("m3aggregator", "env", "embedded")
TOPIC = Topic("ingest", 2, (ConsumerService(SERVICE, ConsumptionType.REPLICATED),))


def _placement(*cutovers: int, cutoff_ns: int = NEVER_NS, shards: int = 2) -> Placement:
    """Two shards on as many instances as there are cutovers."""
    return Placement(
        instances=tuple(
            Instance(str(i), shards=tuple(Shard(k, ShardState.INITIALIZING, cutover_ns=c, cutoff_ns=cutoff_ns) for k in range(2)))
            for i, c in enumerate(cutovers)
        ),
        num_shards=shards, replica_factor=len(cutovers), is_sharded=True,
    )  # fmt: skip


def test_missing_topic_consumer_and_placement() -> None:
    assert "does not exist yet: create it" in str(judge("ingest", None, {}, NOW).refusal(NOW))
    assert "has no consumer yet" in str(judge("ingest", Topic("ingest", 2), {}, NOW).refusal(NOW))
    for placements in ({}, {SERVICE: None}, {SERVICE: Placement()}):
        assert "placement of m3aggregator in environment env" in str(
            judge("ingest", TOPIC, placements, NOW).refusal(NOW)
        )


def test_waits_for_the_cutover_and_tells_the_time_left() -> None:
    opening = judge("ingest", TOPIC, {SERVICE: _placement(NOW + 30 * SECOND)}, NOW)
    assert opening.refusal(NOW) == "the shards of m3aggregator will be cut over in 30 s"
    assert opening.refusal(NOW + 29 * SECOND + 1) == "the shards of m3aggregator will be cut over in 1 s"
    assert opening.refusal(NOW + 30 * SECOND) is None


def test_one_replica_that_takes_writes_is_enough() -> None:
    assert judge("ingest", TOPIC, {SERVICE: _placement(NOW + 30 * SECOND, 0)}, NOW).refusal(NOW) is None


def test_shards_without_owner() -> None:
    off = judge("ingest", TOPIC, {SERVICE: _placement(0, cutoff_ns=NOW - 1)}, NOW)
    assert off.refusal(NOW) == "shard 0 has no owner in the placement of m3aggregator"


def test_shard_counts_must_agree() -> None:
    assert "has 3 shards, the topic ingest 2" in str(
        judge("ingest", TOPIC, {SERVICE: _placement(0, shards=3)}, NOW).refusal(NOW)
    )


def test_cutovers_can_be_ignored() -> None:
    placements = {SERVICE: _placement(NOW + 30 * SECOND)}
    assert judge("ingest", TOPIC, placements, NOW, ignore_cutover=True).refusal(NOW) is None


def test_shared_services_have_no_cutover() -> None:
    topic = Topic("ingest", 2, (ConsumerService(SERVICE, ConsumptionType.SHARED),))
    placement = Placement(instances=(Instance("a", endpoint="a:1"),), replica_factor=1)
    assert judge("ingest", topic, {SERVICE: placement}, NOW).refusal(NOW) is None
