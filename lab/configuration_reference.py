"""docs/configuration.md, made of the types that read the files: ``python -m lab.configuration_reference`` writes it anew.

One chapter for each service, in it one table for each section, where it comes first. What a key means is the text below its field; whether
M3 has it is in ``lab/own_keys.txt``, one ``Section.key`` in a line of what M3 has not (``tests/golden/test_config.py`` compares with the
keys of the real one).
"""

import ast
import enum
import functools
import inspect
import itertools
import re
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from aggregator.config.service import ServiceConfig
from coordinator.config.coordinator import CoordinatorConfig
from m3x.config import Duration, Section

__all__ = ["PAGE", "SERVICES", "Key", "keys", "own_keys", "page"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/configuration.md"
OWN = ROOT / "lab/own_keys.txt"
SERVICES: dict[str, type[Section]] = {"m3aggregator": ServiceConfig, "m3coordinator": CoordinatorConfig}
_SHORT = 60
"""Characters of a default in the table."""

_HEAD = """# Configuration: every key of both services

Made by `python -m lab.configuration_reference` of the types that read the files; a test keeps it true. Files are YAML, several `-f` are
merged, `${VARIABLE:default}` is taken from the environment, unknown keys are refused with file and line. `--check-config` says what is
wrong with a file, and which of its keys have no effect. How M3's own files are read: [compatibility.md](compatibility.md#configuration).

*whose*: **M3** has the key, or it is **ours**. *effect* "none": the key is read, its value has to be one that M3 takes, and nothing comes
of it, as what it tunes does not exist here (object pools, Go's runtime). Durations are written as in Go (`10s`, `1h30m`), sizes are bytes.
A dash for a default: there is none, the key is needed; an empty cell: the empty value.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a section. ``nested``: the section that its values are, or are made of; ``marks``: how its path goes on, such as ``[]``."""

    section: type[Section]
    name: str
    kind: str
    default: str
    meaning: str
    has_effect: bool
    nested: type[Section] | None = None
    marks: str = ""

    @property
    def id(self) -> str:
        """As in ``own_keys.txt``."""
        return f"{self.section.__name__}.{self.name}"


@dataclass(slots=True)
class _Place:
    section: type[Section]
    paths: list[str] = field(default_factory=list)
    """Where it stands, the first one first; empty text: the whole file."""


def own_keys() -> frozenset[str]:
    """Those that M3 has not."""
    return frozenset(OWN.read_text().split())


def keys(section: type[Section]) -> list[Key]:
    """Of one section, in the order in which its types have them."""
    hints = typing.get_type_hints(section, include_extras=True)
    meanings = _meanings(section)
    found = []
    for one in msgspec.structs.fields(section):
        hint = hints[one.name]
        has_effect = "meaningless" not in _marks(hint)
        nested = next(_sections(hint), None)
        found.append(
            Key(
                section,
                one.encode_name,
                _kind(hint),
                _default(one),
                meanings.get(one.name, ""),
                has_effect,
                nested if has_effect else None,
                _path_marks(hint),
            )
        )
    return found


def places(root: type[Section]) -> dict[type[Section], list[str]]:
    """Every section of a file, and its paths."""
    found: dict[type[Section], list[str]] = {root: [""]}
    waiting = [(root, "")]
    while waiting:
        section, path = waiting.pop(0)
        for key in keys(section):
            if key.nested is None:
                continue
            below = f"{path}.{key.name}{key.marks}".lstrip(".")
            is_new = key.nested not in found
            found.setdefault(key.nested, []).append(below)
            if is_new or len(found[key.nested]) < 12:
                waiting.append((key.nested, below))
    return found


def page() -> str:
    """The whole text."""
    own, parts = own_keys(), [_HEAD]
    for service, root in SERVICES.items():
        parts.append(f"## {service}\n")
        found = places(root)
        for section, paths in sorted(found.items(), key=lambda item: _order(item[1][0], root)):
            parts += _chapter(section, paths, own)
    return "\n".join(parts)


def _order(path: str, root: type[Section]) -> tuple[Any, ...]:
    """In the order of the file's own keys, then by path."""
    first = re.split(r"[.\[{]", path)[0]
    names = [one.encode_name for one in msgspec.structs.fields(root)]
    return (names.index(first) if first in names else -1, path)


def _chapter(section: type[Section], paths: list[str], own: frozenset[str]) -> list[str]:
    title = f"`{paths[0]}`" if paths[0] else "The file"
    also = "" if len(paths) == 1 else f"The same at {', '.join(f'`{path}`' for path in paths[1:])}.\n"
    rows = [
        f"| `{key.name}` | {key.kind} | {key.default} | {'ours' if key.id in own else 'M3'} | "
        f"{'' if key.has_effect else 'none'} | {key.meaning} |"
        for key in keys(section)
    ]
    head = "| key | type | default | whose | effect | meaning |\n|---|---|---|---|---|---|"
    said = _plain(re.sub(r"^``[^`]*``[:.,]?\s*", "", inspect.getdoc(section) or ""))
    told = f"{said[0].upper()}{said[1:]}\n" if said else ""
    return [f"### {title}\n", *filter(None, (told, also)), head, *rows, ""]


def _marks(hint: Any) -> set[str]:
    """What ``Annotated`` says of a type."""
    return {mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, str)}


