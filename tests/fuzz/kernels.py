"""Which kernels read or write by address and are called from plain Python: each of them has a row, or a reason why it needs none.

``python -m tests.fuzz.kernels`` reads some inputs with all parsers and prints which of them were called.
"""

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.mutations import inputs
from tests.fuzz.table import PARSERS

__all__ = ["REASONS", "called_from_python", "reasons_of_nothing", "without_reason"]

SOURCES = Path(__file__).parents[2] / "src"
_BY_ADDRESS = frozenset(
    {
        "base", "load8", "load16", "load32", "load64", "load_double", "store8", "store32", "store64", "record_of", "copy_short",
        "copy_bytes", "bytes_equal", "hash_bytes", "murmur3_32",
    }
)  # fmt: skip
"""Primitives of ``m3x.kernels`` that take addresses."""
_DOORS = 3
"""So many doors are behind each other at most."""
_INPUTS = 450
"""Of each parser with kernels: enough that the engine flushes."""
_OWN_TABLES = "tables, rows and numbers that this process has made; bytes of others are in them as ids that were read and copied before"
_SPANS = "labels at places that ``label_spans`` has found, which ``write-request`` reads; tests/coordinator/write has the plain way"
REASONS = {
    "aggregator.engine": _OWN_TABLES,
    "coordinator.query.kernels.latest": _OWN_TABLES,
    "coordinator.sinks.kernels": _OWN_TABLES,
    "coordinator.store.label_kernels.group": _OWN_TABLES,
    "coordinator.write.cache_kernels": _SPANS,
    "coordinator.write.interest_kernels": _SPANS,
    "coordinator.write.limit_kernels.keep_seen": _OWN_TABLES,
    "coordinator.write.prepare_kernels": _SPANS,
    "m3metrics.encode_kernels": "writes as ``write-samples`` does, by the same steps",
    "m3msg.legacy.kernels": _OWN_TABLES,
    "m3msg.producer.kernels": _OWN_TABLES,
    "m3x.table_kernels": _OWN_TABLES,
}
"""Kernel, or module or package of kernels → why there is no row for it, or for some of them."""


class _Module:
    """What a module defines, imports and calls."""

    def __init__(self, path: Path) -> None:
        self.name = ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
        self.kernels: set[str] = set()
        self.imported: dict[str, str] = {}
        """Name here → dotted name of what it is."""
        self.by_address = False
        self.calls: set[str] = set()
        """Dotted names, as they are written, of what plain functions call or hand on."""
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                for one in node.names:
                    self.imported[one.asname or one.name] = f"{node.module}.{one.name}"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and any("njit" in ast.unparse(one) for one in node.decorator_list):
                self.kernels.add(node.name)
                self.by_address |= any(isinstance(one, ast.Name) and one.id in _BY_ADDRESS for one in ast.walk(node))
            else:
                self.calls |= set(_named(node))

    def resolved(self) -> Iterator[str]:
        """``module.name`` of what is called."""
        for call in self.calls:
            first, _, rest = call.partition(".")
            yield f"{self.imported.get(first, f'{self.name}.{first}')}{'.' if rest else ''}{rest}"


def _named(node: ast.AST) -> Iterator[str]:
    """Names and dotted names in a statement, but for imports."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            yield one.id
        elif isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name):
            yield f"{one.value.id}.{one.attr}"


def called_from_python() -> set[str]:
    """``module.name`` of the kernels by address that plain code of other modules calls."""
    modules = [_Module(path) for path in sorted(SOURCES.rglob("*.py"))]
    # A package's door hands on what a module of it defines.
    handed = {f"{one.name}.{name}": target for one in modules for name, target in one.imported.items()}
    kernels = {f"{one.name}.{name}" for one in modules if one.by_address for name in one.kernels}
    found = set()
    for one in modules:
        names = set(one.resolved())
        for _ in range(_DOORS):
            names = {name if name in kernels else handed.get(name, name) for name in names}
        found |= {name for name in names & kernels if not name.startswith(f"{one.name}.")}
    return found


def without_reason(left: set[str]) -> set[str]:
    """Those of these kernels for which no reason is given."""
    return {name for name in left if not any(_is_below(name, place) for place in REASONS)}


def reasons_of_nothing(left: set[str]) -> set[str]:
    """Reasons that are given for none of these kernels."""
    return {place for place in REASONS if not any(_is_below(name, place) for name in left)}


def _is_below(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def run_by_rows() -> list[str]:
    """Those of them that some inputs of all parsers have called: a kernel is loaded when it is."""
    for parser in PARSERS.values():
        seeds = parser.seeds()
        for data in inputs(seeds, parser.words, parser.name, _INPUTS) if parser.kernel else seeds:
            parser.check(data)
    found = []
    for name in sorted(called_from_python()):
        module, _, kernel = name.rpartition(".")
        if getattr(importlib.import_module(module), kernel).signatures:
            found.append(name)
    return found


if __name__ == "__main__":
    print(json.dumps(run_by_rows()))
