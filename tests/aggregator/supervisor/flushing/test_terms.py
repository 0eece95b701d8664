"""Terms of two replicas: the flush machine of each with a real engine behind it, one KV, one downstream, a fake clock."""

import itertools
import random
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine.options import EngineOptions
from aggregator.supervisor.flushing.commands import Flushing, FlushRole, Send
from aggregator.supervisor.flushing.schedule import ScheduleOptions
from m3cluster.flush_times import ShardSetFlushTimes
from m3cluster.placement.model import NEVER_NS
from m3metrics.codec import CounterWithMetadatas, TimedMetricWithMetadatas, decode_aggregated, encode_metric
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy
from m3msg.frames import Message, Metadata, encode_message

S = 1_000_000_000
NOON = 1_767_355_200 * S
SHARDS = 4
PAST = 5 * S
TEN = (StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(StoragePolicy.parse("10s:2d"),)),)),)
OWNED = [ipc.OwnedShard(shard, 0, NEVER_NS) for shard in range(SHARDS)]


class Cluster:
    """What the replicas share."""

    def __init__(self) -> None:
        self.times = ShardSetFlushTimes()
        self.arrived: dict[tuple[bytes, int], list[float]] = defaultdict(list)
        self.now = NOON
        self.replicas = [Replica(self) for _ in range(2)]

    def samples(self, value: int) -> None:
        """One sample of each kind for each of some series, to every replica that is there."""
        metrics: list[Any] = []
        for i in range(12):
            metrics.append(CounterWithMetadatas(id=b"c%d" % i, value=value + i, metadatas=TEN))
            timed = TimedMetricWithMetadatas(
                metric_type=MetricType.GAUGE, id=b"g%d" % i, time_ns=self.now, value=value * 2.0 + i, metadatas=TEN
            )
            metrics.append(timed)
        data = b"".join(encode_message(Message(Metadata(1, k + 1), encode_metric(m))) for k, m in enumerate(metrics))
        for replica in self.replicas:
            replica.take(data)

    def window(self, value: int, *, step: int = 1) -> None:
        """Ten seconds of samples; the replicas act every second."""
        for second in range(0, 10, step):
            self.samples(value + second)
            self.pass_time(step)

    def pass_time(self, seconds: int) -> None:
        self.now += seconds * S
        for replica in self.replicas:
            replica.act()


