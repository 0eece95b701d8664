"""Durations and policies beyond the vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3metrics.errors import PolicyError
from m3metrics.policy import UNITS, Resolution, StoragePolicy, format_duration, max_unit, parse_duration, same_policies


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_duration_round_trip(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == ns
    count, unit = max_unit(ns)
    assert count * UNITS[unit] == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (2**63 - 1, "292y171d23h47m16s854ms775us807ns"),
        (-(2**63) + 1, "-292y171d23h47m16s854ms775us807ns"),
        # Its negative does not fit into 64 bits.
        (-(2**63), "-"),
    ],
)
def test_durations_at_the_ends(ns: int, text: str) -> None:
    assert format_duration(ns) == text


@given(st.integers(-(2**50), 2**50), st.sampled_from(list(UNITS.values())), st.integers(1, 2**50))
def test_policy_round_trip(window_ns: int, precision_ns: int, retention_ns: int) -> None:
    policy = StoragePolicy(window_ns, precision_ns, retention_ns)
    assert StoragePolicy.parse(str(policy)) == policy
    assert Resolution.parse(str(policy.resolution)) == policy.resolution


@given(st.text(alphabet="0123456789smhdwyunio@:-. ٣", max_size=12))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        policy = StoragePolicy.parse(text)
    except PolicyError:
        return
    assert StoragePolicy.parse(str(policy)) == policy


def test_comparisons() -> None:
    minute, minute_in_seconds = StoragePolicy.parse("1m:1d"), StoragePolicy.parse("1m@1s:1d")
    assert minute != minute_in_seconds
    assert minute.equivalent(minute_in_seconds)
    assert same_policies((minute, minute_in_seconds), (minute_in_seconds, minute))
    assert not same_policies((minute,), (minute_in_seconds,))
    assert not same_policies((minute,), (minute, minute))
    assert same_policies((minute, minute), (minute, minute_in_seconds)), "asymmetric for duplicates, as in M3"


def test_sorts() -> None:
    texts = ["1m:1d", "10s:1d", "10s:2d", "1m@1s:1d"]
    policies = [StoragePolicy.parse(text) for text in texts]
    assert [str(p) for p in sorted(policies, key=StoragePolicy.by_resolution)] == [
        "10s:2d",
        "10s:1d",
        "1m@1s:1d",
        "1m:1d",
    ]
    assert [str(p) for p in sorted(policies, key=StoragePolicy.by_retention)] == [
        "10s:1d",
        "1m@1s:1d",
        "1m:1d",
        "10s:2d",
    ]


def test_a_precision_that_is_no_unit() -> None:
    with pytest.raises(PolicyError, match="time unit"):
        Resolution.parse("10s@2s")
