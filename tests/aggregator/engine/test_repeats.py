"""Which messages are taken for one that was there before."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from aggregator.engine.ingest.repeats import message_key

COUNT = 2_000
SHARDS = st.integers(0, 4095)
HOSTS = st.integers(0, (1 << 32) - 1)
IDS = st.one_of(st.integers(0, 1 << 20), st.integers(0, (1 << 56) - COUNT))


def keys(shard: int, first: int, host: int) -> list[int]:
    """Of messages that a producer sends one after the other."""
    return [int(message_key(np.uint64(shard), np.uint64(first + k), np.uint32(host))) for k in range(COUNT)]


@given(shard=SHARDS, first=IDS, host=HOSTS)
def test_messages_of_one_producer_have_different_keys(shard: int, first: int, host: int) -> None:
    """Millions of messages add the same value to the same series: only their ids tell them apart."""
    assume(first >> 32 == (first + COUNT) >> 32)
    found = keys(shard, first, host)
    assert len(set(found)) == COUNT
    assert found == keys(shard, first, host)
    assert len({key >> 12 for key in found}) <= 2, "those that follow each other are in one block, or in two"


@given(shards=st.tuples(SHARDS, SHARDS), ranges=st.tuples(IDS, IDS), host=HOSTS)
def test_ranges_of_ids_have_nothing_in_common(shards: tuple[int, int], ranges: tuple[int, int], host: int) -> None:
    """A coordinator numbers each request in a range of its own, which begins anywhere."""
    assume(shards[0] != shards[1] or ranges[0] >> 32 != ranges[1] >> 32)
    assert set(keys(shards[0], ranges[0], host)).isdisjoint(keys(shards[1], ranges[1], host))
