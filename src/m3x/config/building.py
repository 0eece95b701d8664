"""Nodes → sections: types and nodes are walked together; problems are collected instead of raised."""

import difflib
import functools
import math
import struct
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from m3x.config.document import Node, kind_of
from m3x.config.kinds import Bounds, Duration, Section, Text, Time, check_address
from m3x.config.places import Places, Problem

__all__ = ["Builder", "type_hints"]

S = TypeVar("S", bound=Section)
_MOST_KEYS = 12
"""Of a section, in a message."""
_INT64 = range(-(1 << 63), 1 << 63)


class Builder:
    """One tree's sections. What M3's reader would refuse as well is ``malformed``, everything else that cannot be is ``refused``."""

    def __init__(self) -> None:
        self.malformed: list[Problem] = []
        self.refused: list[Problem] = []
        self.meaningless: list[str] = []
        self.given: dict[str, Any] = {}
        self._stand: dict[str, Node] = {}

    @property
    def places(self) -> Places:
        """Where everything stands that is given."""
        return Places({path: f"{node.file}:{node.line}" for path, node in self._stand.items() if node.line})

    def section(self, cls: type[S], node: Node, path: str) -> S | None:
        """The section that ``node`` is; None: there are problems."""
        if node.value is None:
            node = Node({}, node.file, node.line)
        if not isinstance(node.value, dict):
            self._malformed(node, path, f"expected a mapping, found {kind_of(node.value)}")
            return None
        self._stand[path] = node
        hints, fields = type_hints(cls), {f.encode_name: f for f in msgspec.structs.fields(cls)}
        before = self._count()
        values: dict[str, Any] = {}
        for key, child in node.value.items():
            where = f"{path}.{key}" if path else key
            self._stand[where] = child
            if key not in fields:
                self._malformed(child, where, _unknown(cls, key, fields))
                continue
            hint = hints[fields[key].name]
            if not _is_absent(hint, child):
                values[fields[key].name] = self.value(hint, child, where)
        for key, spec in fields.items():
            if spec.required and spec.name not in values:
                self._refused(node, f"{path}.{key}" if path else key, "this key is required and missing")
        if self._count() > before:
            return None
        try:
            made = cls(**values)
        except ValueError as error:
            self._refused(node, path, str(error))
            return None
        for relative, text in made.problems():
            self._behind(path, relative, text)
        return made if self._count() == before else None

    def value(self, hint: Any, node: Node, path: str) -> Any:
        """What a field of type ``hint`` makes of ``node``."""
        marks: tuple[Any, ...] = ()
        while get_origin(hint) is Annotated:
            marks += get_args(hint)[1:]
            hint = get_args(hint)[0]
        if "meaningless" in marks:
            self.meaningless.append(path)
            silent = len(self.meaningless)
            value = self.value(hint, node, path)
            del self.meaningless[silent:]
            return value
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return self._union(get_args(hint), marks, node, path)
        if origin is list or origin is tuple:
            return self._list(origin, get_args(hint)[0], node, path)
        if origin is dict:
            return self._mapping(get_args(hint)[1], node, path)
        if isinstance(hint, type) and issubclass(hint, Section):
            return self.section(hint, node, path)
        if hint is Any or (hint in (None, type(None)) and node.value is None):
            value = node.plain()
        elif isinstance(node.value, dict | list):
            self._malformed(node, path, _old_address(node, path, marks) or _expected(hint, marks, node))
            return None
        else:
            value = self._scalar(hint, marks, node, path)
            value = value if value is None else self._within(value, marks, node, path)
        self.given[path] = node.text if value is None and _takes_text(hint) else value
        return value

    def _list(self, origin: type, hint: Any, node: Node, path: str) -> Any:
        if not isinstance(node.value, list):
            self._malformed(node, path, f"expected a list, found {kind_of(node.value)}")
            return None
        items = []
        for index, child in enumerate(node.value):
            where = f"{path}[{index}]"
            self._stand[where] = child
            items.append(_zero(hint) if _is_zero(hint, child) else self.value(hint, child, where))
        self.given[path] = items
        return tuple(items) if origin is tuple else items

    def _mapping(self, hint: Any, node: Node, path: str) -> Any:
        if not isinstance(node.value, dict):
            self._malformed(node, path, f"expected a mapping, found {kind_of(node.value)}")
            return None
        made = {}
        for key, child in node.value.items():
            where = f"{path}.{key}"
            self._stand[where] = child
            made[key] = _zero(hint) if _is_zero(hint, child) else self.value(hint, child, where)
        self.given[path] = made
        return made

    def _union(self, options: tuple[Any, ...], marks: tuple[Any, ...], node: Node, path: str) -> Any:
        choices = [option for option in options if option is not type(None)]
        if node.value is None and type(None) in options and not (node.text and _takes_text(choices[0])):
            return None
        if len(choices) == 1:
            return self.value(Annotated[(choices[0], *marks)] if marks else choices[0], node, path)
        trials: list[Builder] = []
        for choice in choices:
            trial = Builder()
            value = trial.value(choice, node, path)
            if not trial._count():
                self._take(trial)
                return value
            trials.append(trial)
        # Report against the alternative that fits the shape of what was written.
        shaped = [t for c, t in zip(choices, trials, strict=True) if isinstance(node.value, _shape(c))]
        chosen = (shaped or trials)[0]
        self.malformed += chosen.malformed
        self.refused += chosen.refused
        return None

    def _take(self, other: "Builder") -> None:
        self.meaningless += other.meaningless
        self.given |= other.given
        self._stand |= other._stand

    def _scalar(self, hint: Any, marks: tuple[Any, ...], node: Node, path: str) -> Any:
        value = node.value
        if hint is Duration:
            return self._duration(node, path)
        if _takes_text(hint):
            return self._text(hint, marks, node, path)
        if hint is bool and isinstance(value, bool):
            return value
        if hint is int and isinstance(value, int | float) and not isinstance(value, bool):
            return self._integer(value, marks, node, path)
        if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
            return _float32(float(value)) if "float32" in marks else float(value)
        self._malformed(node, path, _expected(hint, marks, node))
        return None

    def _integer(self, value: int | float, marks: tuple[Any, ...], node: Node, path: str) -> int | None:
        room = next((range(mark.least, mark.most + 1) for mark in marks if isinstance(mark, Bounds)), _INT64)
        if not math.isfinite(value) or int(value) not in room:
            text = f"expected an integer from {room.start} to {room.stop - 1} (found {node.text!r})"
            self._malformed(node, path, text)
            return None
        return int(value)

    def _within(self, value: Any, marks: tuple[Any, ...], node: Node, path: str) -> Any:
        for mark in marks:
            if isinstance(mark, Bounds):
                if not mark.least <= value <= mark.most:
                    self._malformed(
                        node, path, f"expected a number from {mark.least} to {mark.most} (found {node.text!r})"
                    )
                    return None
            elif mark == "nonzero" and not value:
                self._refused(node, path, f"must not be empty, zero or false (found {node.text!r})")
        return value

    def _text(self, hint: Any, marks: tuple[Any, ...], node: Node, path: str) -> Any:
        if get_origin(hint) is Literal:
            if node.text in get_args(hint):
                return node.text
            self._refused(node, path, _expected(hint, marks, node))
            return None
        try:
            if issubclass(hint, Text):
                hint.check(node.text)
            elif "address" in marks:
                check_address(node.text)
        except ValueError as error:
            self._refused(node, path, str(error))
            return None
        return hint(node.text) if issubclass(hint, Text) else node.text

    def _duration(self, node: Node, path: str) -> Duration | None:
        value = node.value
        if isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value) and int(value) in _INT64:
                return Duration(int(value))
            self._malformed(node, path, f"{node.text} is too long a duration; a bare number is in nanoseconds")
            return None
        try:
            return Duration.parse(node.text)
        except ValueError as error:
            self._malformed(node, path, str(error))
            return None

    def _behind(self, path: str, relative: str, text: str) -> None:
        where = f"{path}.{relative}" if path and relative else path or relative
        known = where
        while known not in self._stand:
            known = known.rpartition(".")[0] if "." in known else ""
        self._refused(self._stand[known], where, text)

    def _malformed(self, node: Node, path: str, text: str) -> None:
        self.malformed.append(Problem(node.file, node.line, f"{path or '(top level)'}: {text}"))

    def _refused(self, node: Node, path: str, text: str) -> None:
        self.refused.append(Problem(node.file, node.line, f"{path or '(top level)'}: {text}"))

    def _count(self) -> int:
        return len(self.malformed) + len(self.refused)


