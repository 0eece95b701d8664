"""Shards whose nodes do not answer."""

import numpy as np

from coordinator.sinks.m3db.ailing import Ailing

SECOND = 10**9
ROWS = np.array([0, 1, 2, 1, 3], np.uint32)


def test_they_are_left_alone_for_a_while_or_until_one_of_them_is_written() -> None:
    ailing = Ailing(4)
    assert not ailing.among(ROWS, 0).any()
    assert not ailing.any(0)
    ailing.unanswered(np.array([1, 3, 1], np.uint32), 0, "silent")
    assert ailing.among(ROWS, SECOND).tolist() == [False, True, False, True, True]
    assert ailing.why == "silent"
    assert ailing.any(SECOND)
    assert not ailing.any(6 * SECOND)
    ailing.written(np.array([1, 0], np.uint32))
    assert ailing.among(ROWS, SECOND).tolist() == [False, False, False, False, True]
    assert not ailing.among(ROWS, 6 * SECOND).any()
