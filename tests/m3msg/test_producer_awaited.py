"""What a producer tells of batches that take long: which of their origins are awaited, what was overtaken, what was given up."""

import gc
import weakref

import numpy as np
import pytest

from m3cluster.topic import ConsumptionType, ServiceID
from m3msg.batch import MessageBatch
from m3msg.producer import Awaited, Done, Moment
from m3msg.producer.options import MessageRetryOptions
from m3msg.producer.status import overtaken
from m3x.config import Duration

SHARED, REPLICATED = ConsumptionType.SHARED, ConsumptionType.REPLICATED
ALL = range(4)
RETRY = {"message_retry": MessageRetryOptions(initial_backoff=Duration(5 * 10**9), jitter=False)}
STUCK = b"stuck"


@pytest.fixture
def batch(batch_of):
    """``batch(values, shards, token)``: the origin of a message is its shard and ten."""

    def make(values, shards, token="t", **columns):
        return batch_of(values, shards, token=token, origins=np.array(shards, np.uint32) + 10, **columns)

    return make


def refuse(pair, endpoint, *values):
    """The consumer never acks these values."""
    pair.consumers[endpoint].refuses = lambda value: value in values


def awaited(pair):
    """What was told last of each batch: its awaited origins, or how it ended."""
    told = {}
    for event in pair.done:
        told[event.token] = set(event.origins) if isinstance(event, Awaited) else event
    return told


def wait(pair, seconds):
    for _ in range(round(seconds * 10)):
        pair.advance(0.1)


def test_a_batch_that_is_soon_done_is_only_done(joined, batch):
    pair = joined(SHARED, {"a": ALL})
    pair.produce(batch([b"x"] * 4, ALL))
    pair.advance(0.9)
    assert pair.done == [Done("t", acked=4, lost=0, filtered=0)]


def test_who_gives_no_origins_hears_nothing_of_them(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, connect=False)
    pair.produce(batch_of([b"x"] * 4, ALL, token="t"))
    wait(pair, 5)
    assert pair.done == []


def test_only_shards_of_an_instance_that_is_away_are_awaited(joined, batch):
    pair = joined(REPLICATED, {"a": (0, 1), "b": (2, 3)}, connect=False)
    pair.connect("a")
    pair.produce(batch([b"x"] * 4, ALL, 1), flush=False)
    pair.produce(batch([b"y"] * 2, (0, 2), 2))
    pair.step()
    wait(pair, 1.2)
    assert awaited(pair) == {1: {12, 13}, 2: {12}}
    told = len(pair.done)
    wait(pair, 5)
    assert len(pair.done) == told, "nothing is told twice"
    pair.connect("b")
    pair.step()
    assert awaited(pair) == {1: Done(1, 4, 0, 0), 2: Done(2, 2, 0, 0)}


def test_large_batches_tell_of_all_their_blocks_together(joined, batch):
    pair = joined(REPLICATED, {"a": (0, 1), "b": (2, 3)}, connect=False, buffer={"max_buffer_size": 1 << 20})
    pair.connect("a")
    pair.produce(batch([b"x" * 1000] * 400, [k % 4 if k > 350 else 0 for k in range(400)]))
    pair.step()
    wait(pair, 1.2)
    assert awaited(pair) == {"t": {12, 13}}


def test_a_replica_that_cannot_be_reached_is_not_awaited_where_another_has_acked(joined, batch):
    pair = joined(REPLICATED, {"a": ALL, "b": (2, 3)}, connect=False)
    pair.connect("a")
    pair.consumers["a"].acks = False
    pair.produce(batch([b"0", b"1", b"2", b"3"], ALL))
    pair.step()
    wait(pair, 1.2)
    assert awaited(pair) == {"t": {10, 11, 12, 13}}
    pair.release("a")
    assert awaited(pair) == {"t": Done("t", 4, 0, 0)}


