"""How long ingest stands still, of what connections have seen."""

from bench.pauses import Gap, gaps


def test_a_gap_is_between_acks_of_any_connection() -> None:
    sends = [[(0.0, 0), (1.0, 10)], [(0.5, 0)]]
    acks = [[(2.0, 10), (5.0, 20)], [(3.0, 8)]]
    assert list(gaps(sends, acks)) == [Gap(0.0, 2.0, 2.0), Gap(2.0, 3.0, 2.5), Gap(3.0, 5.0, 4.0)]


def test_while_nothing_waits_there_is_no_gap() -> None:
    assert list(gaps([[(0.0, 0), (7.0, 10)]], [[(1.0, 10), (8.0, 15), (9.0, 20)]])) == [
        Gap(0.0, 1.0, 1.0), Gap(7.0, 8.0, 1.0), Gap(8.0, 9.0, 2.0),
    ]  # fmt: skip


def test_a_connection_whose_messages_wait_makes_a_gap_while_another_one_is_quiet() -> None:
    sends = [[(0.0, 0)], [(1.0, 0)]]
    assert list(gaps(sends, [[(2.0, 5)], [(6.0, 5)]])) == [Gap(0.0, 2.0, 2.0), Gap(2.0, 6.0, 5.0)]
