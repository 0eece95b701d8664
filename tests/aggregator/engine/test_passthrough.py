"""Passthrough metrics that wait."""

import numpy as np
import pytest

from aggregator.engine import passthrough
from aggregator.engine import reasons as why
from aggregator.engine.passthrough import Passthrough
from aggregator.engine.tables.layout import MAX_COUNTS
from m3metrics.codec import TimedMetricWithStoragePolicy
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy


def metric(number: int) -> TimedMetricWithStoragePolicy:
    return TimedMetricWithStoragePolicy(
        metric_type=MetricType.GAUGE,
        id=b"passed-%d" % number,
        time_ns=number,
        value=1.0,
        storage_policy=StoragePolicy.parse("10s:2d"),
    )


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are dropped and counted; there is room again when somebody has taken the others."""
    monkeypatch.setattr(passthrough, "MAX_BYTES", 1000)
    counts = np.zeros(MAX_COUNTS, np.int64)
    waiting = Passthrough(counts, 64)
    for number in range(100):
        waiting.add(metric(number))
    batch = waiting.take()
    assert batch is not None
    assert 0 < batch.size_bytes <= 1000
    assert (counts[why.C_PASSTHROUGH], counts[why.C_PASSED]) == (100, len(batch))
    assert counts[why.C_PASSED_DROPPED] == 100 - len(batch) > 0
    assert not waiting.waiting
    waiting.add(metric(1))
    assert waiting.waiting