def test_what_another_service_still_has_to_take_is_awaited(joined, batch):
    pair = joined(SHARED, {"a": ALL})
    other = ServiceID("other", "env", "zone")
    pair.topic(pair.service(SHARED), pair.service(REPLICATED, name=other))
    pair.place({"b": ALL}, other)
    pair.produce(batch([b"x"] * 4, ALL))
    pair.step()
    wait(pair, 1.2)
    assert awaited(pair) == {"t": {10, 11, 12, 13}}


# --- messages that are overtaken


@pytest.mark.parametrize("apart", [False, True], ids=["in one batch", "in batches of their own"])
def test_a_message_that_its_consumer_leaves_aside_is_overtaken_and_awaited_no_more(joined, batch, apart):
    pair = joined(SHARED, {"a": ALL}, writer=RETRY)
    refuse(pair, "a", STUCK)
    if apart:
        pair.produce(batch([STUCK], [1]))
        pair.produce(batch([b"x", b"y"], [2, 3], "other"))
    else:
        pair.produce(batch([b"x", STUCK, b"y"], [0, 1, 2]))
    pair.step()
    wait(pair, 1.9)
    assert awaited(pair)["t"] == {11}
    wait(pair, 0.2)
    assert awaited(pair)["t"] == set()
    assert pair.figure("message-overtaken") == 1
    # It is sent again all the same.
    wait(pair, 5)
    assert pair.consumers["a"].values[STUCK] > 1
    refuse(pair, "a")
    wait(pair, 10)
    assert awaited(pair)["t"] == Done("t", acked=1 if apart else 3, lost=0, filtered=0)


def test_it_goes_on_to_be_so_window_after_window_and_holds_nothing_else(joined, batch):
    """One stuck value in every flush, on a connection of its own: the instance is not taken for dead."""
    pair = joined(SHARED, {"a": ALL}, num_connections=4, writer=RETRY, ttl_s=60)
    refuse(pair, "a", STUCK)
    for window in range(12):
        pair.produce(batch([STUCK, b"x"], [1, 2], window))
        wait(pair, 10)
        assert awaited(pair)[window] == set()
        assert all(
            lane.reachable and not lane.stalled for s in pair.core.services.values() for lane in s.lanes.values()
        )
    ended = [event for event in pair.done if isinstance(event, Done)]
    assert [(event.acked, event.lost, event.loss.reason) for event in ended[:3]] == [(1, 1, "ttl-expire")] * 3
    assert ended[0].loss.payload == STUCK


def test_a_consumer_that_acks_nothing_overtakes_nothing(joined, batch):
    pair = joined(SHARED, {"a": ALL})
    pair.consumers["a"].acks = False
    for k in range(5):
        pair.produce(batch([b"x"], [k % 4], k))
        wait(pair, 1)
    wait(pair, 8)
    assert set().union(*awaited(pair).values()) == {10, 11, 12, 13}
    assert not pair.figure("message-overtaken")


def test_a_slow_consumer_overtakes_nothing(joined, batch):
    """It acks in the order in which it got the messages, seconds after they were sent."""
    pair = joined(SHARED, {"a": ALL})
    consumer = pair.consumers["a"]
    consumer.acks = False
    for k in range(100):
        pair.produce(batch([b"%d" % k] * 4, ALL, k))
        pair.advance(0.1)
        if k >= 40:
            link, oldest = consumer.held.pop(0)
            oldest.ack()
            link.on_received(consumer.cores[link.index].take_acks(), pair.now)
    assert not pair.figure("message-overtaken")


def test_what_waits_for_a_connection_is_not_overtaken(joined, batch):
    pair = joined(SHARED, {"a": ALL}, num_connections=2)
    refuse(pair, "a", STUCK)
    pair.produce(batch([STUCK], [1], "lost"))
    pair.step()
    pair.disconnect("a")
    pair.links("a")[0].on_connected()
    pair.produce(batch([b"x"], [0], "other"))
    pair.step()
    wait(pair, 5)
    assert awaited(pair)["lost"] == {11}


