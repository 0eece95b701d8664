"""How batches end for an owner who has to answer for them: ``acked`` counts what every service has, and nothing else."""

import pytest
from tests.m3msg.producer_pair import FakeConsumer

from m3cluster.topic import ConsumptionType, ServiceID
from m3msg.producer import Awaited, Done, Secured
from m3msg.producer.options import MessageRetryOptions
from m3x.config import Duration

SHARED, REPLICATED = ConsumptionType.SHARED, ConsumptionType.REPLICATED
OTHER = ServiceID("other", "env", "zone")
ALL = range(4)
RETRY = {"message_retry": MessageRetryOptions(initial_backoff=Duration(5 * 10**9), jitter=False)}
SMALL = {"max_buffer_size": 10_000, "max_message_size": 2000}


def ends(pair):
    """How each batch ended, by token; a batch ends once."""
    found = [event for event in pair.done if isinstance(event, Done)]
    assert len({done.token for done in found}) == len(found)
    return {done.token: done for done in found}


def wait(pair, seconds):
    for _ in range(round(seconds * 10)):
        pair.advance(0.1)


def two_services(pair, kind=REPLICATED):
    pair.topic(pair.service(REPLICATED), pair.service(kind, name=OTHER))
    pair.place({"x": ALL}, OTHER)
    pair.connect("x")


# --- acks


def test_acks_come_in_any_order(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL})
    pair.consumers["a"].acks = False
    for token in range(4):
        pair.produce(batch_of([b"x"] * 4, ALL, token))
        pair.step()
    held = pair.consumers["a"].held
    for token in (2, 0, 3, 1):
        link, batch = held[token]
        batch.ack()
        link.on_received(pair.consumers["a"].cores[link.index].take_acks(), pair.now)
        pair.collect()
        assert pair.done[-1] == Done(token, 4, 0, 0)
    assert len(ends(pair)) == 4


def test_both_services_have_to_ack(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL})
    two_services(pair)
    pair.consumers["x"].acks = False
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    pair.step()
    assert ends(pair) == {}
    pair.release("x")
    assert ends(pair) == {"t": Done("t", 4, 0, 0)}


def test_a_replica_that_is_away_is_not_waited_for_and_one_has_to_ack(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL})
    pair.disconnect("b")
    pair.produce(batch_of([b"x"], [0], "without b"))
    pair.step()
    assert ends(pair) == {"without b": Done("without b", 1, 0, 0)}
    pair.disconnect("a")
    pair.produce(batch_of([b"y"], [0], "without both"))
    wait(pair, 60)
    assert "without both" not in ends(pair)
    pair.connect("b")
    pair.step()
    assert ends(pair)["without both"] == Done("without both", 1, 0, 0)


def test_replicas_that_die_one_after_the_other_before_their_acks_leave_the_batch_open(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL})
    pair.consumers["a"].acks = pair.consumers["b"].acks = False
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    pair.step()
    pair.disconnect("a")
    pair.disconnect("b")
    wait(pair, 30)
    assert ends(pair) == {}


# --- what is stuck holds only its own batch


@pytest.mark.parametrize("stuck_first", [True, False])
def test_a_batch_does_not_wait_for_another_that_it_was_joined_with(joined, batch_of, stuck_first):
    """The instance of shards 2 and 3 is away."""
    pair = joined(REPLICATED, {"a": (0, 1), "b": (2, 3)}, connect=False)
    pair.connect("a")
    batches = {"stuck": batch_of([b"x"] * 4, ALL, "stuck"), "free": batch_of([b"y"] * 2, (0, 1), "free")}
    for token in sorted(batches, reverse=stuck_first):
        pair.produce(batches[token], flush=False)
    pair.produce(batch_of([b"z"], [1], "free, too"))
    pair.step()
    assert ends(pair) == {}, "they are one block"
    wait(pair, 1.2)
    assert ends(pair) == {"free": Done("free", 2, 0, 0), "free, too": Done("free, too", 1, 0, 0)}
    pair.connect("b")
    pair.step()
    assert ends(pair)["stuck"] == Done("stuck", 4, 0, 0)


def test_a_message_that_is_never_acked_holds_only_its_own_batch_and_overtaken_is_not_acked(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL}, writer=RETRY)
    pair.consumers["a"].refuses = lambda value: value == b"stuck"
    pair.produce(batch_of([b"x", b"stuck"], [0, 1], "stuck"), flush=False)
    pair.produce(batch_of([b"y"], [1], "free"))
    pair.step()
    wait(pair, 30)
    assert pair.figure("message-overtaken") == 1
    assert ends(pair) == {"free": Done("free", 1, 0, 0)}


