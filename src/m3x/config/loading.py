"""Files in, a section without problems out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from m3x.config.building import Builder
from m3x.config.document import DocumentError, Node, compose, kind_of
from m3x.config.environment import Expansion
from m3x.config.kinds import ConfigError, Section
from m3x.config.merging import merge
from m3x.config.places import Places, Problem, lines_of

__all__ = ["Loaded", "Reading", "load", "read"]

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """A configuration that is free of problems."""

    value: S
    meaningless: list[str]
    """Paths of keys that were accepted without effect."""
    places: Places


@dataclass(frozen=True, slots=True)
class Reading(Generic[S]):
    """What files say, with all that is wrong with them."""

    value: S | None
    """None: there are problems."""
    malformed: list[Problem]
    """What is no YAML, no key, or of a wrong type."""
    refused: list[Problem]
    """What is well formed and still cannot be."""
    given: dict[str, Any]
    """Values of the keys that are given, and not empty, by path."""
    meaningless: list[str]
    places: Places


def load(files: Sequence[str | Path], cls: type[S], environ: Mapping[str, str] | None = None) -> Loaded[S]:
    """Reads and merges ``files`` in order and builds ``cls``.

    Raises ``ConfigError`` naming every problem: unreadable files, YAML errors, undefined variables, unknown keys, wrong types and
    impossible values.
    """
    found = read(files, cls, environ)
    if found.value is None:
        raise ConfigError(lines_of([*found.malformed, *found.refused], [str(name) for name in files]))
    return Loaded(found.value, found.meaningless, found.places)


def read(files: Sequence[str | Path], cls: type[S], environ: Mapping[str, str] | None = None) -> Reading[S]:
    """As ``load``, but problems are told apart, and no error."""
    problems: list[Problem] = []
    tree: Node | None = None
    for name in files:
        node = _document(Path(name), problems)
        if node is None:
            continue
        if tree is not None and node.value is None:
            text = "the file is null, which would undo the files before it; leave it empty, or out"
            problems.append(Problem(str(name), node.line, text))
            continue
        tree = node if tree is None else merge(tree, node, problems)
    if tree is None:
        if problems:  # no file could be read: of what is missing in them nothing is known
            return Reading(None, problems, [], {}, [], Places())
        tree = Node({}, str(files[-1]) if files else "(no file)", 1)
    tree = Expansion(os.environ if environ is None else environ, problems).of(tree)
    if problems and not isinstance(tree.value, dict):
        return Reading(None, problems, [], {}, [], Places())
    builder = Builder()
    value = builder.section(cls, tree, "")
    problems += builder.malformed
    return Reading(
        None if problems or builder.refused else value,
        problems,
        builder.refused,
        builder.given,
        builder.meaningless,
        builder.places,
    )


def _document(path: Path, problems: list[Problem]) -> Node | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        problems.append(Problem(str(path), 0, f"cannot be read: {error.strerror}"))
        return None
    keys: list[tuple[int, str]] = []
    try:
        node = compose(content, str(path), keys)
    except DocumentError as error:
        problems.append(Problem(str(path), error.line, f"not valid YAML: {error}"))
        return None
    problems += [Problem(str(path), line, text) for line, text in keys]
    if node is not None and node.value is not None and not isinstance(node.value, dict):
        text = f"expected a mapping of sections at the top level, found {kind_of(node.value)}"
        problems.append(Problem(str(path), node.line, text))
        return None
    return node