def test_what_moves_to_another_consumer_is_awaited_again(joined, batch):
    pair = joined(SHARED, {"a": ALL, "b": ALL}, writer=RETRY)
    for endpoint in "ab":
        refuse(pair, endpoint, STUCK)
    pair.produce(batch([b"x"] * 4 + [STUCK] * 4, [*ALL, *ALL]))
    pair.step()
    wait(pair, 3)
    assert awaited(pair) == {"t": set()}
    owner = max("ab", key=lambda endpoint: pair.consumers[endpoint].values[STUCK])
    pair.disconnect(owner)
    wait(pair, 0.2)
    assert awaited(pair)["t"]


def test_status_names_policy_and_example_of_what_was_overtaken(joined, batch):
    pair = joined(SHARED, {"a": ALL})
    refuse(pair, "a", STUCK, b"other")
    policies, names = np.array([0, 1, 2], np.uint16), ("10s:2d", "1m:40d", "10s:31d")
    pair.produce(batch([b"x", b"other", STUCK], [0, 1, 1], policies=policies, policy_names=names), flush=False)
    pair.produce(batch([STUCK], [1], "again", policies=policies[2:], policy_names=names))
    pair.step()
    wait(pair, 2.5)
    (service,) = pair.core.services.values()
    asides = overtaken(service, pair.core.policies.names)
    assert {aside.instance for aside in asides} == {"id-a"}
    found = sorted((aside.policy, aside.messages, aside.example) for aside in asides)
    assert found == [("10s:31d", 2, STUCK), ("1m:40d", 1, b"other")]


# --- what was given up, and who holds whom up


def test_a_lost_message_is_named(joined, batch):
    pair = joined(SHARED, {"a": ALL}, connect=False, ttl_s=3)
    pair.produce(batch([b"first", b"second"], [0, 1]))
    wait(pair, 4)
    (end,) = [event for event in pair.done if isinstance(event, Done)]
    assert (end.lost, end.loss.reason, end.loss.consumer, end.loss.payload) == (2, "ttl-expire", "id-a", b"first")


def test_a_message_that_is_too_large_is_named(joined, batch):
    pair = joined(SHARED, {"a": ALL}, buffer={"max_message_size": 10})
    pair.produce(batch([b"x", b"y" * 20], [0, 1]))
    pair.step()
    (end,) = pair.done
    assert (end.acked, end.lost, end.loss.reason, end.loss.payload) == (1, 1, "message-too-large", b"y" * 20)


def test_a_shard_that_nobody_takes_is_named(joined, batch):
    pair = joined(REPLICATED, {"a": (0, 1, 2)})
    pair.produce(batch([b"x", b"y"], [0, 3]))
    pair.step()
    (end,) = pair.done
    assert (end.acked, end.lost, end.loss.reason, end.loss.payload) == (1, 1, "no consumer takes its shard", b"y")


def fill(pair, batch, shards, token="full"):
    """Twelve messages, more than the buffer of one instance."""
    for half in range(2):
        pair.produce(batch([b"x" * 1000] * 6, [shards[k % len(shards)] for k in range(6)], (token, half)))
        pair.step()


def test_a_service_that_is_away_delays_no_other_once_its_buffer_is_full(joined, batch):
    pair = joined(SHARED, {"a": ALL}, buffer={"max_buffer_size": 10_000, "max_message_size": 2000})
    other = ServiceID("other", "env", "zone")
    pair.topic(pair.service(SHARED), pair.service(SHARED, name=other))
    pair.place({"b": ALL}, other)
    pair.connect("b")
    pair.disconnect("b")
    fill(pair, batch, list(ALL))
    assert pair.core.room() < 5000, "it may be back in a moment"
    wait(pair, 11)
    assert pair.core.room() == 10_000
    fill(pair, batch, list(ALL), "next")
    assert pair.consumers["a"].values[b"x" * 1000] == 24
    assert awaited(pair)["full", 0].lost == 6
    pair.disconnect("a")
    fill(pair, batch, list(ALL), "last")
    wait(pair, 11)
    assert pair.core.room() < 5000, "where all are away, output waits"


