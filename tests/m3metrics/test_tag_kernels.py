"""Tags read and sorted by the kernel, against the plain code."""

import random

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from m3metrics.errors import IdError
from m3metrics.ids import Tags, decode_tags, encode_tags
from m3metrics.series_ids import normalized_tags, validate_tags
from m3metrics.tag_kernels import MOST_TAGS, read_tags

SKIPPED = b"skipped"
names = st.sampled_from([SKIPPED, b"a", b"aa", b"b", b"__g9__", b"__g10__"]) | st.binary(min_size=1, max_size=5)
tag_sets = st.lists(st.tuples(names, st.binary(max_size=5)), max_size=8)


def kernel(data: bytes, skipped: bytes, by_size: bool) -> Tags | None:
    """None: odd, for plain code to look at."""
    tags = np.empty((MOST_TAGS + 1, 4), np.uint64)
    source, name = np.frombuffer(data + b"\0", np.uint8), np.frombuffer(skipped + b"\0", np.uint8)
    at = source.ctypes.data
    count = read_tags(
        tags, np.uint64(at), np.uint64(len(data)), np.uint64(name.ctypes.data), np.uint64(len(skipped)), by_size
    )
    if count < 0:
        return None
    return [
        (data[int(a) - at : int(a) - at + int(n)], data[int(b) - at : int(b) - at + int(m)])
        for a, n, b, m in tags[:count]
    ]


def plain(data: bytes, skipped: bytes, by_size: bool) -> Tags | None:
    try:
        tags = normalized_tags([tag for tag in decode_tags(data) if tag[0] != skipped], by_size)
        validate_tags(tags, graphite=by_size)
    except IdError:
        return None
    return tags if len(tags) <= MOST_TAGS and all(value for _, value in tags) else None


@given(tag_sets, st.sampled_from([SKIPPED, b""]), st.booleans(), st.randoms(use_true_random=False))
@example([(b"t%d" % number, b"v") for number in range(MOST_TAGS)], b"", False, random.Random(1))
@example([(b"t%d" % number, b"v") for number in range(MOST_TAGS + 1)], b"", False, random.Random(1))
def test_tags_are_those_of_the_plain_code(tags: Tags, skipped: bytes, by_size: bool, chance: random.Random) -> None:
    data = bytearray(encode_tags(tags))
    for _ in range(chance.choice([0, 0, 1, 3])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    cut = bytes(data[: chance.choice([len(data), chance.randint(0, len(data))])])
    assert kernel(cut, skipped, by_size) == plain(cut, skipped, by_size)