def test_what_has_ended_is_not_kept_by_a_block_that_is_stuck(joined, batch_of):
    pair = joined(REPLICATED, {"a": (0, 1), "b": (2, 3)}, connect=False)
    pair.connect("a")
    pair.produce(batch_of([b"x"], [2], "stuck"), flush=False)
    pair.produce(batch_of([b"x"], [3], "stuck, too"))
    for token in range(1000):
        pair.produce(batch_of([b"y"], [0], token), flush=False)
        pair.produce(batch_of([b"y"], [1], -1 - token))
        pair.advance(0.1)
    assert len(ends(pair)) == 2000
    assert len(pair.core._watched) < 100


# --- one replica has it, another one owes its ack


def secured(pair):
    """Tokens of the batches that were said to be secured; each is said once."""
    found = [event.token for event in pair.done if isinstance(event, Secured)]
    assert len(set(found)) == len(found)
    return set(found)


def test_after_a_second_one_replica_is_enough_to_be_secured(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, tell_secured=True)
    pair.consumers["b"].refuses = lambda value: value == b"stuck"
    pair.produce(batch_of([b"x"] * 4, ALL, "free"))
    pair.step()
    pair.produce(batch_of([b"x", b"stuck"], [0, 1], "stuck"), flush=False)
    pair.produce(batch_of([b"y"], [1], "joined with it"))
    pair.step()
    wait(pair, 0.9)
    assert (set(ends(pair)), secured(pair)) == ({"free"}, set())
    wait(pair, 0.2)
    assert (set(ends(pair)), secured(pair)) == ({"free", "joined with it"}, {"stuck"})
    assert not any(block.watched for block in pair.core._watched)


def test_without_any_ack_nothing_is_secured(joined, batch_of):
    pair = joined(REPLICATED, {"a": (0, 1, 2), "b": (1, 2, 3)}, tell_secured=True)
    pair.consumers["a"].acks = False
    pair.produce(batch_of([b"x"] * 3, (1, 2, 3), "b has it"))
    pair.produce(batch_of([b"x"] * 4, ALL, "but for shard 0"))
    pair.step()
    wait(pair, 5)
    assert secured(pair) == {"b has it"}
    pair.release("a")
    assert set(ends(pair)) == {"b has it", "but for shard 0"}
    assert secured(pair) == {"b has it"}


def test_every_service_has_to_have_an_ack_to_be_secured(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, tell_secured=True)
    two_services(pair)
    pair.consumers["a"].acks = pair.consumers["x"].acks = False
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    pair.step()
    wait(pair, 3)
    assert secured(pair) == set()
    pair.release("x")
    wait(pair, 0.2)
    assert secured(pair) == {"t"}


def test_a_batch_in_several_blocks_is_secured_as_a_whole(joined, batch_of):
    buffer = {"max_buffer_size": 1 << 20}
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, tell_secured=True, buffer=buffer, writer=RETRY)
    pair.consumers["b"].acks = False
    pair.consumers["a"].refuses = lambda value: value[:5] == b"stuck"
    values = [b"x" * 1000] * 400
    values[-1] = b"stuck" * 200
    pair.produce(batch_of(values, [k % 4 for k in range(400)], "t"))
    pair.step()
    wait(pair, 3)
    assert secured(pair) == set()
    pair.consumers["a"].refuses = lambda _: False
    wait(pair, 10)
    assert secured(pair) == {"t"}


def test_what_was_given_up_in_part_is_not_secured(joined, batch_of):
    """The instance of shards 2 and 3 is away until the buffer for it is full; another replica of the others owes acks."""
    pair = joined(REPLICATED, {"a": (0, 1), "b": (2, 3), "c": (0, 1)}, connect=False, buffer=SMALL, tell_secured=True)
    pair.connect("a", "c")
    pair.consumers["c"].acks = False
    pair.produce(batch_of([b"x" * 100] * 4, ALL, "t"))
    for token in range(12):
        pair.produce(batch_of([b"x" * 1000], [2], token))
    pair.step()
    wait(pair, 5)
    assert secured(pair) == set()
    pair.release("c")
    assert (ends(pair)["t"].acked, ends(pair)["t"].lost) == (2, 2)