def test_shards_whose_instances_are_away_delay_no_others_once_their_buffer_is_full(joined, batch):
    pair = joined(
        REPLICATED,
        {"a": (0, 1), "b": (2, 3)},
        connect=False,
        buffer={"max_buffer_size": 10_000, "max_message_size": 2000},
    )
    pair.connect("a", "b")
    pair.disconnect("b")
    fill(pair, batch, [2, 3])
    assert pair.core.room() < 5000
    wait(pair, 11)
    assert pair.core.room() == 10_000
    pair.connect("b")
    pair.step()
    assert pair.core.room() == 10_000


def test_it_is_saturated_while_every_consumer_that_is_there_has_enough_to_do(joined, batch_of):
    pair = joined(SHARED, {"a": (0, 1), "b": (2, 3)})
    many = 1 << 15

    def saturated():
        return pair.core.saturated(pair.now)

    def send(shard, count):
        """Not acked yet."""
        pair.produce(batch_of([b"x"] * count, [shard] * count))
        for link in pair.core.links():
            pair.write(link)

    assert not saturated()
    send(0, many)
    assert not saturated(), "b has nothing to do"
    send(2, many - 1)
    assert not saturated()
    send(3, 1)
    assert saturated()
    pair.disconnect("b")
    assert not saturated(), "what is enough for two is not for one"
    send(1, many)
    assert saturated(), "who is away is not looked at"
    pair.disconnect("a")
    assert not saturated()


def test_each_two_seconds_of_silence_let_as_much_through_once_more(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, writer=RETRY)
    many = 1 << 16
    assert not pair.core.saturated(pair.now), "it has nothing yet"
    for _ in range(3):
        pair.produce(batch_of([b"x"] * many, [0] * many))
        for link in pair.core.links():
            pair.write(link)
        assert pair.core.saturated(pair.now)
        pair.now = Moment(pair.now.wall_ns + 2 * 10**9, pair.now.steady_ns + 2 * 10**9)
        assert not pair.core.saturated(pair.now), "nothing was acked for two seconds more"


def test_what_is_never_acked_saturates_nobody(joined, batch_of):
    pair = joined(SHARED, {"a": ALL}, writer=RETRY)
    refuse(pair, "a", STUCK)
    many = 1 << 16
    pair.produce(batch_of([STUCK] * many, [0] * many))
    pair.step()
    assert pair.core.saturated(pair.now)
    pair.now = Moment(pair.now.wall_ns + 2 * 10**9, pair.now.steady_ns + 2 * 10**9)
    assert not pair.core.saturated(pair.now), "nothing has been acked for two seconds"
    pair.produce(batch_of([b"x"], [0]))
    pair.step()
    assert pair.core.saturated(pair.now), "now something has"
    wait(pair, 2.2)
    pair.produce(batch_of([b"y"], [0]))
    pair.step()
    assert pair.core.pending == many
    assert not pair.core.saturated(pair.now), "all others were overtaken"


@pytest.mark.parametrize("count", [10, 3000, 200_000])
def test_what_is_acked_is_not_kept(joined, count):
    pair = joined(SHARED, {"a": ALL}, num_connections=2, writer=RETRY)
    gc.collect()
    gc.disable()
    try:
        payload = np.zeros(count, np.uint8)
        left = weakref.ref(payload)
        shards = np.arange(count, dtype=np.uint32) % 4
        pair.produce(MessageBatch(payload, np.arange(count + 1), shards, token="t", origins=shards))
        del payload
        assert left() is not None
        pair.step()
        assert pair.done == [Done("t", acked=count, lost=0, filtered=0)]
        assert left() is None, "neither what is to be sent again nor what is looked at holds it"
    finally:
        gc.enable()


def test_what_a_replica_lacks_is_kept_until_it_has_it(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, connect=False)
    pair.connect("a")
    pair.produce(batch_of([b"value"] * 4, ALL, "t"))
    pair.step()
    assert pair.done == [Done("t", acked=4, lost=0, filtered=0)]
    pair.connect("b")
    pair.step()
    assert pair.consumers["b"].values == {b"value": 4}
