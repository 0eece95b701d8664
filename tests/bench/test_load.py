"""How long messages of the load generator wait for their acks."""

from bench.load import waits


def test_while_messages_wait_the_time_between_two_acks_counts() -> None:
    assert list(waits([0.0], [(1.0, 10), (4.0, 30), (4.5, 40)], 100)) == [(1.0, 4.0), (4.0, 4.5)]


def test_while_the_next_replay_is_made_nothing_waits() -> None:
    acked_at = [(1.0, 50), (2.0, 100), (9.0, 150), (9.5, 200)]
    assert list(waits([0.0, 8.0], acked_at, 100)) == [(1.0, 2.0), (8.0, 9.0), (9.0, 9.5)]


def test_a_replay_that_began_before_the_last_ack_of_the_one_before_waits_from_that_ack_on() -> None:
    assert list(waits([0.0, 1.5], [(2.0, 100), (3.0, 200)], 100)) == [(2.0, 3.0)]
