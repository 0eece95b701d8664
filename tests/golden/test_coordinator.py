"""Metric ids and series ids against ``golden/coordinator/ids.jsonl``."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.golden.vectors import Vector, cases, raw

from m3metrics import ids, series_ids
from m3metrics.errors import IdError
from m3metrics.ids import Tag, Tags
from m3metrics.shard import shard_of


def tags_of(listed: list[list[Any]]) -> Tags:
    return [(raw(name), raw(value)) for name, value in listed]


def check_encode(vector: Vector) -> None:
    if "tags_described" in vector:
        size = int(vector["tags_described"].split("value length ")[1].split(",")[0])
        tags = [(b"v", b"v" * size)]
    else:
        tags = tags_of(vector["tags"])
    if "error" in vector:
        with pytest.raises(IdError, match=f"^{vector['error']}$"):
            ids.encode_tags(tags)
    elif "id_length" in vector:
        assert len(ids.encode_tags(tags)) == vector["id_length"]
    else:
        assert ids.encode_tags(tags).hex() == vector["id"]


def check_coordinator_id(vector: Vector) -> None:
    tags = tags_of(vector["tags_added"])
    if "error" in vector:
        with pytest.raises(IdError, match=f"^{vector['error']}$"):
            ids.coordinator_id(tags, vector["m3_type"], vector["prom_type"])
        return
    ident = ids.coordinator_id(tags, vector["m3_type"], vector["prom_type"])
    assert ident.hex() == vector["id"]
    assert ids.decode_tags(ident) == tags_of(vector["id_tags"])
    assert (shard_of(ident, 64), shard_of(ident, 1024)) == (vector["shard_of_64"], vector["shard_of_1024"])


def check_rollup_id(vector: Vector) -> None:
    pairs, name = tags_of(vector["pairs"]), raw(vector["new_name"])
    if "panic" in vector:
        with pytest.raises(IdError, match=f"^{vector['panic']}$"):
            ids.rollup_id(name, pairs)
        return
    ident = ids.rollup_id(name, pairs)
    assert ident.hex() == vector["id"]
    assert ids.decode_tags(ident) == tags_of(vector["id_tags"])
    assert ids.is_rollup_id(ident) == vector["is_rollup_id"]


def check_is_rollup_id(vector: Vector) -> None:
    assert ids.is_rollup_id(bytes.fromhex(vector["id"])) == vector["is_rollup_id"]


SCHEMES = {
    "quoted": series_ids.quoted_id,
    "prepend_meta": series_ids.prepend_meta_id,
    "graphite": series_ids.graphite_id,
}


def check_series_id(vector: Vector) -> None:
    graphite = vector["scheme"] == "graphite"
    tags = series_ids.normalized_tags(tags_of(vector["tags_added"]), graphite)
    assert tags == tags_of(vector["normalized"])
    assert SCHEMES[vector["scheme"]](tags).hex() == vector["series_id_hex"]
    error = ""
    try:
        series_ids.validate_tags(
            tags,
            vector.get("allow_tag_name_duplicates", False),
            vector.get("allow_tag_value_empty", False),
            graphite,
        )
    except IdError as raised:
        error = str(raised)
    assert error == vector.get("validate_error", "")


def collect(iterate: Callable[[bytes], Iterator[Tag]], data: bytes) -> tuple[str, Tags]:
    """The error and the tags in front of it."""
    tags: Tags = []
    try:
        tags.extend(iterate(data))
    except IdError as raised:
        return str(raised), tags
    return "", tags


def check_decode(vector: Vector) -> None:
    data = bytes.fromhex(vector["id"])
    for name, iterate in (
        ("checked", ids.iterate_tags),
        ("ingest_iterator", ids.iterate_tags),
        ("unchecked", ids.iterate_tags_unchecked),
    ):
        expected = vector[name]
        assert collect(iterate, data) == (expected["error"], tags_of(expected["tags"])), name
    lookup = vector["fast_name_lookup"]
    if "panic" in lookup:  # the original reads outside the bytes there
        with pytest.raises(IdError):
            ids.find_tag(data, ids.NAME_TAG)
    elif lookup.get("error"):
        with pytest.raises(IdError) as caught:
            ids.find_tag(data, ids.NAME_TAG)
        assert str(caught.value) == lookup["error"]
    else:
        assert ids.find_tag(data, ids.NAME_TAG) == (raw(lookup["value"]) if lookup["found"] else None)


CHECKS = {
    "encode": check_encode,
    "coordinator_id": check_coordinator_id,
    "rollup_id": check_rollup_id,
    "is_rollup_id": check_is_rollup_id,
    "series_id": check_series_id,
    "decode": check_decode,
}


@pytest.mark.parametrize("vector", cases("coordinator/ids.jsonl", "kind", "scheme", "note"))
def test_ids(vector: Vector) -> None:
    CHECKS[vector["kind"]](vector)