class Replica:
    """One instance: a worker's engine, the flush machine, and what it has handed out that is not delivered yet."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.flushing = Flushing(
            ScheduleOptions(
                timed_delay_ns=lambda r: PAST + r,
                forwarding_delay_ns=lambda r, n: r * n,
                max_jitter_ns=lambda _: 0,
            )
        )
        self.engine = Engine(
            EngineOptions(
                num_shards=SHARDS,
                topic_shards=SHARDS,
                default_storage_policies=("10s:2d",),
                buffer_past_ns=PAST,
                retained_bytes=1 << 30,
                counter_transform="empty",
                gauge_transform="empty",
            ),
            max_series=1 << 10,
        )
        self.engine.set_shards(ipc.Shards(SHARDS, SHARDS, OWNED), NOON)
        self.flushing.worker_up(0, 1, OWNED)
        self.out: list[tuple[int, int, list[tuple[bytes, int, float]]]] = []
        """Flush id, number and values of each part on its way."""
        self.delivers = True
        """Whether downstream takes what this replica emits."""
        self.records = True
        """Whether it can write flush times."""

    def take(self, data: bytes) -> None:
        self.engine.ingest(np.frombuffer(data, np.uint8), np.array([len(data)], np.int64), self.cluster.now)
        if lists := self.engine.new_lists():
            self.send(self.flushing.new_lists(0, lists, self.cluster.now))

    def lead(self) -> None:
        self.flushing.lead(self.cluster.times, self.cluster.now)
        self.act()

    def leave(self, *, fenced: bool = True) -> None:
        """The lead is lost, or given away: what is on its way is dropped."""
        if fenced:
            self.out.clear()
        self.send(self.flushing.follow())

    def act(self) -> None:
        """What the shells do all the time."""
        self.send(self.flushing.tick(self.cluster.now))
        if self.delivers:
            self.deliver(len(self.out))
        if self.records and self.flushing.save_due(self.cluster.now):
            self.cluster.times = self.flushing.message(range(SHARDS))
            self.send(self.flushing.saved(self.cluster.times, self.cluster.now))
            for other in self.cluster.replicas:
                other.send(other.flushing.kv_changed(self.cluster.times))

    def deliver(self, parts: int) -> None:
        for flush_id, number, values in self.out[:parts]:
            for ident, at, value in values:
                self.cluster.arrived[ident, at].append(value)
            self.flushing.done(flush_id, number)
        del self.out[:parts]

    def send(self, sends: list[Send]) -> None:
        for send in sends:
            command = send.command
            if isinstance(command, ipc.Reopen):
                self.engine.reopen(command)
            elif isinstance(command, ipc.Commit):
                self.engine.commit(command)
            elif isinstance(command, ipc.Flush):
                self.flush(command)

    def flush(self, command: ipc.Flush) -> None:
        for part in self.engine.flush(command, self.cluster.now):
            if part.batch is not None:
                answer = ipc.Flushed(command.id, part.last, len(part.batch), False, [])
                offsets = part.batch.offsets.tolist()
                values = [decode_aggregated(part.batch.payload[a:b].tobytes()) for a, b in itertools.pairwise(offsets)]
                if number := self.flushing.part(0, answer):
                    self.out.append((command.id, number, [(v.id, v.time_ns, v.value) for v in values]))
        self.send(self.flushing.last(0, command.id, self.cluster.now))


@pytest.fixture
def pair() -> Cluster:
    """The first replica leads, the second follows; a window has passed."""
    cluster = Cluster()
    first, second = cluster.replicas
    cluster.samples(1)
    first.lead()
    second.send(second.flushing.follow())
    cluster.window(100)
    return cluster


def whole(cluster: Cluster, *, repeats: bool = True) -> None:
    """After enough time: every window of every series has arrived, with one value."""
    for _ in range(40):
        cluster.pass_time(1)
    ends = sorted({at for _, at in cluster.arrived})
    assert ends == list(range(ends[0], ends[-1] + 1, 10 * S))
    for ident in [b"c%d" % i for i in range(12)] + [b"g%d" % i for i in range(12)]:
        for end in ends:
            values = cluster.arrived[ident, end]
            assert values, (ident, end)
            assert len(set(values)) == 1, (ident, end, values)
            assert repeats or len(values) == 1, (ident, end, values)


def test_a_promoted_follower_emits_exactly_what_is_missing(pair: Cluster) -> None:
    first, second = pair.replicas
    pair.window(200)
    pair.replicas.remove(first)
    pair.window(300)
    second.lead()
    pair.window(400)
    whole(pair, repeats=False)


def test_what_was_on_its_way_is_emitted_by_the_next_leader(pair: Cluster) -> None:
    first, second = pair.replicas
    first.delivers = False
    pair.window(200)
    pair.window(300)
    pair.replicas.remove(first)
    second.lead()
    pair.window(400)
    whole(pair, repeats=False)


def test_what_arrived_without_being_recorded_comes_again_with_the_same_values(pair: Cluster) -> None:
    first, second = pair.replicas
    first.records = False
    pair.window(200)
    pair.window(300)
    pair.replicas.remove(first)
    second.lead()
    pair.window(400)
    whole(pair)
    assert any(len(values) == 2 for values in pair.arrived.values())


def test_a_lead_that_comes_back_emits_again_what_was_not_delivered(pair: Cluster) -> None:
    first, _ = pair.replicas
    first.delivers = False
    pair.window(200)
    pair.window(300)
    first.leave()
    pair.window(400)
    # Nobody else has led meanwhile.
    first.delivers = True
    first.lead()
    pair.window(500)
    whole(pair, repeats=False)


def test_a_lead_that_comes_back_leaves_to_the_other_what_that_has_emitted(pair: Cluster) -> None:
    first, second = pair.replicas
    first.delivers = False
    pair.window(200)
    first.leave()
    second.lead()
    pair.window(300)
    second.leave()
    first.delivers = True
    first.lead()
    pair.window(400)
    whole(pair, repeats=False)


def test_a_lead_that_goes_back_and_forth_every_few_seconds(pair: Cluster) -> None:
    """Random terms, deliveries and records; what is lost on the way comes later, and always with the same value."""
    rng = random.Random(7)
    replicas = list(pair.replicas)
    leader: Replica | None = replicas[0]
    for step in range(200):
        pair.samples(step)
        pair.pass_time(1)
        if rng.random() < 0.2:
            for replica in replicas:
                replica.delivers, replica.records = rng.random() < 0.5, rng.random() < 0.5
        if rng.random() < 0.2:
            if leader is not None:
                leader.deliver(rng.randrange(len(leader.out) + 1))
                leader.leave()
            leader = rng.choice([*replicas, None])
            if leader is not None:
                leader.lead()
    for replica in replicas:
        replica.delivers = replica.records = True
    if leader is not None:
        leader.leave()
    replicas[0].lead()
    whole(pair)


@pytest.mark.parametrize("next_leader", [0, 1])
def test_everything_is_kept_while_nothing_can_be_recorded(pair: Cluster, next_leader: int) -> None:
    first = pair.replicas[0]
    first.delivers = False
    # More than the longest time for which M3 keeps windows (maxBufferSize, 5 minutes).
    for k in range(36):
        pair.window(1000 * k, step=5)
    first.leave()
    first.delivers = True
    pair.replicas = [pair.replicas[next_leader]]
    pair.replicas[0].lead()
    whole(pair, repeats=False)


def test_a_follower_gives_up_old_windows_when_told_so(pair: Cluster) -> None:
    first, second = pair.replicas
    pair.replicas.remove(first)
    for k in range(6):
        pair.window(1000 * k)
    used = second.engine.stats()[1]["engine.windows"]
    assert second.flushing.give_up(pair.now - 30 * S, [1]) == []
    second.send(second.flushing.give_up(pair.now - 30 * S, [0]))
    assert second.engine.stats()[1]["engine.windows"] < used
    assert second.flushing.give_up(pair.now - 30 * S, [0]) == []
    seen = set(pair.arrived)
    second.lead()
    pair.pass_time(30)
    fresh = {at for ident, at in set(pair.arrived) - seen}
    assert min(fresh) > pair.now - 60 * S - 10 * S
    assert second.flushing.role is FlushRole.LEADER
    assert second.flushing.give_up(pair.now, [0]) == []
