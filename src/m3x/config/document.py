"""One YAML file as nodes that know where they stand.

PyYAML reads it, with three differences that M3's reader has: tabs may separate tokens as long as they do not indent, an anchor may be
given anew, and YAML 1.2 is refused, as its words mean other things. Only the first document of a file counts.
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import ConstructorError
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.scanner import Scanner, ScannerError

from m3x.config.scalars import PLAIN, QUOTED, go_text, value_of

__all__ = ["DocumentError", "Node", "compose", "kind_of"]

_MERGE = "tag:yaml.org,2002:merge"
_QUOTES = frozenset("'\"|>")
_ALIAS = "found undefined alias"
_MAX_NODES = 1_000_000
"""Of a document whose aliases are replaced by what they stand for: a few lines of aliases of aliases would fill the memory."""


@dataclass(slots=True)
class Node:
    """A YAML value and where it stands. ``value`` is a dict[str, Node], a list[Node] or a plain scalar."""

    value: Any
    file: str
    line: int
    """That of its key, if it has one."""
    text: str = ""
    """Scalars: what a key that takes text makes of it."""
    quoted: bool = False
    """Whether it is a scalar in quotes, or a block of text."""
    key: Any = field(default=None)
    """In a mapping: the key with its type, which ``1`` and ``"1"`` do not have in common."""

    def plain(self) -> Any:
        """As dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {node.key: node.plain() for node in self.value.values()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


class DocumentError(Exception):
    """A file is no YAML that can be used. ``line``: 0 where that is not known."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def compose(text: bytes | str, file: str, problems: list[tuple[int, str]], *, alone: bool = False) -> Node | None:
    """The first document; None: there is nothing in it. ``problems`` gets what is wrong with keys, by line.

    Raises ``DocumentError``, also for what follows and belongs to no document; with ``alone`` for a second document too.
    """
    try:
        loader = _Loader(text)
        root = loader.get_node() if loader.check_node() else None
        if not loader.ended and loader.check_node() and alone:
            raise DocumentError(0, "another document begins in it")
        return None if root is None else _Converter(file, problems).node(root, root.start_mark.line + 1)
    except ReaderError as error:
        raise DocumentError(_line_at(text, error.position), f"{error.reason}: {_shown(error.character)}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DocumentError(mark.line + 1 if mark is not None else 0, _problem(error)) from error
    except RecursionError:
        raise DocumentError(0, "nested too deeply or an anchor that contains itself") from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    """What is wrong; without what may be a secret that was meant to be in quotes."""
    text = error.problem or str(error)
    return (
        f"{_ALIAS} without an anchor of that name; text that begins with * belongs in quotes"
        if text.startswith(_ALIAS)
        else text
    )


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true/false", int: "an integer", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


class _Loader(Reader, Scanner, Parser, Composer):
    def __init__(self, stream: bytes | str) -> None:
        Reader.__init__(self, stream)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        self.ended = False
        """Whether the last document ends with ``...``."""

    def compose_document(self) -> Any:
        self.get_event()  # type: ignore[no-untyped-call]
        node = self.compose_node(None, None)
        self.ended = self.get_event().explicit  # type: ignore[no-untyped-call]
        self.anchors = {}
        return node

    def resolve(self, kind: type[yaml.Node], _value: Any, implicit: Any) -> str:
        return PLAIN if kind is yaml.ScalarNode and implicit[0] else QUOTED

    def descend_resolver(self, _current: Any, _index: Any) -> None:
        """Tags do not depend on where a node is."""

    def ascend_resolver(self) -> None:
        """See ``descend_resolver``."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if not self.check_event(yaml.AliasEvent):
            self.anchors.pop(self.peek_event().anchor, None)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def scan_to_next_token(self) -> None:
        while True:
            super().scan_to_next_token()
            if self.peek() != "\t" or not (self.flow_level or not self.allow_simple_key):
                return
            self.forward()

    def scan_plain_spaces(self, indent: int, start_mark: Any) -> Any:
        tabs = 0
        while self.peek(tabs) in " \t":
            tabs += 1
        if "\t" not in self.prefix(tabs) or self.peek(tabs) in "\0\r\n\x85\u2028\u2029":
            if "\t" in self.prefix(tabs):
                self.forward(tabs)
            return super().scan_plain_spaces(indent, start_mark)
        whitespace = self.prefix(tabs)
        self.forward(tabs)
        return [whitespace]

    def scan_yaml_directive_value(self, start_mark: Any) -> Any:
        version = super().scan_yaml_directive_value(start_mark)
        if version != (1, 1):
            raise ScannerError(None, None, "this is read as YAML 1.1; remove the %YAML directive", start_mark)
        return version


class _Converter:
    """PyYAML's nodes → ours. Aliases become what they stand for."""

    def __init__(self, file: str, problems: list[tuple[int, str]]) -> None:
        self._file = file
        self._problems = problems
        self._nodes = 0

    def node(self, node: yaml.Node, line: int) -> Node:
        self._count(line)
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Node] = {}
            for key, child in self._pairs(node):
                self._put(result, key, child)
            return Node(result, self._file, line)
        if isinstance(node, yaml.SequenceNode):
            items = [self.node(child, child.start_mark.line + 1) for child in node.value]
            return Node(items, self._file, line)
        value = self._scalar(node)
        style = getattr(node, "style", None)
        return Node(value, self._file, line, go_text(value), style is not None and style in _QUOTES)

    def _count(self, line: int) -> None:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise DocumentError(line, f"with what its aliases stand for it has more than {_MAX_NODES} values")

    def _put(self, result: dict[str, Node], key: yaml.Node, child: yaml.Node) -> None:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            self._problems.append((line, "a key must be text, found a list or a mapping"))
            return
        typed = self._scalar(key)
        name = go_text(typed)
        if name in result:
            self._problems.append((line, f"key {name!r} is given twice"))
        result[name] = self.node(child, line)
        result[name].key = typed

    def _pairs(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """Keys and values; ``<<`` stands for those of another mapping, or of several."""
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value != "<<" or key.tag not in (PLAIN, _MERGE):
                yield key, child
                continue
            for one in child.value if isinstance(child, yaml.SequenceNode) else [child]:
                if not isinstance(one, yaml.MappingNode):
                    text = "<< takes a mapping, or a list of mappings"
                    raise ConstructorError(None, None, text, one.start_mark)
                self._count(one.start_mark.line + 1)
                yield from self._pairs(one)

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return value_of(node.value, node.tag)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from None


def _line_at(text: bytes | str, position: int) -> int:
    newline = b"\n" if isinstance(text, bytes) else "\n"
    return text.count(newline, 0, position) + 1  # type: ignore[arg-type]


def _shown(character: Any) -> str:
    code = character[0] if isinstance(character, bytes) else character if isinstance(character, int) else ord(character)
    letter = chr(code)
    return repr(letter) if letter in string.printable and letter not in "\0" else f"0x{code:02X}"