def _bare(hint: Any) -> Any:
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return hint


def _options(hint: Any) -> list[Any]:
    """The members of a union, without None."""
    hint = _bare(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [_bare(one) for one in typing.get_args(hint) if one is not type(None)]
    return [hint]


def _sections(hint: Any) -> Iterator[type[Section]]:
    for one in _options(hint):
        if isinstance(one, type) and issubclass(one, Section):
            yield one
        for inside in typing.get_args(one):
            yield from _sections(inside) if not isinstance(inside, str) else ()


def _path_marks(hint: Any) -> str:
    for one in _options(hint):
        origin = typing.get_origin(one)
        if origin is list:
            return "[]" + _path_marks(typing.get_args(one)[0])
        if origin is dict:
            return "{}" + _path_marks(typing.get_args(one)[1])
    return ""


def _kind(hint: Any) -> str:
    return " or ".join(dict.fromkeys(map(_kind_of, _options(hint))))


def _kind_of(one: Any) -> str:
    origin = typing.get_origin(one)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(one))
    if origin is list:
        return f"list of {_kind(typing.get_args(one)[0])}"
    if origin is dict:
        return f"map to {_kind(typing.get_args(one)[1])}"
    if not isinstance(one, type):
        return "any"
    if issubclass(one, Section):
        return "section"
    if issubclass(one, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in one)
    if issubclass(one, Duration):
        return "duration"
    return {bool: "boolean", int: "number", float: "number"}.get(one, "text")


def _default(one: Any) -> str:
    value = one.default
    if value is msgspec.NODEFAULT:
        value = one.default_factory() if one.default_factory is not msgspec.NODEFAULT else value
    if value is msgspec.NODEFAULT:
        return "–"
    if value is None or isinstance(value, Section) or value in ("", [], {}):
        return ""
    if isinstance(value, enum.Enum):
        value = value.value
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if len(text) <= _SHORT else "see the file"


@functools.cache
def _module(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[name]))


def _meanings(section: type[Section]) -> dict[str, str]:
    """Field → the text below it, those of base classes included."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if not (issubclass(base, Section) and base is not Section):
            continue
        body = next(
            n.body for n in _module(base.__module__).body if isinstance(n, ast.ClassDef) and n.name == base.__name__
        )
        for before, after in itertools.pairwise(body):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[before.target.id] = _plain(str(after.value.value))
    return found


def _plain(text: str) -> str:
    """A docstring as a cell."""
    return re.sub(r"\s+", " ", text).replace("``", "`").replace("|", "\\|").strip()


if __name__ == "__main__":
    PAGE.write_text(page())