def test_who_does_not_ask_hears_nothing_of_it(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL, "b": ALL})
    pair.consumers["b"].acks = False
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    pair.step()
    wait(pair, 5)
    assert pair.done == []


# --- what is given up


def test_what_a_full_buffer_drops_is_not_acked(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL}, connect=False, buffer=SMALL)
    for token in range(12):
        pair.produce(batch_of([b"x" * 1000], [token % 4], token))
    dropped = ends(pair)
    assert list(dropped) == list(range(len(dropped)))
    assert all((done.acked, done.lost, done.loss.reason) == (0, 1, "buffer-full") for done in dropped.values())
    pair.connect("a")
    pair.step()
    assert all(ends(pair)[token] == Done(token, 1, 0, 0) for token in range(len(dropped), 12))


def test_what_outlives_the_ttl_is_not_acked(joined, batch_of):
    pair = joined(REPLICATED, {"a": (0, 1), "b": (2, 3)}, connect=False, ttl_s=10)
    pair.connect("a")
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    wait(pair, 11)
    (done,) = ends(pair).values()
    assert (done.acked, done.lost, done.loss.reason, done.loss.consumer) == (2, 2, "ttl-expire", "id-b")


def test_what_a_closed_producer_holds_is_not_acked(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL}, connect=False)
    pair.produce(batch_of([b"x"], [0], "block"))
    pair.produce(batch_of([b"x"], [0], "not yet a block"), flush=False)
    pair.core.close()
    pair.collect()
    assert ends(pair) == {"block": Done("block", 0, 1, 0), "not yet a block": Done("not yet a block", 0, 1, 0)}


# --- placements and topics that change


def test_shards_that_move_take_what_is_unacked_along(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL}, connect=False)
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    pair.place({"a": (0, 1), "b": (2, 3)})
    pair.connect("a")
    pair.step()
    assert ends(pair) == {}
    pair.connect("b")
    pair.step()
    assert ends(pair) == {"t": Done("t", 4, 0, 0)}


def test_what_no_instance_left_has_acked_is_closed_not_acked(joined, batch_of):
    """Both replicas own the shards; the one that leaves has acked nothing, nor has the other."""
    pair = joined(REPLICATED, {"a": ALL, "b": ALL}, connect=False)
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    pair.place({"b": ALL})
    assert ends(pair) == {}
    pair.place({"b": (0, 1)})
    pair.connect("b")
    pair.step()
    assert ends(pair) == {"t": Done("t", 2, 0, 0, closed=2)}


def test_an_ack_of_one_service_is_none_of_another_whose_instance_left(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL})
    two_services(pair)
    pair.disconnect("x")
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    pair.step()
    pair.place({"x": (0, 1)}, OTHER)
    pair.connect("x")
    pair.step()
    assert ends(pair) == {"t": Done("t", 2, 0, 0, closed=2)}


def test_a_service_that_leaves_the_topic_is_not_waited_for(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL})
    two_services(pair)
    pair.disconnect("x")
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    pair.step()
    assert ends(pair) == {}
    pair.topic(pair.service(REPLICATED))
    pair.collect()
    assert ends(pair) == {"t": Done("t", 4, 0, 0)}


def test_the_last_service_that_leaves_the_topic_acks_nothing(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL}, connect=False)
    pair.produce(batch_of([b"x"] * 4, ALL, "t"))
    pair.topic()
    pair.collect()
    assert ends(pair) == {"t": Done("t", 0, 0, 0, closed=4)}


def test_a_service_that_comes_later_is_not_waited_for_and_wants_what_comes_later(joined, batch_of):
    pair = joined(REPLICATED, {"a": ALL}, connect=False)
    pair.produce(batch_of([b"x"], [0], "before"))
    pair.consumers["x"] = FakeConsumer(acks=False)
    two_services(pair)
    pair.connect("a")
    pair.produce(batch_of([b"y"], [0], "after"))
    pair.step()
    assert ends(pair) == {"before": Done("before", 1, 0, 0)}
    pair.release("x")
    assert ends(pair)["after"] == Done("after", 1, 0, 0)


def test_nobody_hears_of_origins_who_gave_none(joined, batch_of):
    pair = joined(REPLICATED, {"a": (0, 1), "b": (2, 3)}, connect=False)
    pair.connect("a")
    pair.produce(batch_of([b"x"] * 4, ALL, "stuck"), flush=False)
    pair.produce(batch_of([b"y"], [0], "free"))
    wait(pair, 5)
    assert not any(isinstance(event, Awaited) for event in pair.done)
