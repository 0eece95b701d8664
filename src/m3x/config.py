"""YAML configuration files → typed structs, with every problem named by file, line and path.

Rules (docs/m3/aggregation.md, loading): several files are merged in order, mappings key by key, everything else replaced;
``${NAME}`` and ``${NAME:default}`` are taken from the environment; an unknown key is an error. Unlike M3 the reader does not stop at the
first problem: all of them are collected in one ``ConfigError``.

A section is a subclass of ``Section`` whose fields carry the types ``str``, ``bool``, ``int``, ``float``, ``Duration``, enums,
``Literal``, ``Text``, other sections, ``list`` or ``dict`` of these, unions with ``None``, or ``Meaningless`` for keys that M3 has and we
accept without effect.
"""

import difflib
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

__all__ = [
    "Address",
    "ConfigError",
    "Duration",
    "Loaded",
    "Meaningless",
    "Places",
    "Section",
    "Text",
    "check_listeners",
    "load",
    "parse_address",
]

_UNITS_NS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60 * 1_000_000_000, "h": 3600 * 1_000_000_000,
}  # fmt: skip
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_ONE_LETTER_BOOLEANS = {"y": True, "Y": True, "n": False, "N": False}
"""M3's YAML reader takes these for booleans, PyYAML does not."""
_ALL_INTERFACES = {"0.0.0.0", "::"}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` has one line per problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class Duration(int):
    """A span of time in nanoseconds, written in YAML as Go writes it: ``10s``, ``1h30m``, ``500ms``; a bare number is nanoseconds."""

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Raises ``ValueError`` for anything but an optional sign and one or more ``<number><unit>``, or ``0``."""
        sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
        if rest == "0":
            return cls(0)
        total, position = 0, 0
        for part in _DURATION.finditer(rest):
            if part.start() != position:
                break
            number, unit = part.groups()
            total += int(number) * _UNITS_NS[unit] if number.isdigit() else round(float(number) * _UNITS_NS[unit])
            position = part.end()
        if position != len(rest) or not rest:
            raise ValueError(f"{text!r} is not a duration; write it like 10s, 1m30s or 500ms")
        return cls(sign * total)

    @property
    def seconds(self) -> float:
        """As floating seconds, for timers."""
        return self / 1_000_000_000

    def __str__(self) -> str:
        return f"{self.seconds:g}s"

    __repr__ = __str__


class Text(str):
    """A text with a form of its own; subclasses say in ``check`` what it has to be."""

    __slots__ = ()

    @classmethod
    def check(cls, text: str) -> None:
        """Raises ``ValueError`` that says what was expected."""


Address = Annotated[str, "address"]
"""``host:port``."""

Meaningless = Annotated[Any, "meaningless"]
"""A key of M3 that has no meaning here: any value is accepted and the key is listed once at debug level."""


class Section(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all configuration sections: YAML keys are the field names in camelCase. ``__post_init__`` may raise ``ValueError``."""


S = TypeVar("S", bound=Section)


class Places(dict[str, str]):
    """Where the sections of a configuration stand: path (``downsample.rules.rollupRules[0]``) → ``file:line``."""

    def named(self, path: str, text: str) -> str:
        """``text`` as a line about that section; its place is left out where it is not known."""
        place = self.get(path)
        return f"{place}: {path}: {text}" if place is not None else f"{path}: {text}"


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """A configuration that is free of problems."""

    value: S
    meaningless: list[str]
    """Paths of keys that were accepted without effect."""
    places: Places


def parse_address(text: str) -> tuple[str, int]:
    """``host:port`` → ``(host, port)``; an empty host is all interfaces, brackets around an IPv6 address are removed."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address; expected host:port")
    return host.strip("[]") or "0.0.0.0", int(port)


def check_listeners(addresses: Mapping[str, str]) -> None:
    """``addresses``: those that one process listens on, by their keys; empty ones do not count. Raises ``ValueError`` naming the keys of
    two that are the same."""
    seen: list[tuple[str, str, int]] = []
    for key, text in addresses.items():
        if not text:
            continue
        host, port = parse_address(text)
        for other, other_host, other_port in seen:
            if port == other_port != 0 and (host == other_host or {host, other_host} & _ALL_INTERFACES):
                raise ValueError(f"{other} and {key} must differ: both listen on port {port}")
        seen.append((key, host, port))


def load(files: Sequence[str | Path], cls: type[S], environ: Mapping[str, str] | None = None) -> Loaded[S]:
    """Reads and merges ``files`` in order and builds ``cls``.

    Raises ``ConfigError`` naming every problem: unreadable files, YAML errors, undefined variables, unknown keys, wrong types and
    impossible values.
    """
    reader = _Reader(os.environ if environ is None else environ)
    tree: _Node | None = None
    for name in files:
        node = reader.read(Path(name))
        if node is not None:
            tree = node if tree is None else _merge(tree, node)
    if reader.problems:
        raise ConfigError(reader.problems)
    if tree is None:
        tree = _Node({}, str(files[-1]) if files else "(no file)", 1)
    builder = _Builder()
    value = builder.section(cls, tree, "")
    if builder.problems or value is None:
        raise ConfigError(builder.problems)
    return Loaded(value, builder.meaningless, builder.places)


@dataclass(slots=True)
class _Node:
    """A YAML value and where it stands. ``value`` is a dict[str, _Node], a list[_Node] or a plain scalar."""

    value: Any
    file: str
    line: int
    text: str = field(default="")
    """Scalars: as written, for fields of type ``str``."""

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ

    def read(self, path: Path) -> _Node | None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.problems.append(f"{path}: cannot be read: {reason}")
            return None
        text = self._expand(path, text)
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if root is None:
                return None
            node = self._convert(root, str(path), yaml.SafeLoader(""))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f":{mark.line + 1}" if mark is not None else ""
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            self.problems.append(f"{path}{where}: not valid YAML: {problem}")
            return None
        except RecursionError:
            self.problems.append(f"{path}: not valid YAML: nested too deeply or an anchor that contains itself")
            return None
        if not isinstance(node.value, dict):
            self.problems.append(
                f"{path}:1: expected a mapping of sections at the top level, found {_kind(node.value)}"
            )
            return None
        return node

    def _expand(self, path: Path, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            name, default = match.groups()
            if name in self._environ:
                return self._environ[name]
            if default is None:
                line = text.count("\n", 0, match.start()) + 1
                self.problems.append(f"{path}:{line}: ${{{name}}} is not set in the environment and has no default")
                return ""
            return str(default)

        return _VARIABLE.sub(replace, text)

    def _convert(self, node: yaml.Node, file: str, loader: yaml.SafeLoader) -> _Node:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)
            result: dict[str, _Node] = {}
            for key, child in node.value:
                name = str(key.value)
                if name in result:
                    self.problems.append(f"{file}:{key.start_mark.line + 1}: key {name!r} is given twice")
                result[name] = self._convert(child, file, loader)
            return _Node(result, file, line)
        if isinstance(node, yaml.SequenceNode):
            return _Node([self._convert(child, file, loader) for child in node.value], file, line)
        value = loader.construct_object(node, deep=True)
        if isinstance(node, yaml.ScalarNode) and node.style is None and node.value in _ONE_LETTER_BOOLEANS:
            value = _ONE_LETTER_BOOLEANS[node.value]
        return _Node(value, file, line, str(node.value))


def _merge(old: _Node, new: _Node) -> _Node:
    if isinstance(old.value, dict) and isinstance(new.value, dict):
        merged = dict(old.value)
        for key, node in new.value.items():
            merged[key] = _merge(merged[key], node) if key in merged else node
        return _Node(merged, new.file, new.line)
    return new


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true/false", int: "an integer", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


class _Builder:
    """Walks types and nodes together; collects problems instead of raising."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.meaningless: list[str] = []
        self.places = Places()

    def _problem(self, node: _Node, path: str, text: str) -> None:
        self.problems.append(f"{node.file}:{node.line}: {path or '(top level)'}: {text}")

    def section(self, cls: type[S], node: _Node, path: str) -> S | None:
        if node.value is None:
            node = _Node({}, node.file, node.line)
        if not isinstance(node.value, dict):
            self._problem(node, path, f"expected a mapping, found {_kind(node.value)}")
            return None
        self.places[path] = f"{node.file}:{node.line}"
        hints = typing.get_type_hints(cls, include_extras=True)
        fields = {f.encode_name: f for f in msgspec.structs.fields(cls)}
        before = len(self.problems)
        values: dict[str, Any] = {}
        for key, child in node.value.items():
            where = f"{path}.{key}" if path else key
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(fields)}"
                self._problem(child, where, f"unknown key{hint}")
                continue
            values[fields[key].name] = self.value(hints[fields[key].name], child, where)
        for key, spec in fields.items():
            if spec.required and key not in node.value:
                self._problem(node, f"{path}.{key}" if path else key, "this key is required and missing")
        if len(self.problems) > before:
            return None
        try:
            return cls(**values)
        except ValueError as error:
            self._problem(node, path, str(error))
            return None

    def value(self, hint: Any, node: _Node, path: str) -> Any:
        if get_origin(hint) is Annotated and "meaningless" in get_args(hint)[1:]:
            self.meaningless.append(path)
            return node.plain()
        if get_origin(hint) is Annotated and not any(isinstance(a, msgspec.Meta) for a in get_args(hint)[1:]):
            hint = get_args(hint)[0]
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return self._union(get_args(hint), node, path)
        if origin is list or origin is tuple:
            if not isinstance(node.value, list):
                self._problem(node, path, f"expected a list, found {_kind(node.value)}")
                return None
            items = [self.value(get_args(hint)[0], child, f"{path}[{i}]") for i, child in enumerate(node.value)]
            return tuple(items) if origin is tuple else items
        if origin is dict:
            if not isinstance(node.value, dict):
                self._problem(node, path, f"expected a mapping, found {_kind(node.value)}")
                return None
            return {key: self.value(get_args(hint)[1], child, f"{path}.{key}") for key, child in node.value.items()}
        if isinstance(hint, type) and issubclass(hint, Section):
            return self.section(hint, node, path)
        return self._scalar(hint, node, path)

    def _union(self, options: tuple[Any, ...], node: _Node, path: str) -> Any:
        if node.value is None and type(None) in options:
            return None
        choices = [option for option in options if option is not type(None)]
        if len(choices) == 1:
            return self.value(choices[0], node, path)
        trials: list[_Builder] = []
        for choice in choices:
            trial = _Builder()
            value = trial.value(choice, node, path)
            if not trial.problems:
                self.meaningless += trial.meaningless
                self.places |= trial.places
                return value
            trials.append(trial)
        # Report against the alternative that fits the shape of what was written.
        shaped = [t for c, t in zip(choices, trials, strict=True) if isinstance(node.value, _shape(c))]
        self.problems += (shaped or trials)[0].problems
        return None

    def _scalar(self, hint: Any, node: _Node, path: str) -> Any:
        if hint is Any:
            return node.plain()
        value = node.plain()
        if hint is Duration:
            return self._duration(node, path)
        if (
            isinstance(hint, type)
            and issubclass(hint, str)
            and not isinstance(value, dict | list)
            and value is not None
        ):
            # YAML 1.1 reads y, no, 10 … as other types; a text field takes them as M3's loader does (golden/coordinator README).
            text = ("true" if value else "false") if isinstance(value, bool) else node.text
            return self._text(hint, text, node, path) if issubclass(hint, Text) else text
        try:
            return msgspec.convert(value, hint, strict=True)
        except msgspec.ValidationError as error:
            if hint is float and isinstance(value, int) and not isinstance(value, bool):
                return float(value)
            expected = (
                f"expected one of {', '.join(map(repr, get_args(hint)))}" if get_origin(hint) is Literal else None
            )
            self._problem(node, path, f"{expected or _plain_message(str(error))} (found {node.text or _kind(value)!r})")
            return None

    def _text(self, hint: type[Text], text: str, node: _Node, path: str) -> Text | None:
        try:
            hint.check(text)
        except ValueError as error:
            self._problem(node, path, str(error))
            return None
        return hint(text)

    def _duration(self, node: _Node, path: str) -> Duration | None:
        if isinstance(node.value, int) and not isinstance(node.value, bool):
            return Duration(node.value)
        try:
            return Duration.parse(node.text)
        except ValueError as error:
            self._problem(node, path, str(error))
            return None


def _shape(choice: Any) -> type | tuple[type, ...]:
    origin = get_origin(choice)
    if origin in (list, tuple):
        return list
    if origin is dict or (isinstance(choice, type) and issubclass(choice, Section)):
        return dict
    return (str, int, float, bool)


def _plain_message(text: str) -> str:
    return text[0].lower() + text[1:].split(" - at ", maxsplit=1)[0]