@functools.cache
def type_hints(cls: type[Section]) -> dict[str, Any]:
    """The types of a section's fields, with their marks."""
    return typing.get_type_hints(cls, include_extras=True)


def _unknown(cls: type[Section], key: str, fields: Mapping[str, Any]) -> str:
    if key in cls.former:
        return f"M3 does not know this key any more: {cls.former[key]}"
    near = difflib.get_close_matches(key, fields, n=1)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    return f"unknown key; known keys: {', '.join(fields)}" if len(fields) <= _MOST_KEYS else "unknown key"


def _bare(hint: Any) -> Any:
    """The type without marks, and without None beside it."""
    while True:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        elif get_origin(hint) in (Union, types.UnionType):
            choices = [option for option in get_args(hint) if option is not type(None)]
            if len(choices) != 1:
                return hint
            hint = choices[0]
        else:
            return hint


def _marks(hint: Any) -> tuple[Any, ...]:
    marks: tuple[Any, ...] = ()
    while get_origin(hint) is Annotated or get_origin(hint) in (Union, types.UnionType):
        marks += get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        hint = get_args(hint)[0]
    return marks


def _takes_text(hint: Any) -> bool:
    hint = _bare(hint)
    return get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, str))


def _is_absent(hint: Any, node: Node) -> bool:
    """Whether a key says nothing: its default holds."""
    if node.value is None:
        return not (node.text and _takes_text(hint))
    return node.value == "" and "empty is default" in _marks(hint)


