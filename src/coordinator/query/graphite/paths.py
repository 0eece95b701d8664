"""Paths and globs of Graphite: the path of a series, and the matchers that find the series of a glob.

A path is the values of the tags ``__g0__``, ``__g1__`` … joined with dots. Globs: ``*`` and ``?`` inside one part, ``[…]``, ``{a,b}``,
and ``**`` for any number of parts.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice

from coordinator.matchers import Matcher, MatcherError, MatchOp
from coordinator.query.graphite.lexer import PATH_CHARACTERS
from m3metrics.ids import Tags

__all__ = [
    "ID_TAG", "GlobError", "NoGlobError", "below", "end", "expansions", "glob_matchers", "graphite_path", "id_matchers", "is_path",
    "part_tag", "path_matchers", "path_predicate",
]  # fmt: skip

ID_TAG = b"_m3ninx_id"
"""What the index of M3DB calls the id of a series, which of a path is the path."""
_PART_TAG = re.compile(rb"__g(\d{1,9})__")
_MAX_PARTS = 256
_MAX_EXPANSIONS = 64
_NEVER = frozenset(' ()";')
_CLOSED_BY = {"}": "{", "]": "["}
_GROUPS = {"{": "(", "}": ")", "[": "[", "]": "]"}
_ESCAPED = frozenset("<>'$")
"""Characters of paths that M3 writes with a backslash in regular expressions."""
_GLOB = re.compile(r"[*?\[{]")
_STARS = re.compile(r"(\*{2,}\.?)")


class GlobError(ValueError):
    """A glob that cannot be looked for."""


class NoGlobError(GlobError):
    """What is no glob: a part is empty, a group is open, a character cannot be in a path. Nothing matches it."""


def part_tag(index: int) -> bytes:
    """The tag of a part of a path, counted from 0."""
    return b"__g%d__" % index


def graphite_path(tags: Tags) -> str | None:
    """The path of a series, None if it is not of graphite's kind. A part without text is no tag; what follows tells that it is there."""
    parts = {int(found[1]): value for name, value in tags if (found := _PART_TAG.fullmatch(name))}
    if not parts or len(parts) != len(tags) or (last := max(parts)) >= _MAX_PARTS:
        return None
    return ".".join(parts.get(index, b"").decode(errors="replace") for index in range(last + 1))


def glob_matchers(glob: str) -> tuple[Matcher, ...]:
    """A matcher for each part of a glob without ``**``. Raises ``GlobError``."""
    parts = glob.split(".")
    if len(parts) > _MAX_PARTS:
        raise GlobError(f"the path has more than {_MAX_PARTS} parts")
    return tuple(_part_matcher(part_tag(index), part) for index, part in enumerate(parts))


def end(glob: str) -> Matcher:
    """That a path has no more parts than a glob."""
    return Matcher(MatchOp.EQUAL, part_tag(glob.count(".") + 1), b"")


def path_matchers(glob: str) -> tuple[Matcher, ...]:
    """Of the paths of a glob without ``**``, and no others. Raises ``GlobError``."""
    return *glob_matchers(glob), end(glob)


def below(glob: str) -> Matcher:
    """That a path has more parts than a glob."""
    return Matcher(MatchOp.NOT_EQUAL, part_tag(glob.count(".") + 1), b"")


def id_matchers(glob: str) -> tuple[Matcher, ...]:
    """For a store that knows ids: matchers of all paths of a glob with ``**``, and of some more. Raises ``GlobError``."""
    regex = "".join(".*" if piece.startswith("**") else _regex(piece) for piece in _STARS.split(glob))
    return Matcher(MatchOp.NOT_EQUAL, part_tag(0), b""), _matcher(MatchOp.REGEX, ID_TAG, regex)


def path_predicate(glob: str) -> Callable[[str], bool]:
    """Whether a path is one of a glob with ``**``. Raises ``GlobError``."""
    regex, before = "", "."
    for piece in _STARS.split(glob):
        if not piece.startswith("**"):
            regex += _regex(piece)
        elif not piece.endswith("."):
            regex += ".*"
        else:
            regex += r"(?:.*\.)?" if before.endswith(".") else r".*\."
        before = piece or before
    return _predicate(_matcher(MatchOp.REGEX, ID_TAG, regex))


