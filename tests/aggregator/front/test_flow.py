"""Order, credits and waiting, without sockets."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aggregator import ipc
from aggregator.front.flow import Batch, Flow, WorkerStream

SHARDS = ipc.Shards(1, 1, [])
EXPIRE = ipc.Expire()
CREDIT = 100
STALL = 1000


class FakeLink:
    """Takes messages until told to block."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, bytes | None]] = []
        self.open = True
        self.closed = False

    def send(self, header: Any, payload: Any) -> bool:
        if self.open:
            self.sent.append((header, payload))
        return self.open

    def close(self) -> None:
        self.closed = True


def batch(size: int, stamp: int = 0) -> Batch:
    return Batch(stamp, b"x" * size, [1], [size], [1], [0], 0)


def started(flow: Flow, worker: int) -> tuple[WorkerStream, FakeLink]:
    stream, link = flow.stream(worker), FakeLink()
    stream.attach(link, 1)
    assert stream.order(SHARDS, 1, 0, 0)
    flow.step(0)
    return stream, link


def fill(stream: WorkerStream, enough: Callable[[], bool], mono: int = 0) -> None:
    for _ in range(1000):
        if enough():
            return
        stream.put(batch(10), mono)
    raise AssertionError("never enough")


def test_no_batch_before_the_shards() -> None:
    stream, link = Flow(CREDIT, 1000, STALL).stream(0), FakeLink()
    stream.put(batch(5, stamp=3), 0)
    stream.attach(link, 1)
    stream.put(batch(5, stamp=7), 0)
    assert link.sent == []
    stream.order(SHARDS, 1, 9, 0)
    assert [(type(header), header.now_ns) for header, _ in link.sent] == [
        (ipc.Order, 3),
        (ipc.Batch, 3),
        (ipc.Batch, 7),
    ]


def test_a_batch_larger_than_the_credit_goes_alone() -> None:
    stream, link = started(Flow(CREDIT, 1000, STALL), 0)
    assert stream.put(batch(3 * CREDIT), 0)
    assert not stream.put(batch(1), 0)
    stream.acked(0, 0)
    assert len(link.sent) == 3


def test_slow_workers_pause_reading_and_lose_nothing() -> None:
    flow = Flow(CREDIT, 1000, STALL)
    stream, _ = started(flow, 0)
    started(flow, 1)
    assert not flow.paused()
    fill(stream, flow.paused)
    assert flow.discarding() == frozenset()


def test_a_stalled_worker_s_messages_are_discarded_when_it_has_its_share() -> None:
    flow = Flow(CREDIT, 1000, STALL)
    stream, _ = started(flow, 0)
    started(flow, 1)
    fill(stream, lambda: not stream.put(batch(10), 0))
    flow.step(STALL + 1)
    assert not flow.paused()
    fill(stream, lambda: flow.discarding() == frozenset({0}))
    assert stream.waiting_bytes <= 1000
    assert not flow.paused()


