"""Ids of series, encoded tags and shards of M3DB, as M3's library makes them."""

from collections.abc import Callable

import mmh3
import pytest
from tests.golden.vectors import Vector, cases, raw

from m3metrics import series_ids, shard
from m3metrics.errors import IdError
from m3metrics.ids import decode_tags, encode_tags


def attempt(make: Callable[[], bytes | None]) -> tuple[str, str]:
    """What becomes of it, in hex, and the error."""
    try:
        return (make() or b"").hex(), ""
    except IdError as error:
        return "", str(error)


@pytest.mark.parametrize("vector", cases("m3db/ids.jsonl", "tags"))
def test_ids(vector: Vector) -> None:
    tags = [(raw(name), raw(value)) for name, value in vector["tags"]]
    assert series_ids.quoted_id(tags).hex() == vector["id_quoted"]
    assert series_ids.prepend_meta_id(tags).hex() == vector["id_prepend_meta"]
    assert series_ids.graphite_id(tags).hex() == vector["id_graphite"]
    encoded = attempt(lambda: encode_tags(tags))
    assert encoded == (vector.get("encoded_tags", ""), vector.get("encode_error", ""))
    assert not encoded[0] or decode_tags(bytes.fromhex(encoded[0])) == tags
    assert attempt(lambda: series_ids.validate_tags(tags))[1] == vector.get("validate_error", "")


@pytest.mark.parametrize("vector", cases("m3db/ids.jsonl", "tags"))
def test_shards(vector: Vector) -> None:
    ident = bytes.fromhex(vector["id_quoted"])
    for seed, shards in vector["shards"].items():
        number = int(seed.removeprefix("seed"))
        for count, expected in shards.items():
            assert mmh3.hash(ident, number, signed=False) % int(count) == expected
            if number == 0:
                assert shard.shard_of(ident, int(count)) == expected
