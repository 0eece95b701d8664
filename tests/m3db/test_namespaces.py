"""The registry of namespaces: what M3 would not load is refused with its text, and what the coordinator may write to."""

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3db.namespaces import (
    Aggregation,
    Index,
    Namespace,
    Namespaces,
    RegistryError,
    Retention,
    StagingState,
    decode_registry,
    encode_registry,
    targets_of,
)
from m3x.protobuf import DecodeError

HOUR = 3600 * 10**9
RETENTION = Retention(48 * HOUR, 2 * HOUR, buffer_future_ns=HOUR // 30, buffer_past_ns=HOUR // 6)


def ready(name: str, *aggregations: Aggregation, **more: Any) -> Namespace:
    return Namespace(name, RETENTION, aggregations=aggregations, staging=StagingState.READY, **more)


def registry(*namespaces: Namespace) -> Namespaces:
    return Namespaces({one.name: one for one in namespaces})


names = st.text("abz_0", min_size=1, max_size=4)
retentions = st.builds(
    Retention, st.integers(10, 1 << 62), st.just(10), st.integers(0, 9), st.integers(0, 9), st.booleans(),
    st.integers(0, 1 << 62), st.integers(10, 1 << 62),
)  # fmt: skip
namespaces_of_any_kind = st.builds(
    Namespace, names, retentions, st.builds(Index, st.booleans(), st.just(10)),
    st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans(),
    st.lists(st.builds(Aggregation, st.integers(1, 1 << 62), st.booleans()) | st.just(Aggregation())).map(tuple),
    st.sampled_from(StagingState),
)  # fmt: skip


@given(st.lists(namespaces_of_any_kind, min_size=1, unique_by=lambda one: one.name))
def test_what_is_written_is_read_again(found: list[Namespace]) -> None:
    assert decode_registry(encode_registry(found), 3) == Namespaces({one.name: one for one in found}, 3)


@given(st.binary())
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(RegistryError, DecodeError):
        decode_registry(data)


def with_retention(**changed: int) -> Namespace:
    return replace(ready("x"), retention=replace(RETENTION, **changed))


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (with_retention(buffer_future_ns=-1), "buffer future must be non-negative"),
        (with_retention(buffer_past_ns=-1), "buffer past must be non-negative"),
        (with_retention(block_size_ns=0), "block size must positive"),
        (with_retention(buffer_future_ns=2 * HOUR), "buffer future must be smaller than block size"),
        (with_retention(buffer_past_ns=2 * HOUR), "buffer past must be smaller than block size"),
        (with_retention(period_ns=HOUR), "retention period must not be smaller than block size"),
        (ready("x", index=Index(True, 0)), "index block size must positive"),
        (ready("x", index=Index(True, 72 * HOUR)), "index block size needs to be <= namespace retention period"),
        (ready("x", index=Index(True, 3 * HOUR)), "index block size must be a multiple of data block size"),
        (
            replace(with_retention(future_period_ns=HOUR), index=Index(True, 2 * HOUR)),
            "index block size needs to be <= namespace retention period",
        ),
    ],
)
def test_what_m3_would_not_load(one: Namespace, text: str) -> None:
    with pytest.raises(RegistryError) as raised:
        decode_registry(encode_registry([ready("good"), one]))
    assert str(raised.value) == f"namespace x: {text}"


def entry(*fields: bytes) -> bytes:
    """A registry with one namespace ``x`` of these fields."""
    value = b"".join(fields)
    inner = b"\x0a\x01x\x12" + bytes([len(value)]) + value
    return b"\x0a" + bytes([len(inner)]) + inner


RETENTION_FIELD = b"\x32\x04\x08\x0a\x10\x0a"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no namespace metadata provided"),
        (entry(), "namespace x: retention options must be set"),
        (
            entry(RETENTION_FIELD, b"\x6a\x04\x0a\x02\x08\x01"),
            "namespace x: must set Attributes when aggregated is true",
        ),
        (
            entry(RETENTION_FIELD, b"\x6a\x06\x0a\x04\x08\x01\x12\x00"),
            "namespace x: invalid resolution 0s. must be greater than 0",
        ),
        (entry(RETENTION_FIELD, b"\x72\x02\x08\x03"), "namespace x: invalid namespace status: 3"),
    ],
)
def test_bytes_that_m3_would_not_load(data: bytes, text: str) -> None:
    with pytest.raises(RegistryError) as raised:
        decode_registry(data)
    assert str(raised.value) == text


def test_absent_messages_have_other_defaults_than_empty_ones() -> None:
    def all_of(downsample: bytes) -> bool:
        attributes = b"\x08\x05" + downsample
        aggregation = b"\x08\x01\x12" + bytes([len(attributes)]) + attributes
        options = b"\x0a" + bytes([len(aggregation)]) + aggregation
        data = entry(RETENTION_FIELD, b"\x6a" + bytes([len(options)]) + options)
        (kept,) = decode_registry(data).by_name["x"].aggregations
        return kept.downsample_all

    assert all_of(b"") is True
    assert all_of(b"\x12\x00") is False
    assert all_of(b"\x12\x02\x08\x01") is True
    one = decode_registry(entry(RETENTION_FIELD)).by_name["x"]
    assert one.index == Index(enabled=False, block_size_ns=10)
    assert (one.aggregations, one.staging) == ((), StagingState.UNKNOWN)


def test_targets() -> None:
    both = ready("both", Aggregation(), Aggregation(60 * 10**9, downsample_all=False))
    targets, problems = targets_of(registry(both))
    assert not problems
    assert targets.keys() == {(0, 0), (60 * 10**9, 48 * HOUR)}
    raw, aggregated = targets[0, 0], targets[60 * 10**9, 48 * HOUR]
    assert (raw.namespace.name, raw.retention_ns, raw.downsample_all) == ("both", 48 * HOUR, True)
    assert (aggregated.resolution_ns, aggregated.downsample_all) == (60 * 10**9, False)


def test_what_is_left_out_is_said() -> None:
    minute = Aggregation(60 * 10**9)
    targets, problems = targets_of(
        registry(
            ready("a", minute),
            ready("b", minute),
            ready("c"),
            replace(ready("d", minute), staging=StagingState.UNKNOWN),
        )
    )
    assert [target.namespace.name for target in targets.values()] == ["b"]
    assert problems == [
        "more than one aggregated namespace for retention=48h0m0s, resolution=1m0s: b is used, a is not",
        "no aggregations present for namespace c",
        "namespace d has non-ready staging state status (unknown): mark it ready",
    ]


def test_an_entry_without_a_value_is_named() -> None:
    with pytest.raises(RegistryError, match="^namespace x: namespace options must be set$"):
        decode_registry(bytes.fromhex("0a 03 0a 01") + b"x")