def test_after_one_burst_of_acks_a_worker_lags_until_its_queue_is_short() -> None:
    flow = Flow(CREDIT, 1000, STALL)
    stream, _ = started(flow, 0)
    started(flow, 1)
    fill(stream, lambda: stream.waiting_bytes > 300)
    flow.step(STALL + 1)
    seq = 0
    while stream.waiting_bytes:
        assert stream.acked(seq, STALL + 2) is not None
        seq += 1
        flow.step(STALL + 2)
        assert stream.lagging == (stream.waiting_bytes > CREDIT // 2)
        assert not flow.paused()


def loaded_with_one_stall(stall_ms: int, stop_ms: int, acks_per_ack: int, gap_ms: int) -> list[tuple[bool, bool]]:
    """Two workers under the same load, 10 bytes per ms: (lagging, discarding) of the first, which stalls once, for each ms.

    After the stall it acks ``acks_per_ack`` batches every ``gap_ms``, as long as there are any.
    """
    flow = Flow(200, 10_000, 2000)
    (slow, _), (other, _) = started(flow, 0), started(flow, 1)
    acked, history = [0, 0], []
    for now in range(stop_ms):
        flow.step(now)
        discarding = flow.discarding()
        if not flow.paused():
            for stream in (slow, other):
                if stream.worker not in discarding:
                    stream.put(batch(10), now)
        for _ in range(2):
            if other.acked(acked[1], now) is not None:
                acked[1] += 1
        if now >= stall_ms and now % gap_ms == 0:
            for _ in range(acks_per_ack):
                if slow.acked(acked[0], now) is not None:
                    acked[0] += 1
        assert slow.waiting_bytes + other.waiting_bytes <= 10_000
        history.append((slow.lagging, slow.worker in discarding))
    return history


def test_a_worker_that_stalled_once_lags_no_more_when_its_acks_flow_under_the_same_load() -> None:
    """Its capacity is the load: its queue never gets empty, yet it may not lose messages for ever."""
    history = loaded_with_one_stall(4000, 20_000, 1, 1)
    assert history[3999] == (True, True)
    assert history[4000 + 2100 :] == [(False, False)] * (20_000 - 6100)


def test_a_worker_that_acks_in_bursts_with_stalls_between_goes_on_lagging() -> None:
    history = loaded_with_one_stall(4000, 20_000, 5, 2500)
    assert all(lagging for lagging, _ in history[4000:])


def test_if_all_lag_nothing_is_discarded_and_reading_pauses_when_one_has_its_share() -> None:
    flow = Flow(CREDIT, 1000, STALL)
    streams = [flow.stream(worker) for worker in range(2)]
    fill(streams[0], flow.paused)
    assert flow.discarding() == frozenset()
    assert 650 < streams[0].waiting_bytes <= 660


@pytest.mark.parametrize("stalling", [[0, 2], [2, 0], [0]])
@pytest.mark.parametrize("capacity", [11, 20])
def test_who_stalls_for_a_moment_loses_nothing_to_one_that_has_long_taken_the_room(
    stalling: list[int], capacity: int
) -> None:
    """10 bytes per ms for each; worker 1 never acks, others acknowledge up to ``capacity`` but in a stall (the disk's).

    Who is named first begins to ack again 50 ms before the next one.
    """
    flow = Flow(2000, 100_000, 2000)
    streams = [started(flow, worker)[0] for worker in range(3)]
    acked, due, lagged, most = [0, 0, 0], [0, 0, 0], set(), 0
    again = {worker: 12_010 + 50 * place for place, worker in enumerate(stalling)}
    for now in range(16_000):
        flow.step(now)
        discarding = flow.discarding()
        assert discarding <= {1}, now
        if now >= 10_000:
            lagged |= {stream.worker for stream in streams if stream.lagging}
        if not flow.paused():
            for stream in streams:
                if stream.worker not in discarding:
                    stream.put(batch(10), now)
        for worker in (0, 2):
            due[worker] = min(due[worker] + capacity, 20)
            while due[worker] >= 10 and not 10_000 <= now < again.get(worker, 0):
                if streams[worker].acked(acked[worker], now) is None:
                    break
                acked[worker] += 1
                due[worker] -= 10
        most = max(most, sum(stream.waiting_bytes for stream in streams))
    assert lagged == {1, *stalling}
    assert [stream.lagging for stream in streams] == [False, True, False]
    assert most <= 100_000


@pytest.mark.parametrize("owners", [[0, 0], [-1, -1], [0, -1], [1, 1], []])
def test_an_idle_worker_without_shards_does_not_keep_reading_going(owners: list[int]) -> None:
    flow = Flow(CREDIT, 1000, STALL)
    streams = [started(flow, worker)[0] for worker in range(3)]
    flow.route(owners)
    loaded = streams[max([0, *owners])]
    fill(loaded, lambda: not loaded.put(batch(10), 0))
    flow.step(STALL + 1)
    assert [stream.lagging for stream in streams] == [stream is loaded for stream in streams]
    fill(loaded, flow.paused)
    assert flow.discarding() == frozenset()
    assert loaded.waiting_bytes <= 1010


def test_what_belongs_to_nobody_is_discarded_if_worker_0_lags_and_the_owner_goes_on() -> None:
    flow = Flow(CREDIT, 1000, STALL)
    nobody, _ = started(flow, 0)
    started(flow, 1)
    flow.route([1, 1])
    fill(nobody, lambda: not nobody.put(batch(10), 0))
    flow.step(STALL + 1)
    fill(nobody, lambda: flow.discarding() == frozenset({0}))
    assert nobody.waiting_bytes <= 1000
    assert not flow.paused()


def test_acks_of_another_incarnation_are_ignored() -> None:
    stream, link = started(Flow(CREDIT, 1000, STALL), 0)
    stream.put(batch(10), 0)
    dropped = stream.detach()
    assert link.closed
    assert not dropped.batches
    assert stream.acked(0, 0) is None
    assert (stream.unacked_bytes, stream.waiting_bytes) == (0, 10)


def test_batches_are_settled_in_order() -> None:
    stream, link = started(Flow(CREDIT, 1000, STALL, 7), 0)
    for connection in (1, 2, 1):
        stream.put(Batch(0, b"x", [connection], [1], [1], [0], 0), 0)
    for seq in range(3):
        assert stream.acked(seq, 10 + seq) is not None
    told: list[tuple[int, int]] = []

    def delivered(connection: int, acked_ns: int) -> bool:
        told.append((connection, acked_ns))
        return connection == 1

    stream.settle(delivered)
    assert told == [(1, 10), (2, 11)]
    stream.put(batch(1), 0)
    assert (link.sent[-1][0].front, link.sent[-1][0].settled) == (7, 0)
    stream.settle(lambda *_: True)
    stream.put(batch(1), 0)
    assert link.sent[-1][0].settled == 2


def test_connections_that_were_cut_are_told_behind_their_batches_to_a_successor_as_well() -> None:
    stream, _ = started(Flow(CREDIT, 1000, STALL), 0)
    stream.put(batch(10), 0)
    stream.detach()
    stream.cut({1: 0, 5: 0})
    fresh = FakeLink()
    stream.attach(fresh, 2)
    assert stream.order(SHARDS, 2, 0, 0)
    assert [type(header) for header, _ in fresh.sent] == [ipc.Order, ipc.Batch, ipc.Cut]


def test_connections_that_were_cut_are_told_with_their_first_batch_that_may_come_again() -> None:
    stream, link = started(Flow(1000, 1000, STALL), 0)
    for connection in (1, 2, 1, 1, 2):
        stream.put(Batch(0, b"x", [connection], [1], [1], [0], 0), 0)
    for seq in range(4):
        assert stream.acked(seq, 10 + seq) is not None
    stream.cut({1: 0, 2: 0})
    stream.cut({1: 12, 2: 12})
    stream.cut({1: 13})
    stream.cut({1: 14})
    stream.pump(0)
    cuts = [header.connections for header, _ in link.sent if isinstance(header, ipc.Cut)]
    assert cuts == [{1: 0, 2: 1}, {1: 2, 2: 4}, {1: 3}, {1: 4}]


def test_nothing_but_what_a_worker_has_to_know_first_overtakes_batches() -> None:
    stream, link = Flow(CREDIT, 1000, STALL).stream(0), FakeLink()
    stream.put(batch(5, stamp=3), 0)
    link.open = False
    stream.attach(link, 1)
    limits = ipc.RuntimeOptions(1, 1)
    for command in (SHARDS, limits, EXPIRE):
        assert stream.order(command, 1, 9, 0)
    link.open = True
    stream.pump(0)
    assert [getattr(header, "command", "batch") for header, _ in link.sent] == [SHARDS, limits, "batch", EXPIRE]
    assert [header.now_ns for header, _ in link.sent] == [3, 3, 3, 9]


class Stream(RuleBasedStateMachine):
    """Any interleaving of input, acks, blocked links and deaths keeps order, stamps and bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = Flow(CREDIT, 1000, STALL)
        self.stream = self.flow.stream(0)
        self.link: FakeLink | None = None
        self.epoch = 0
        self.clock = 0
        self.put_numbers: list[int] = []
        self.sent_numbers: list[int] = []
        self.number = 0
        self.expected: list[Any] = []
        """What the current incarnation must get after its shards, in order."""
        self.acked: set[int] = set()
        self.deaths: dict[bytes, int] = {}

    @rule(size=st.integers(8, 90))
    def put(self, size: int) -> None:
        self.clock += 1
        self.number += 1
        payload = self.number.to_bytes(8, "big") + b"x" * (size - 8)
        self.stream.put(Batch(self.clock, payload, [1], [size], [1], [0], 0), self.clock)
        self.expected.append(payload)

    @precondition(lambda self: self.link is None)
    @rule()
    def attach(self) -> None:
        self.epoch += 1
        self.link = FakeLink()
        self.acked = set()
        self.stream.attach(self.link, self.epoch)
        self.clock += 1
        assert self.stream.order(SHARDS, self.epoch, self.clock, self.clock)

    @precondition(lambda self: self.link is not None)
    @rule()
    def order(self) -> None:
        self.clock += 1
        assert self.stream.order(EXPIRE, self.epoch, self.clock, self.clock)
        self.expected.append(EXPIRE)

    @rule()
    def stale(self) -> None:
        assert not self.stream.order(EXPIRE, self.epoch + 1, self.clock, self.clock)

    @precondition(lambda self: self.link is not None)
    @rule(is_open=st.booleans())
    def block(self, is_open: bool) -> None:
        assert self.link is not None
        self.link.open = is_open
        self.flow.step(self.clock)

    @precondition(lambda self: self.stream.inflight > 0)
    @rule()
    def ack(self) -> None:
        assert self.link is not None
        seqs = [header.seq for header, _ in self.link.sent if isinstance(header, ipc.Batch)]
        seq = next(seq for seq in seqs if seq not in self.acked)
        assert self.stream.acked(seq, self.clock) is not None
        self.acked.add(seq)

    @precondition(lambda self: self.link is not None)
    @rule()
    def die(self) -> None:
        assert self.link is not None
        sent = self._sent()
        dropped = self.stream.detach()
        unacked = [entry for entry in sent if isinstance(entry, bytes)][len(self.acked) :]
        for payload in unacked:
            self.deaths[payload] = self.deaths.get(payload, 0) + 1
        assert [bytes(b.payload) for b in dropped.batches] == [p for p in unacked if self.deaths[p] == 3]
        left = self.expected[len(sent) :]
        assert sum(isinstance(entry, ipc.Expire) for entry in left) == dropped.commands.count(EXPIRE)
        kept = [payload for payload in unacked if self.deaths[payload] < 3]
        self.expected = kept + [entry for entry in left if isinstance(entry, bytes)]
        self.link = None

    def _sent(self) -> list[Any]:
        assert self.link is not None
        everything = [h.command if isinstance(h, ipc.Order) else payload for h, payload in self.link.sent]
        return everything[1:]

    @invariant()
    def order_stamps_and_bounds_hold(self) -> None:
        assert self.stream.unacked_bytes <= CREDIT
        if self.link is None:
            return
        sent = self._sent()
        assert sent == self.expected[: len(sent)]
        stamps = [header.now_ns for header, _ in self.link.sent]
        assert stamps == sorted(stamps)
        waiting = [entry for entry in self.expected[len(sent) :] if isinstance(entry, bytes)]
        assert self.stream.waiting_bytes == sum(map(len, waiting))


Stream.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestStream = Stream.TestCase
