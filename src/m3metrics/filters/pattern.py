"""Patterns of tag values: M3's globs over bytes (docs/m3/metrics.md, value patterns).

A pattern is read in this order: a leading ``!`` negates the rest; then ``*`` splits it, before brackets are looked at; what is between is
a *chain* of elements. A chain consumes a value element by element and never takes a step back; behind a ``*`` it does so from
the end of the value. ``ab*bc`` therefore matches ``abc``: both chains see the whole value.

Chains become regular expressions without backtracking (atomic groups); one that consumes from the end is written and applied
backwards.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from m3metrics.errors import MetricsError

__all__ = ["FilterError", "ValuePattern", "compile_pattern"]

_INVALID = "invalid filter pattern defined"
_STAR = b"*"


class FilterError(MetricsError):
    """A pattern or a filter that M3 does not accept."""


@dataclass(frozen=True, slots=True)
class ValuePattern:
    """A compiled pattern."""

    text: str
    """What M3 prints for it: ``StartsWith(Equals("foo") then AnyChar)``."""
    matches: Callable[[bytes], bool]
    equals: bytes | None = None
    """The only value that matches, where there is just one."""
    prefix: bytes = b""
    """Bytes with which every value that matches begins."""
    never: bool = False
    """Whether there is no value that matches."""
    always: bool = False
    """Whether every value matches."""


class _Element(Protocol):
    """One step of a chain."""

    @property
    def text(self) -> str:
        """As M3 prints it."""

    def expression(self, backwards: bool) -> bytes:
        """As a regular expression over the value, or over the reversed value."""


@dataclass(frozen=True, slots=True)
class _Literal:
    value: bytes

    @property
    def text(self) -> str:
        return f'Equals("{_text(self.value)}")'

    def expression(self, backwards: bool) -> bytes:
        return re.escape(self.value[::-1] if backwards else self.value)


@dataclass(frozen=True, slots=True)
class _AnyByte:
    text: str = "AnyChar"

    def expression(self, backwards: bool) -> bytes:
        return b"."


@dataclass(frozen=True, slots=True)
class _Bytes:
    """``[…]``: one byte out of a set."""

    text: str
    members: bytes
    """Content of a character class of ``re``; empty: no byte."""
    negated: bool

    def expression(self, backwards: bool) -> bytes:
        if not self.members:
            return b"." if self.negated else b"(?!)"
        return b"[" + (b"^" if self.negated else b"") + self.members + b"]"


@dataclass(frozen=True, slots=True)
class _Alternatives:
    """``{…}``: the longest alternative that fits is taken for good; an empty one never fits."""

    text: str
    values: tuple[bytes, ...]

    def expression(self, backwards: bool) -> bytes:
        longest_first = sorted(filter(None, self.values), key=len, reverse=True)
        if not longest_first:
            return b"(?!)"
        return b"(?>" + b"|".join(re.escape(v[::-1] if backwards else v) for v in longest_first) + b")"


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def compile_pattern(pattern: bytes) -> ValuePattern:
    """The pattern, ready to match. Raises ``FilterError``."""
    if pattern[:1] != b"!":
        return _positive(pattern)
    if pattern == b"!":
        raise FilterError(_INVALID)
    inner = _positive(pattern[1:])
    matches = inner.matches
    return ValuePattern(f"Not({inner.text})", lambda value: not matches(value), never=inner.always, always=inner.never)


def _positive(pattern: bytes) -> ValuePattern:
    stars = pattern.count(_STAR)
    if stars == 0:
        return _whole(pattern)
    if stars == 1:
        if pattern == _STAR:
            return ValuePattern("All", lambda _value: True, always=True)
        left, _, right = pattern.partition(_STAR)
        if not right:
            return _start(left)
        if not left:
            return _end(right)
        start, end = _start(left), _end(right)
        starts, ends = start.matches, end.matches
        return ValuePattern(
            f"{start.text} && {end.text}",
            lambda value: starts(value) and ends(value),
            prefix=start.prefix,
            never=start.never or end.never,
        )
    content = pattern[1:-1]
    if stars != 2 or not content or pattern[:1] != _STAR or pattern[-1:] != _STAR:
        raise FilterError(_INVALID)
    if any(mark in content for mark in (b"?", b"[", b"{")):
        raise FilterError(_INVALID)
    return ValuePattern(f'Contains("{_text(content)}")', lambda value: content in value)


def _whole(pattern: bytes) -> ValuePattern:
    chain = _chain(pattern)
    text = _chain_text(chain)
    if not chain or (len(chain) == 1 and isinstance(chain[0], _Literal)):
        return ValuePattern(text, lambda value: value == pattern, equals=pattern, prefix=pattern)
    match = _compile(chain, backwards=False).fullmatch
    return ValuePattern(text, lambda value: match(value) is not None, prefix=_prefix(chain), never=_never(chain))


def _start(pattern: bytes) -> ValuePattern:
    chain = _chain(pattern)
    text = f"StartsWith({_chain_text(chain)})"
    if len(chain) == 1 and isinstance(chain[0], _Literal):
        return ValuePattern(text, lambda value: value.startswith(pattern), prefix=pattern)
    match = _compile(chain, backwards=False).match
    return ValuePattern(text, lambda value: match(value) is not None, prefix=_prefix(chain), never=_never(chain))


def _end(pattern: bytes) -> ValuePattern:
    chain = _chain(pattern)
    text = f"EndsWith({_chain_text(chain)})"
    if len(chain) == 1 and isinstance(chain[0], _Literal):
        return ValuePattern(text, lambda value: value.endswith(pattern))
    match = _compile(chain, backwards=True).match
    return ValuePattern(text, lambda value: match(value[::-1]) is not None, never=_never(chain))


def _compile(chain: Sequence[_Element], backwards: bool) -> re.Pattern[bytes]:
    ordered = reversed(chain) if backwards else chain
    return re.compile(b"".join(element.expression(backwards) for element in ordered), re.DOTALL)


def _never(chain: Sequence[_Element]) -> bool:
    """Only an element without any value can keep everything out."""
    return any(isinstance(element, _Alternatives) and not any(element.values) for element in chain)


def _prefix(chain: Sequence[_Element]) -> bytes:
    return chain[0].value if chain and isinstance(chain[0], _Literal) else b""


def _chain_text(chain: Sequence[_Element]) -> str:
    return " then ".join(element.text for element in chain) if chain else 'Equals("")'


def _chain(pattern: bytes) -> list[_Element]:
    """The elements of a pattern without ``*``. Raises ``FilterError``."""
    elements: list[_Element] = []
    at = 0
    while at < len(pattern):
        mark = pattern[at : at + 1]
        if mark == b"?":
            elements.append(_AnyByte())
            at += 1
        elif mark in (b"[", b"{"):
            end = pattern.find(b"]" if mark == b"[" else b"}", at)
            content = pattern[at + 1 : end]
            if end < 0 or not content:
                raise FilterError(_INVALID)
            elements.append(_byte_set(content) if mark == b"[" else _alternatives(content))
            at = end + 1
        else:
            end = at
            while end < len(pattern) and pattern[end] not in b"?[{":
                end += 1
            elements.append(_Literal(pattern[at:end]))
            at = end
    return elements


def _alternatives(content: bytes) -> _Alternatives:
    return _Alternatives(f'Range("{_text(content)}")', tuple(content.split(b",")))


def _byte_set(content: bytes) -> _Bytes:
    """``a-cx-z`` where the second byte is a dash, else the bytes as they are. Raises ``FilterError``."""
    negated = content[:1] == b"!"
    if negated:
        content = content[1:]
    shown = _text(content)
    if content[1:2] == b"-":
        ranges = [content[k : k + 3] for k in range(0, len(content), 3)]
        if any(len(r) != 3 or r[1:2] != b"-" or r[0] > r[2] for r in ranges):
            raise FilterError(_INVALID)
        members = b"".join(b"\\x%02x-\\x%02x" % (r[0], r[2]) for r in ranges)
        shown = " || ".join(_text(r) for r in ranges)
    else:
        members = b"".join(b"\\x%02x" % byte for byte in content)
    text = f'Range("{shown}")'
    return _Bytes(f"Not({text})" if negated else text, members, negated)
