import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes, decode_flush_times, encode_flush_times
from m3cluster.proto import DecodeError

int64s = st.integers(-(1 << 63), (1 << 63) - 1)
by_resolution = st.dictionaries(int64s, int64s, max_size=3)
shards = st.builds(
    ShardFlushTimes,
    standard=by_resolution,
    timed=by_resolution,
    forwarded=st.dictionaries(int64s, st.dictionaries(st.integers(0, 5), int64s, max_size=2), max_size=2),
    tombstoned=st.booleans(),
)
all_times = st.builds(ShardSetFlushTimes, st.dictionaries(st.integers(0, 1023), shards, max_size=4))


@given(all_times)
def test_what_is_written_is_read_back(times):
    assert decode_flush_times(encode_flush_times(times)) == times


def test_the_layout_is_that_of_gos_generated_code():
    times = ShardSetFlushTimes({0: ShardFlushTimes(standard={10: 0}, timed={10: 5}, forwarded={60: {1: 7}})})
    assert encode_flush_times(times).hex(" ") == (
        "0a 1c 08 00 12 18 "  # shard 0
        "0a 04 08 0a 10 00 "  # standard: key and value are always there
        "1a 0a 08 3c 12 06 0a 04 08 01 10 07 "  # forwarded
        "22 04 08 0a 10 05"  # timed
    )


def test_nothing_written_yet_is_empty_and_damage_is_named():
    assert decode_flush_times(b"") == ShardSetFlushTimes()
    with pytest.raises(DecodeError, match="flush.ShardSetFlushTimes"):
        decode_flush_times(b"\x0a\x05")


def test_an_entry_without_a_value_is_empty():
    stored = bytes.fromhex("0a 02 08 050a 08 08 06 12 04 1a 02 08 3c")
    expected = ShardSetFlushTimes({5: ShardFlushTimes(), 6: ShardFlushTimes(forwarded={60: {}})})
    assert decode_flush_times(stored) == expected
