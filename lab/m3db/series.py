"""What identifies a series on a node: the tag block, the id that belongs to it, and the shard of the id.

A tag block is ``75 27``, a ``u16`` count, and per tag a ``u16`` length and the name, a ``u16`` length and the value, all little endian.
The id of the scheme *quoted* is ``{name="value",…}`` in the order of the tags, names and values each escaped if anything in them needs it.
"""

import struct

import mmh3

__all__ = ["BrokenTagsError", "CutTagsError", "Tags", "parse_tags", "prepend_meta_id", "quoted_id", "shard_of"]

Tags = list[tuple[bytes, bytes]]
_MAGIC = 10101
_SHORT = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r"}


class BrokenTagsError(Exception):
    """A tag block that a node refuses; ``internal``: with an error of type 0."""

    def __init__(self, text: str, *, internal: bool) -> None:
        super().__init__(text)
        self.internal = internal


class CutTagsError(Exception):
    """A tag block that points beyond its end: a real node ends with a panic."""


def parse_tags(block: bytes) -> tuple[Tags, int]:
    """The tags and the number of bytes behind them; an empty block has none. Raises ``BrokenTagsError``, ``CutTagsError``."""
    if not block:
        return [], 0
    if len(block) < 4:
        raise CutTagsError(f"a tag block of {len(block)} bytes")
    magic, count = struct.unpack_from("<HH", block)
    if magic != _MAGIC:
        raise BrokenTagsError("header magic number does not match expected value", internal=True)
    at, tags = 4, []
    for _ in range(count):
        name, at = _literal(block, at)
        if not name:
            raise BrokenTagsError("tag name cannot be empty", internal=False)
        value, at = _literal(block, at)
        tags.append((name, value))
    return tags, len(block) - at


def _literal(block: bytes, at: int) -> tuple[bytes, int]:
    begin = at + 2
    end = begin + int.from_bytes(block[at:begin], "little")
    if end > len(block) or begin > len(block):
        raise CutTagsError(f"a tag block of {len(block)} bytes that ends within a literal")
    return block[begin:end], end


def quoted_id(tags: Tags) -> bytes:
    """The id of tags in their order."""
    return b"{" + b",".join(_escaped(name) + b'="' + _escaped(value) + b'"' for name, value in tags) + b"}"


def prepend_meta_id(tags: Tags) -> bytes:
    """The id of tags in the scheme *prepend_meta*: the lengths of all names and values, then all of these."""
    if not tags:
        return b""
    lengths = ",".join(f"{len(name)},{len(value)}" for name, value in tags)
    return lengths.encode() + b"!" + b"".join(name + value for name, value in tags)


def _escaped(literal: bytes) -> bytes:
    if all(0x20 <= byte < 0x7F and byte != 0x22 for byte in literal):
        return literal
    out = []
    # What is no UTF-8 becomes a lone surrogate each, and is told from real characters by that.
    for character in literal.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif character in '"\\':
            out.append("\\" + character)
        elif character.isprintable():
            out.append(character)
        elif code in _SHORT:
            out.append("\\" + _SHORT[code])
        elif code < 0x20:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(out).encode()


def shard_of(series_id: bytes, num_shards: int, seed: int = 0) -> int:
    """Murmur3 of the id, 32 bits, modulo the number of shards."""
    return int(mmh3.hash(series_id, seed, signed=False)) % num_shards
