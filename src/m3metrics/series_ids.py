"""Series ids of M3DB made from tags (docs/m3/coordinator.md, series ids): the schemes ``quoted``, ``prepend_meta`` and ``graphite``."""

import re
from collections.abc import Iterable

from m3metrics.errors import IdError
from m3metrics.ids import MAX_LITERAL_BYTES, Tag, Tags

__all__ = ["graphite_id", "normalized_tags", "prepend_meta_id", "quoted_id", "validate_tags"]

_PLAIN = re.compile(rb"[ !#-~]*")
"""A literal that stays as it is, backslashes too; in any other one these are escaped."""

_SHORT_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def normalized_tags(tags: Iterable[Tag], graphite: bool = False) -> Tags:
    """Sorted by name, for graphite by its length first (``__g9__`` before ``__g10__``); equal names keep their order."""
    return sorted(tags, key=lambda tag: _order(tag[0], graphite))


def _order(name: bytes, graphite: bool) -> tuple[int, bytes]:
    return len(name) if graphite else 0, name


def validate_tags(
    tags: Tags, allow_duplicates: bool = False, allow_empty_value: bool = False, graphite: bool = False
) -> None:
    """Checks tags, which ``normalized_tags`` has sorted, as M3 does before a write. Raises ``IdError``.

    Of graphite's tags only the names are looked at, and none occurs twice, whatever is allowed of others.
    """
    if not tags:
        raise IdError("no tags")
    previous = b""
    for index, (name, value) in enumerate(tags):
        if not name:
            raise IdError(f"tag name empty: index={index}")
        if not graphite:
            _check_lengths(index, name, value, allow_empty_value)
        is_later = _order(name, graphite) > _order(previous, graphite)
        if index and not is_later and (graphite or name != previous):
            listed = " ".join(f"{_text(key)}: {_text(content)}" for key, content in tags)
            what = f"{'graphite ' if graphite else ''}tags out of order"
            raise IdError(f"{what}: '{_text(previous)}' appears after '{_text(name)}', tags: [{listed}]")
        if index and not is_later and not allow_duplicates:
            listed = ", ".join(f"{_text(key)}: {_text(content)}" for key, content in tags)
            raise IdError(f"tags duplicate: '{_text(name)}' appears more than once in '{listed}'")
        previous = name


def _check_lengths(index: int, name: bytes, value: bytes, allow_empty_value: bool) -> None:
    limit = MAX_LITERAL_BYTES
    if len(name) > limit:
        raise IdError(f"tag name too long: index={index}, length={len(name)}, maxLength={limit}")
    if not value and not allow_empty_value:
        raise IdError(f"tag value empty: index={index}, name={_text(name)}")
    if len(value) > limit:
        raise IdError(f"tag value too long: index={index}, length={len(value)}, maxLength={limit}")


def quoted_id(tags: Tags) -> bytes:
    """``{t1="v1",t2="v2"}``. A literal with a quote or something unprintable in it is escaped."""
    return b"{" + b",".join(_escape(name) + b'="' + _escape(value) + b'"' for name, value in tags) + b"}"


def prepend_meta_id(tags: Tags) -> bytes:
    """``2,2,2,2!t1v1t2v2``: all lengths, then the raw bytes. Empty without tags."""
    if not tags:
        return b""
    literals = [literal for tag in tags for literal in tag]
    return ",".join(str(len(literal)) for literal in literals).encode() + b"!" + b"".join(literals)


def graphite_id(tags: Tags) -> bytes:
    """The values joined with dots: the path again."""
    return b".".join(value for _, value in tags)


def _text(literal: bytes) -> str:
    return literal.decode(errors="replace")


def _escape(literal: bytes) -> bytes:
    if _PLAIN.fullmatch(literal):
        return literal
    # Invalid UTF-8 arrives as lone surrogates, one for each byte.
    text = literal.decode("utf-8", "surrogateescape")
    return "".join(map(_escape_character, text)).encode()


def _escape_character(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20:
        return f"\\x{code:02x}"
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"
