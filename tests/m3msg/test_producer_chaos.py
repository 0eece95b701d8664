"""Producer and consumers joined over wires that cut, delay and repeat: whatever happens, nothing wanted is lost and every batch ends."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from m3cluster.placement.model import Instance, Placement, Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID, Topic
from m3msg.batch import MessageBatch
from m3msg.consumer import ConsumerCore
from m3msg.producer import Moment, ProducerCore, ProducerOptions, Secured
from m3msg.producer.options import ConnectionOptions, WriterOptions

import numpy as np  # isort: skip

SHARDS = 5
ENDPOINTS = ("a", "b", "c")
SERVICE = ServiceID("svc", "env", "zone")


class Wires(RuleBasedStateMachine):
    """One service of a drawn kind; the placement changes, connections come and go, acks are lost or arrive twice."""

    @initialize(kind=st.sampled_from([ConsumptionType.SHARED, ConsumptionType.REPLICATED]), links=st.integers(1, 3))
    def begin(self, kind, links):
        connection = ConnectionOptions(num_connections=links, window_size=400)
        options = ProducerOptions(writer=WriterOptions(topic_name="t", connection=connection))
        self.core = ProducerCore(options, stall_ns=20 * 10**9, tell_secured=True)
        self.kind = kind
        self.now = Moment(1_700_000_000_000_000_000, 10**9)
        self.core.set_topic(Topic("t", SHARDS, (ConsumerService(SERVICE, kind),)), self.now)
        self.serial = 0
        self.produced: dict[int, set[bytes]] = {}
        self.done: dict[int, object] = {}
        self.received: dict[str, set[bytes]] = {e: set() for e in ENDPOINTS}
        self.consumers: dict[object, ConsumerCore] = {}
        self.acks: list[tuple[object, ConsumerCore, bytes]] = []
        self.owners: dict[str, list[int]] = {}
        self.place([list(range(SHARDS))] * 3)

    def place(self, shards):
        self.owners = {e: s for e, s in zip(ENDPOINTS, shards, strict=True) if s}
        instances = tuple(
            Instance(e, endpoint=e, shards=tuple(Shard(s, ShardState.AVAILABLE) for s in owned))
            for e, owned in self.owners.items()
        )
        self.core.set_placement(SERVICE, Placement(instances=instances, is_sharded=True, num_shards=SHARDS), self.now)
        self.collect()

    @rule(shards=st.tuples(*[st.lists(st.integers(0, SHARDS - 1), unique=True, max_size=SHARDS)] * 3))
    def new_placement(self, shards):
        owned = {s for part in shards for s in part}
        shards = list(shards)
        shards[0] = [*shards[0], *(s for s in range(SHARDS) if s not in owned)]  # every shard has an owner
        self.place(shards)

    @rule(sizes=st.lists(st.integers(0, 120), min_size=1, max_size=30), large=st.booleans())
    def produce(self, sizes, large):
        values = [b"%d-%d-" % (self.serial, i) + b"." * size for i, size in enumerate(sizes)]
        if large:
            values[0] += b"L" * 70_000
        payload = np.frombuffer(b"".join(values), np.uint8)
        offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int64)
        shards = np.array([(i * 7 + self.serial) % SHARDS for i in range(len(values))], np.uint32)
        self.produced[self.serial] = set(values)
        assert self.core.produce(MessageBatch(payload, offsets, shards, token=self.serial), self.now)
        self.serial += 1
        self.collect()

    @rule(index=st.integers(0, 8))
    def connect(self, index):
        links = [link for link in self.core.links() if not link.connected]
        if links:
            link = links[index % len(links)]
            self.consumers[link] = ConsumerCore()
            link.on_connected()
            self.react()

    @rule(index=st.integers(0, 8))
    def cut(self, index):
        links = [link for link in self.core.links() if link.connected]
        if links:
            links[index % len(links)].on_disconnected("cut")
            self.react()

    @rule(index=st.integers(0, 8), limit=st.one_of(st.none(), st.integers(1, 500)), lose=st.booleans())
    def carry(self, index, limit, lose):
        links = [link for link in self.core.links() if link.connected]
        if links:
            link = links[index % len(links)]
            self.carry_link(link, limit, lose)

    def carry_link(self, link, limit=None, lose=False):
        if not link.fill(self.now):
            return False
        data = link.unwritten[:limit].tobytes()
        link.wrote(len(data))
        core = self.consumers[link]
        for batch in core.feed(data):
            for i in range(len(batch)):
                self.received[link.lane.endpoint].add(batch.value(i))
            if not lose:
                batch.ack()
        assert not core.error
        frames = core.take_acks()
        if frames:
            self.acks.append((link, core, frames))
        return True

    @rule(index=st.integers(0, 20), again=st.booleans())
    def ack_arrives(self, index, again):
        if self.acks:
            entry = self.acks[index % len(self.acks)] if again else self.acks.pop(index % len(self.acks))
            self.ack(entry)

    def ack(self, entry):
        link, core, frames = entry
        if link.connected and self.consumers.get(link) is core:
            link.on_received(frames, self.now)
            self.collect()

    @rule(seconds=st.sampled_from([0.1, 3, 8, 30]))
    def wait(self, seconds):
        ns = int(seconds * 1e9)
        self.now = Moment(self.now.wall_ns + ns, self.now.steady_ns + ns)
        self.core.flush(self.now)
        self.core.tick(self.now)
        self.collect()

    def react(self):
        self.core.react(self.now)
        self.collect()

    def collect(self):
        while self.core.events:
            done = self.core.events.popleft()
            if isinstance(done, Secured):
                everywhere = set().union(*self.received.values())
                assert self.produced[done.token] <= everywhere, "secured means that somebody has it"
                continue
            assert done.token not in self.done, "a batch ends once"
            self.done[done.token] = done
            assert done.acked + done.lost + done.filtered + done.closed == len(self.produced[done.token])
            everywhere = set().union(*self.received.values())
            assert done.acked <= len(self.produced[done.token] & everywhere), "acked means that somebody has it"

    @invariant()
    def figures_agree(self):
        if not hasattr(self, "core"):
            return
        for service in self.core.services.values():
            for lane in service.all_lanes():
                pending, parcel, held, before = 0, lane.oldest, 0, None
                while parcel is not None:
                    counted = int((parcel.rows["state"] <= 3).sum())
                    assert counted == parcel.pending > 0
                    assert parcel.lane is lane
                    assert parcel.previous is before
                    pending += counted
                    held += parcel.cost
                    before, parcel = parcel, parcel.next
                assert lane.newest is before
                assert (lane.pending, sum(lane.held)) == (pending, held)
                assert (lane.inflight >= 0).all()
                for link in lane.links:
                    if not link.connected:
                        assert lane.inflight[link.index] == 0

    def teardown(self):
        """When all is well again everything that is wanted arrives."""
        if not hasattr(self, "core"):
            return
        for _ in range(60):
            for link in self.core.links():
                if not link.connected:
                    self.consumers[link] = ConsumerCore()
                    link.on_connected()
            self.wait(40)
            moved = True
            while moved:
                moved = any([self.carry_link(link) for link in self.core.links()])
                while self.acks:
                    self.ack(self.acks.pop())
            if not self.core.pending and len(self.done) == self.serial:
                break
        assert self.core.pending == 0
        assert set(self.done) == set(range(self.serial))
        everywhere = set().union(*self.received.values())
        for serial, values in self.produced.items():
            if self.kind is ConsumptionType.SHARED:
                assert values <= everywhere
                assert self.done[serial].acked == len(values)


TestWires = Wires.TestCase
TestWires.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
