"""Variables of the environment in merged files (docs/m3/aggregation.md, loading; docs/compatibility.md, configuration).

``$NAME``, ``${NAME}`` and ``${NAME:default}``; ``$$`` is a dollar sign. M3 writes what it has merged as text, without quotes where there
need be none, puts values in and reads that text again: a value may be a list, a number or nothing. Here the same is done with each value
by itself, so that it keeps its place, and none can become more than one value. What is in quotes stays text where a key takes text.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from m3x.config.document import DocumentError, Node, compose, kind_of
from m3x.config.places import Problem
from m3x.config.scalars import go_text

__all__ = ["Expansion"]

_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[^}]*)\}|(?P<open>\{))")
_NOTHING = '""'
"""The default that stands for an empty one."""
_KEY = "k"
_ADDS = "a variable with a line break would add other keys, or make this invalid YAML; put the value in quotes"


class _UnusableError(Exception):
    pass


class Expansion:
    """Puts variables into trees; ``problems`` gets what cannot be."""

    def __init__(self, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self._environ = environ
        self._problems = problems

    def of(self, node: Node, path: str = "", indent: int = 0) -> Node:
        """``node`` with everything in it. ``indent``: blanks before its key where M3 writes it."""
        if isinstance(node.value, dict):
            return self._mapping(node, path, indent)
        if isinstance(node.value, list):
            items = [self.of(item, f"{path}[{index}]", indent + 2) for index, item in enumerate(node.value)]
            return Node(items, node.file, node.line, key=node.key)
        if not isinstance(node.value, str) or "$" not in node.value:
            return node
        try:
            return self._scalar(node, indent)
        except _UnusableError as error:
            self._problems.append(Problem(node.file, node.line, f"{path}: {error}"))
            return Node(None, node.file, node.line, key=node.key)

    def _mapping(self, node: Node, path: str, indent: int) -> Node:
        result: dict[str, Node] = {}
        for key, child in node.value.items():
            name, typed = key, child.key
            where = f"{path}.{key}" if path else key
            if isinstance(typed, str) and "$" in typed:
                try:
                    found = self._scalar(Node(typed, child.file, child.line, typed), indent)
                    if isinstance(found.value, dict | list):
                        raise _UnusableError(f"a key must be text, and the variable makes it {kind_of(found.value)}")
                except _UnusableError as error:
                    self._problems.append(Problem(child.file, child.line, f"{where}: {error}"))
                    continue
                name, typed = go_text(found.value), found.value
                if name in result or name in node.value:
                    self._problems.append(
                        Problem(child.file, child.line, f"{where}: key {name!r} is given twice, once by a variable")
                    )
            # M3 does not indent lists below their key.
            deeper = 0 if isinstance(child.value, list) else 2
            scalar = not isinstance(child.value, dict | list)
            result[name] = self.of(child, where, indent if scalar else indent + deeper)
            result[name].key = typed
        return Node(result, node.file, node.line, key=node.key)

    def _scalar(self, node: Node, indent: int) -> Node:
        written = _written(node.value)
        marked = "".join(" " * indent + line if line.strip() else line for line in written.splitlines(keepends=True))
        text = self._expand(marked)
        if not node.quoted:
            found = _single(text, node, written)
            return _placed(found, node, found.text)
        # In quotes: text for those who take text.
        literal = self._expand(node.value)
        try:
            found = _single(text, node, written)
        except _UnusableError:
            return _placed(Node(literal, node.file, node.line), node, literal)
        keeps_its_own = found.quoted and written[len(_KEY) + 2] not in "'\"|"
        return _placed(found, node, found.text if keeps_its_own else literal)

    def _expand(self, text: str) -> str:
        return _VARIABLE.sub(self._replacement, text)

    def _replacement(self, found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        if found["open"]:
            raise _UnusableError("${ is not closed by } in the same value; write $${ for a dollar sign with a brace")
        name, _, default = (found["name"] or found["braced"] or "").partition(":")
        if name in self._environ:
            return self._environ[name]
        if not default:
            raise _UnusableError(
                f'${{{name}}} is not set in the environment and has no default (an empty one is ${{{name}:""}})'
            )
        return "" if default == _NOTHING else default


def _written(text: str) -> str:
    """``k: text`` as M3 writes it."""
    style = "|" if "\n" in text else None
    events: list[Any] = [
        yaml.StreamStartEvent(),
        yaml.DocumentStartEvent(),
        yaml.MappingStartEvent(None, None, True, flow_style=False),
        yaml.ScalarEvent(None, None, (True, True), _KEY),
        yaml.ScalarEvent(None, None, (True, True), text, style=style),
        yaml.MappingEndEvent(),
        yaml.DocumentEndEvent(),
        yaml.StreamEndEvent(),
    ]
    return str(yaml.emit(events, allow_unicode=True, width=float("inf")))


def _single(text: str, node: Node, written: str) -> Node:
    """The one value of ``text``, which was ``written`` without variables. Raises ``_UnusableError``."""
    problems: list[tuple[int, str]] = []
    try:
        root = compose(text, node.file, problems, alone=True)
    except DocumentError as error:
        if text.count("\n") > written.count("\n"):
            raise _UnusableError(_ADDS) from None
        raise _UnusableError(f"with its variables this is not valid YAML: {error}") from None
    if problems:
        raise _UnusableError(f"with its variables this is not valid YAML: {problems[0][1]}")
    if root is None or not isinstance(root.value, dict) or list(root.value) != [_KEY]:
        raise _UnusableError(_ADDS)
    found = root.value[_KEY]
    assert isinstance(found, Node)
    return found


def _placed(found: Node, at: Node, text: str) -> Node:
    """``found`` and all in it where ``at`` stands."""
    if isinstance(found.value, dict):
        value: Any = {}
        for key, child in found.value.items():
            value[key] = _placed(child, at, child.text)
            value[key].key = child.key
    elif isinstance(found.value, list):
        value = [_placed(child, at, child.text) for child in found.value]
    else:
        value = found.value
    return Node(value, at.file, at.line, text, key=at.key)
