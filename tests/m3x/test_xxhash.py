"""XXH64 against known hashes, in each of its parts: bytes, words of four and eight, stripes."""

import pytest

from m3x.xxhash import xxh64


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"__name__=up,job=node", 0x5C947ECF3BB64558),
        (bytes(range(32)), 0xCBF59C5116FF32B4),
        (bytes(range(101)), 0xE99038495F85381E),
    ],
)
def test_known_hashes(data: bytes, expected: int) -> None:
    assert xxh64(data) == expected
