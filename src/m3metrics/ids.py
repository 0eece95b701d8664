"""Encoded tags: the metric ids of the coordinator (docs/m3/metrics.md, encoded tags).

All integers are uint16, little endian::

    75 27            magic 10101
    nn nn            number of tags
    per tag          ll ll name-bytes   vv vv value-bytes

The order of the tags is part of the id, and with it of the shard: ``coordinator_id`` and ``rollup_id`` give M3's orders.
"""

import struct
from collections.abc import Iterable, Iterator

from m3metrics.errors import IdError
from m3metrics.metric import PROM_TYPE_TAG, RESERVED_PREFIX, TYPE_TAG

__all__ = [
    "ID_SCHEME_TAG",
    "MAX_LITERAL_BYTES",
    "MAX_TAGS",
    "NAME_TAG",
    "ROLLUP_TAG",
    "Tag",
    "Tags",
    "coordinator_id",
    "coordinator_tags",
    "decode_tags",
    "encode_tags",
    "find_tag",
    "is_rollup_id",
    "iterate_tags",
    "iterate_tags_unchecked",
    "matching_tags",
    "parse_tags",
    "readable_id",
    "readable_tags",
    "rollup_id",
]

Tag = tuple[bytes, bytes]
"""Name and value."""
Tags = list[Tag]

MAX_TAGS = 0xFFFF
MAX_LITERAL_BYTES = 0xFFFF
NAME_TAG = b"__name__"
ROLLUP_TAG: Tag = (b"__rollup__", b"true")
"""Marks rolled-up series."""
ID_SCHEME_TAG = b"__option_id_scheme__"
"""``graphite`` as its value travels inside the id and is taken out before storage."""

_MAGIC = 10101
_HEADER = struct.Struct("<HH")
_SIZE = struct.Struct("<H")


def encode_tags(tags: Iterable[Tag]) -> bytes:
    """The id of the tags in their order; nothing is sorted or taken out. Raises ``IdError``."""
    tags = list(tags)
    return _encode(tags, len(tags))


def _encode(tags: Tags, count: int) -> bytes:
    if count > MAX_TAGS:
        raise IdError(f"too many tags to encode ({count}), limit is: {MAX_TAGS}")
    out = bytearray(_HEADER.pack(_MAGIC, count))
    for name, value in tags:
        if not name:
            raise IdError("tag name cannot be empty")
        for literal in (name, value):
            if len(literal) > MAX_LITERAL_BYTES:
                raise IdError("literal is too long")
            out += _SIZE.pack(len(literal))
            out += literal
    return bytes(out)


def iterate_tags(data: bytes) -> Iterator[Tag]:
    """The tags of an id in their order; bytes behind the last one are ignored. Raises ``IdError`` where the bytes go wrong."""
    count, at = _uint(data, 0, magic=True)
    for _ in range(count):
        name, at = _literal(data, at)
        if not name:
            raise IdError("tag name cannot be empty")
        value, at = _literal(data, at)
        yield name, value


def iterate_tags_unchecked(data: bytes) -> Iterator[Tag]:
    """As ``iterate_tags``, but no bytes at all are an id without tags: the rule matcher's decoder."""
    return iterate_tags(data) if data else iter(())


def decode_tags(data: bytes) -> Tags:
    """All tags of an id. Raises ``IdError``."""
    return list(iterate_tags(data))


def parse_tags(data: bytes) -> Tags:
    """``decode_tags`` without looking for mistakes, for ids that are known to be sound: quicker."""
    tags, at = [], _HEADER.size
    for _ in range(data[2] | data[3] << 8):
        end = at + 2 + (data[at] | data[at + 1] << 8)
        name = data[at + 2 : end]
        at = end + 2 + (data[end] | data[end + 1] << 8)
        tags.append((name, data[end + 2 : at]))
    return tags


def readable_id(data: bytes) -> str:
    """An id as people write it, for messages: ``name{tag="value"}`` of encoded tags, as far as they go; any other id as it is."""
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[0] != _MAGIC:
        return _text(data)
    tags: Tags = []
    end = ""
    try:
        tags.extend(iterate_tags(data))
    except IdError:
        end = "…"
    return readable_tags(tags, end)