def _is_zero(hint: Any, node: Node) -> bool:
    return node.value is None and not (node.text and _takes_text(hint)) and _zero(hint) is not None


def _zero(hint: Any) -> Any:
    """What an empty item of a list or of a mapping stands for; None: that depends."""
    bare = _bare(hint)
    if isinstance(bare, type) and not issubclass(bare, Section | Time):
        return bare() if bare in (str, int, float, bool, Duration) else None
    return None


def _shape(choice: Any) -> type | tuple[type, ...]:
    origin = get_origin(choice)
    if origin in (list, tuple):
        return list
    if origin is dict or (isinstance(choice, type) and issubclass(choice, Section)):
        return dict
    return (str, int, float, bool)


def _expected(hint: Any, marks: tuple[Any, ...], node: Node) -> str:
    if get_origin(hint) is Literal:
        expected = f"one of {', '.join(map(repr, filter(None, get_args(hint))))}"
    elif hint is Duration:
        expected = "a duration like 10s, 1m30s or 500ms"
    elif "address" in marks:
        expected = "host:port"
    else:
        expected = {bool: "true or false", int: "an integer", float: "a number", type(None): "nothing"}.get(
            hint, "text"
        )
    found = kind_of(node.value) if isinstance(node.value, dict | list) else repr(node.text)
    also = " in quotes" if node.quoted and hint in (bool, int, float) else ""
    return f"expected {expected} (found {found}{also})"


def _old_address(node: Node, path: str, marks: tuple[Any, ...]) -> str:
    """Addresses had once a resolver of their own."""
    if "address" not in marks or not isinstance(node.value, dict):
        return ""
    key = path.rpartition(".")[2]
    given, variable = node.value.get("value"), node.value.get("envVarName")
    if variable is not None and variable.text:
        text = f"${{{variable.text}}}"
    else:
        text = given.text if given is not None and given.text else "0.0.0.0:PORT"
    return f"M3 does not take a mapping here any more: write {key}: {text}"


def _float32(number: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)
