"""Messages into columns: verdicts, policies, times; the kernel's path and the plain one give the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.ingest.translate import Translator, Verdict
from coordinator.sinks.values import milliseconds
from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.ids import decode_tags
from m3metrics.policy import StoragePolicy
from m3x.protobuf import varint

POLICIES = [StoragePolicy.parse(text) for text in ("10s:6h", "1m:2d")]


class FewNamespaces:
    """Those of ``POLICIES``; what is kept for a second is thrown away."""

    def verdict(self, policy: StoragePolicy) -> tuple[Verdict, int, str]:
        if policy.window_ns == 10**9:
            return Verdict.BLACKHOLE, 0, ""
        for index, one in enumerate(POLICIES):
            if one.equivalent(policy):
                return Verdict.WRITE, index, ""
        return Verdict.NO_NAMESPACE, 0, f"nowhere to put {policy}"


@pytest.fixture
def translator() -> Translator:
    return Translator(FewNamespaces())


def test_verdicts_and_columns(translator: Translator, message: Callable[..., bytes], pack: Callable[..., Any]) -> None:
    messages = [
        message("a", 1_700_000_000_123_456_789, 1.5),
        message("b", -5_000_000_001, -2.0, "1m@1s:2d"),
        b"\xff\xff",
        message("c", 0, float("inf"), "1s:1h"),
        message("d", 0, 1.0, "10s:2d"),
        message("e", 10**10, float("nan"), suffix=b".p99"),
        b"",
    ]
    for _ in range(2):
        buf, starts, ends = pack(messages)
        translation = translator.translate(buf, starts, ends)
        write, bad = Verdict.WRITE, Verdict.DECODE_ERROR
        assert translation.verdicts.tolist() == [write, write, bad, Verdict.BLACKHOLE, Verdict.NO_NAMESPACE, write, bad]
        assert translation.rows.tolist() == [0, 1, 5]
        assert milliseconds(translation.batch.time_ns).tolist() == [1_700_000_000_123, -5000, 10_000]
        assert translation.batch.policies.tolist() == [0, 1, 0]
        assert translation.batch.values[0] == 1.5
        assert translation.batch.values[1] == -2.0
        assert np.isnan(translation.batch.values[2])
        undecodable, homeless = translation.rejected
        assert undecodable.rows.tolist() == [2, 6]
        assert (homeless.rows.tolist(), homeless.text) == ([4], "nowhere to put 10s:2d")
        assert homeless.policy == StoragePolicy.parse("10s:2d")
        assert decode_tags(homeless.metric)[-1] == (b"__name__", b"d")
        at, size = translation.batch.id_at[2], translation.batch.id_size[2]
        assert translation.batch.buf[at : at + size].tobytes().endswith(b".p99")


metrics = st.builds(
    AggregatedMetric,
    id=st.binary(max_size=200),
    time_ns=st.integers(-(2**63), 2**63 - 1),
    value=st.floats(width=64, allow_nan=False),
    annotation=st.binary(max_size=5),
    storage_policy=st.sampled_from([*POLICIES, StoragePolicy.parse("5m:1y")]),
    metric_type=st.integers(0, 3),
)


@given(st.lists(st.tuples(metrics, st.booleans()), max_size=8))
def test_the_plain_path_gives_what_the_kernel_gives(listed: list[tuple[AggregatedMetric, bool]]) -> None:
    # An unknown field makes a message one for the plain decoder.
    messages = [encode_aggregated(metric) + (b"\x78\x01" if odd else b"") for metric, odd in listed]
    ends = np.cumsum([len(one) for one in messages], dtype=np.int64)
    starts = ends - np.array([len(one) for one in messages], np.int64)
    buf = np.frombuffer(bytearray(b"".join(messages)) or bytearray(1), np.uint8)
    translation = Translator(FewNamespaces()).translate(buf, starts, ends)
    known = [metric for metric, _ in listed if metric.storage_policy in POLICIES]
    batch = translation.batch
    assert [batch.buf[a : a + n].tobytes() for a, n in zip(batch.id_at, batch.id_size, strict=True)] == [
        m.id for m in known
    ]
    assert batch.values.tolist() == [m.value for m in known]
    assert batch.time_ns.tolist() == [m.time_ns for m in known]
    assert milliseconds(batch.time_ns).tolist() == [
        abs(m.time_ns) // 10**6 * (1 if m.time_ns > 0 else -1) for m in known
    ]
    assert [POLICIES[i] for i in batch.policies] == [m.storage_policy for m in known]


def test_any_number_of_policies_may_be_named(translator: Translator, pack: Callable[..., Any]) -> None:
    def with_period(period_ns: int) -> bytes:
        resolution = b"\x08" + varint(10**10) + b"\x10" + varint(10**9)
        retention = b"\x08" + varint(period_ns)
        policy = b"\x0a" + varint(len(resolution)) + resolution + b"\x12" + varint(len(retention)) + retention
        metric = b"\x0a\x03\x12\x01x" + b"\x12" + varint(len(policy)) + policy
        return b"\x0a" + varint(len(metric)) + metric

    translation = None
    for first in range(0, 12_000, 3000):
        buf, starts, ends = pack(
            [with_period(10**9 + i) for i in range(first, first + 3000)] + [with_period(6 * 3600 * 10**9)]
        )
        translation = translator.translate(buf, starts, ends)
        assert translation.verdicts.tolist() == [Verdict.NO_NAMESPACE] * 3000 + [Verdict.WRITE]


def test_a_large_first_batch_is_judged_as_a_whole(
    translator: Translator, message: Callable[..., bytes], pack: Callable[..., Any]
) -> None:
    policies = ["10s:6h", "10s:2d", "1s:1h", "7s:1h"]
    translation = translator.translate(*pack([message("a", 0, 1.0, policies[i % 4]) for i in range(20_000)]))
    verdicts = [Verdict.WRITE, Verdict.NO_NAMESPACE, Verdict.BLACKHOLE, Verdict.NO_NAMESPACE]
    assert translation.verdicts.tolist() == verdicts * 5000
    assert [rejected.rows.tolist() for rejected in translation.rejected] == [
        list(range(1, 20_000, 4)),
        list(range(3, 20_000, 4)),
    ]