def readable_tags(tags: Tags, end: str = "") -> str:
    """Tags as people write them: ``name{tag="value"}``; ``end`` stands behind the last one."""
    name = next((_text(value) for tag, value in reversed(tags) if tag == NAME_TAG), "")
    pairs = ", ".join(f'{_text(tag)}="{_text(value)}"' for tag, value in tags if tag != NAME_TAG)
    return f"{name}{{{pairs}{end}}}"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _uint(data: bytes, at: int, magic: bool = False) -> tuple[int, int]:
    """A uint16, behind the magic number if ``magic``, and the position after it."""
    if len(data) - at < 2:
        raise IdError("internal error, invalid byte stream while decoding uint")
    value: int = _SIZE.unpack_from(data, at)[0]
    if not magic:
        return value, at + 2
    if value != _MAGIC:
        raise IdError("header magic number does not match expected value")
    return _uint(data, at + 2)


def _literal(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _uint(data, at)
    if len(data) - at < size:
        raise IdError("internal error, invalid byte stream while decoding ID")
    return data[at : at + size], at + size


def find_tag(data: bytes, wanted: bytes) -> bytes | None:
    """The value of the first tag of that name, None where there is none: reads no further than needed. Raises ``IdError``."""
    if len(data) < _HEADER.size:
        raise IdError(f"encoded tags too short: size={len(data)}, need={_HEADER.size}")
    count, at = _uint(data, 0, magic=True)
    for index in range(count):
        if len(data) - at < 2:
            raise IdError(f"missing size for tag name: index={index}")
        name, at = _literal(data, at)
        if not name:
            raise IdError("tag name cannot be empty")
        if len(data) - at < 2:
            raise IdError(f"missing size for tag value: index={index}")
        value, at = _literal(data, at)
        if name == wanted:
            return value
    return None


def matching_tags(tags: Iterable[Tag], m3_type: str, prom_type: str = "unknown") -> Tags:
    """The tags by which rules are matched: with the two type tags, sorted by name. ``encode_tags`` gives the matcher's id."""
    typed = [*tags, (TYPE_TAG, m3_type.encode()), (PROM_TYPE_TAG, prom_type.encode())]
    return sorted(typed, key=lambda tag: tag[0])


def coordinator_tags(matched: Tags) -> Tags:
    """What M3's coordinator sends of ``matching_tags``: each ``__m3…`` tag's place is taken by the last tag, in this very order.

    The result is not sorted again; another order would be another id on another shard.
    """
    kept = list(matched)
    at = 0
    while at < len(kept):
        if not kept[at][0].startswith(RESERVED_PREFIX):
            at += 1
            continue
        last = kept.pop()
        if at < len(kept):
            kept[at] = last
    return kept


def coordinator_id(tags: Iterable[Tag], m3_type: str, prom_type: str = "unknown") -> bytes:
    """The id under which a coordinator sends a metric with those tags. Raises ``IdError``, also if there are none."""
    tags = list(tags)
    if not tags:
        raise IdError("no tags provided")
    return encode_tags(coordinator_tags(matching_tags(tags, m3_type, prom_type)))


def rollup_id(new_name: bytes, pairs: Iterable[Tag], name_tag: bytes = NAME_TAG) -> bytes:
    """The id of a rolled-up metric: ``pairs`` (meant sorted) without ``__m3…`` ones, merged with the new name and ``ROLLUP_TAG``.

    On equal names the existing pair wins. Unsorted pairs are merged as they come, and each one named like a merged tag lowers the
    number of tags in the header by one, as in M3: ids stay equal across implementations. Raises ``IdError``.
    """
    existing = [pair for pair in pairs if not pair[0].startswith(RESERVED_PREFIX)]
    added = sorted([(name_tag, new_name), ROLLUP_TAG])
    names = {name for name, _ in added}
    count = len(existing) + len(added) - sum(name in names for name, _ in existing)
    merged: Tags = []
    while existing and added:
        if added[0][0] < existing[0][0]:
            merged.append(added.pop(0))
            continue
        if added[0][0] == existing[0][0]:
            added.pop(0)
        merged.append(existing.pop(0))
    return _encode(merged + existing + added, count)


def is_rollup_id(data: bytes) -> bool:
    """Whether the id has ``ROLLUP_TAG``. Bytes that are no id have not."""
    try:
        return find_tag(data, ROLLUP_TAG[0]) == ROLLUP_TAG[1]
    except IdError:
        return False