def expansions(glob: str, depth: int) -> list[str]:
    """The globs without ``**``, of ``depth`` parts, that a glob with ``**`` stands for. Raises ``GlobError`` for very many."""
    parts = glob.split(".")
    if len(parts) > _MAX_PARTS:
        raise GlobError(f"the path has more than {_MAX_PARTS} parts")
    found = list(islice(_expanded(parts, depth), _MAX_EXPANSIONS + 1))
    if len(found) > _MAX_EXPANSIONS:
        raise GlobError(f"the path can be read in more than {_MAX_EXPANSIONS} ways; use fewer **")
    return [".".join(parts) for parts in found]


def is_path(text: str) -> bool:
    """Whether a text can be a path with globs; more characters are allowed in one than M3's lexer takes."""
    if set(text) & {"'", "\\"}:
        return False
    try:
        for part in text.split("."):
            _checked(part)
    except GlobError:
        return False
    return True


def _expanded(parts: list[str], depth: int) -> Iterator[list[str]]:
    if not parts:
        if depth == 0:
            yield []
        return
    if depth < _least(parts):
        return
    head, *rest = parts
    if "**" not in head:
        choices = [([head], rest)] if depth > 0 else []
    elif head.strip("*"):
        left, right = re.split(r"\*{2,}", head, maxsplit=1)
        # What is behind the stars may have such stars again.
        ends = [([f"{left}*", *["*"] * more], [f"*{right}", *rest]) for more in range(depth - 1)]
        choices = [([], [f"{left}*{right}", *rest]), *ends]
    else:
        choices = [(["*"] * count, rest) for count in range(0 if rest else 1, depth + 1)]
    for choice, left_over in choices:
        for following in _expanded(left_over, depth - len(choice)):
            yield [*choice, *following]


def _least(parts: list[str]) -> int:
    """Parts of the shortest path of a glob: stars alone may stand for none, unless they are its end."""
    return sum(bool(part.strip("*")) or "**" not in part for part in parts[:-1]) + 1


def _part_matcher(name: bytes, part: str) -> Matcher:
    regex = _checked(part)
    if part == "*":
        return Matcher(MatchOp.NOT_EQUAL, name, b"")
    return _matcher(MatchOp.REGEX, name, regex) if _GLOB.search(part) else _matcher(MatchOp.EQUAL, name, part)


def _matcher(op: MatchOp, name: bytes, value: str) -> Matcher:
    try:
        return Matcher(op, name, value.encode())
    except MatcherError as error:
        raise GlobError(str(error)) from None
    except UnicodeEncodeError:
        raise GlobError("the path is not valid UTF-8") from None


def _predicate(matcher: Matcher) -> Callable[[str], bool]:
    matches = matcher.predicate()
    return lambda path: matches(path.encode(errors="replace"))


def _checked(part: str) -> str:
    """The regular expression of one part. Raises ``NoGlobError``."""
    if not part:
        raise NoGlobError("a part of the path is empty")
    return _regex(part)


def _regex(glob: str) -> str:
    """As M3 writes it; what is no glob stands for itself. Raises ``NoGlobError``."""
    out, groups = "", []
    for at, character in enumerate(glob):
        if character in _NEVER or not character.isprintable():
            raise NoGlobError(f"{character!r} cannot be in a path")
        if character == ".":
            out += r"\.+"
        elif character == "?":
            out += r"[^\.]"
        elif character == "*":
            out += r"[^\.]*"
        elif character in "{[":
            groups.append(character)
            out += _GROUPS[character]
        elif character in _CLOSED_BY:
            if not groups or groups.pop() != _CLOSED_BY[character]:
                raise NoGlobError(f"{character} closes nothing")
            out += _GROUPS[character]
        elif character == ",":
            if groups[-1:] != ["{"]:
                raise NoGlobError("a comma stands outside of {}")
            out += "|"
        elif character in "!^" and groups[-1:] == ["["] and glob[at - 1] == "[":
            out += "^"
        else:
            out += _literal(character)
    if groups:
        raise NoGlobError(f"{groups[-1]} is not closed")
    return out


def _literal(character: str) -> str:
    if character in _ESCAPED or (character not in PATH_CHARACTERS and character.isascii()) or character == "|":
        return f"\\{character}"
    return character
