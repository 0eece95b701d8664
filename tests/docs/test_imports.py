"""No module of ``src`` imports, through whichever others, itself: neither when it is loaded, nor later, nor for types only.

A package's ``__init__`` counts only where it is imported by its name: Python runs it before each of its modules, whatever these import.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def module_of(path: Path, root: Path) -> str:
    """The name under which a file is imported."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports(root: Path) -> dict[str, set[str]]:
    """Module → the modules below ``root`` that it imports, wherever in its text."""
    files = {module_of(path, root): path for path in root.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: a relative import"
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in files else str(node.module) for name in below}
        graph[module] = found & files.keys()
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules each of which imports the one before it, the first also at the end; empty: there are none such."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_src_has_no_circle() -> None:
    graph = imports(ROOT / "src")
    assert len(graph) > 200
    assert circle(graph) == []


@pytest.mark.parametrize(
    "back",
    [
        "import house.door",
        "from house import door",
        "from house.door import handle",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.door import handle",
        "def turn():\n    from house.door import handle",
    ],
)
def test_circles_are_found(tmp_path: Path, back: str) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "house/__init__.py").write_text("from house.door import handle")
    (tmp_path / "house/door.py").write_text("from house.key import bit")
    (tmp_path / "house/key.py").write_text("import re")
    assert circle(imports(tmp_path)) == []
    (tmp_path / "house/key.py").write_text(back)
    assert set(circle(imports(tmp_path))) == {"house.door", "house.key"}
