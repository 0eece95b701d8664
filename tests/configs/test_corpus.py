"""Configuration files of every shape (``corpus``): each says in its first lines what has to come of it.

``# service:`` m3aggregator or m3coordinator; ``# env:`` a variable; ``# given:`` a key and what it is; ``# problem:`` the line and the
beginning of a problem. Without problems a file has to load. And every key of both services is taken empty, as M3 takes it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
import pytest

from aggregator.config.service import ServiceConfig
from coordinator.config.coordinator import CoordinatorConfig
from m3x.config import Section, read
from m3x.config.building import Builder, type_hints
from m3x.config.document import Node

CORPUS = Path(__file__).parent / "corpus"
SERVICES: dict[str, type[Section]] = {"m3aggregator": ServiceConfig, "m3coordinator": CoordinatorConfig}


def said(text: str, about: str) -> list[str]:
    """What the first lines of a file say."""
    mark = f"# {about}: "
    return [line.removeprefix(mark) for line in text.splitlines() if line.startswith(mark)]


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.yml")), ids=lambda path: path.stem)
def test_files_come_out_as_they_say(path: Path) -> None:
    text = path.read_text()
    pairs = [line.replace("\\n", "\n").partition("=") for line in said(text, "env")]
    (service,) = said(text, "service")
    found = read([path], SERVICES[service], {name: value for name, _, value in pairs})
    problems = sorted([*found.malformed, *found.refused], key=lambda problem: problem.line)
    assert [
        f"{one.line}: {one.text}"[: len(start)] for one, start in zip(problems, said(text, "problem"), strict=False)
    ] == said(text, "problem")
    assert len(problems) == len(said(text, "problem")), problems
    assert (found.value is None) == bool(problems)
    for line in said(text, "given"):
        key, _, expected = line.partition(" = ")
        assert str(found.given[key]).replace("\n", "\\n") == expected, key


def keys(hint: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The keys of a type, ``[]`` for an item of a list and ``{}`` for one of a mapping, wherever it stands at ``path``."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is list:
        yield from keys(get_args(hint)[0], (*path, "[]"))
    elif get_origin(hint) is dict:
        yield from keys(get_args(hint)[1], (*path, "{}"))
    elif isinstance(hint, type) and issubclass(hint, Section):
        for field in msgspec.structs.fields(hint):
            yield (*path, field.encode_name)
            yield from keys(type_hints(hint)[field.name], (*path, field.encode_name))
    elif get_origin(hint) is Union or type(None) in get_args(hint):
        for option in get_args(hint):
            yield from keys(option, path)


def tree(path: tuple[str, ...]) -> Node:
    """A document in which only that key is given, and empty."""
    node = Node(None, "file.yml", 1)
    for key in reversed(path):
        node = Node([node] if key == "[]" else {key.replace("{}", "k"): node}, "file.yml", 1)
    return node


@pytest.mark.parametrize("cls", [ServiceConfig, CoordinatorConfig])
def test_every_key_may_be_empty(cls: type[Section]) -> None:
    paths = list(keys(cls, ()))
    assert len(paths) > 400
    for path in paths:
        builder = Builder()
        builder.section(cls, tree(path), "")
        assert builder.malformed == [], path
