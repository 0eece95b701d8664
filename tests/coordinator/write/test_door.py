"""What is refused at the door: by each policy of a message, told in M3's words."""

from typing import Any

import numpy as np
import pytest

from coordinator.not_kept import Reason
from coordinator.write.door import Door, Refused
from m3metrics.codec import encode_staged_metadatas
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.past_limits import PastLimits
from m3metrics.policy import StoragePolicy
from m3metrics.rows import METRIC_TEMPLATE

S = 1_000_000_000
NOW = 1_795_951_000 * S
LIMITS = PastLimits(((0, 3 * S), (10 * S, 8 * S)))
FIVE, TEN = StoragePolicy.parse("5s:1h"), StoragePolicy.parse("10s:2h")


def metadatas(*policies: StoragePolicy) -> bytes:
    return encode_staged_metadatas(
        (StagedMetadata(pipelines=tuple(PipelineMetadata(storage_policies=(p,)) for p in policies)),)
    )


TEMPLATES = (metadatas(FIVE), metadatas(FIVE, TEN), metadatas(TEN))


class Judged:
    """Messages as (template, age in seconds, sample), judged."""

    def __init__(self, *messages: tuple[int, float, int], untimed: bool = False) -> None:
        arena = np.frombuffer(b"".join(TEMPLATES), np.uint8)
        templates = np.zeros(len(TEMPLATES), METRIC_TEMPLATE)
        at = 0
        for row, data in zip(templates, TEMPLATES, strict=True):
            row["meta_at"], row["meta_size"], row["untimed"] = at, len(data), untimed
            at += len(data)
        which = np.array([one[0] for one in messages])
        times = np.array([NOW - round(one[1] * S) for one in messages])
        self.refused = Refused()
        samples = np.array([one[2] for one in messages])
        found = Door(LIMITS, lambda: NOW).judge(arena, templates, which, times, lambda: samples, self.refused)
        self.sent: list[Any] | None = None if found is None else found.tolist()


def test_what_is_in_time_is_not_looked_at() -> None:
    judged = Judged((0, 3.0, 0), (1, 0.0, 1), (2, -60.0, 2))
    assert judged.sent is None
    assert judged.refused == Refused()


def test_a_late_sample_is_not_sent_and_told_by_how_much() -> None:
    judged = Judged((0, 3.25, 0), (0, 1.0, 1))
    assert judged.sent == [False, True]
    assert judged.refused.samples == 1
    assert judged.refused.not_sent == {Reason.TOO_LATE: 1}
    assert judged.refused.example == (b"", NOW - 3 * S - S // 4)
    limit = NOW - 3 * S
    assert judged.refused.last == (
        "datapoint for aggregation too far in past: off_by=250ms, timestamp=2026-11-29T11:16:36Z, past_limit=2026-11-29T11:16:37Z, "
        f"timestamp_unix_nanos={limit - S // 4}, past_limit_unix_nanos={limit}"
    )


def test_what_one_policy_takes_is_sent_and_refused_all_the_same() -> None:
    judged = Judged((1, 5.0, 0))
    assert judged.sent == [True]
    assert (judged.refused.samples, judged.refused.not_sent) == (1, {})
    assert "off_by=2s" in judged.refused.last


def test_each_policy_that_refuses_has_a_line() -> None:
    judged = Judged((1, 9.0, 0))
    assert judged.sent == [False]
    assert [line.split("off_by=")[1].split(",")[0] for line in judged.refused.last.split("\n")] == ["6s", "1s"]


def test_a_sample_counts_once_however_many_ids_it_has_and_the_last_one_speaks() -> None:
    judged = Judged((0, 4.0, 0), (2, 9.0, 0), (0, 1.0, 1), (2, 1.0, 1))
    assert judged.sent == [False, False, True, True]
    assert judged.refused.samples == 1
    assert judged.refused.not_sent == {Reason.TOO_LATE: 1}
    assert "off_by=1s" in judged.refused.last
    partly = Judged((0, 4.0, 0), (2, 4.0, 0))
    assert partly.sent == [False, True]
    assert (partly.refused.samples, partly.refused.not_sent) == (1, {})


def test_a_sample_from_the_future_is_refused_by_every_policy() -> None:
    judged = Judged((1, -61.0, 0))
    assert judged.sent == [False]
    assert judged.refused.not_sent == {Reason.TOO_EARLY: 1}
    assert judged.refused.last.count("too far in future: off_by=1s") == 2


@pytest.mark.parametrize("age", [1e6, -1e6])
def test_untimed_messages_are_never_refused(age: float) -> None:
    assert Judged((0, age, 0), untimed=True).sent is None
