"""What is shipped does not need what is not."""

import ast
from collections.abc import Iterator
from pathlib import Path

from lab.cluster import ROOT

_NOT_SHIPPED = {"bench", "lab", "scripts", "tests"}


def imported(path: Path) -> Iterator[str]:
    """Top-level names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def test_src_imports_nothing_that_stays_here() -> None:
    files = list((ROOT / "src").rglob("*.py"))
    assert len(files) > 200
    assert [path for path in files if _NOT_SHIPPED & set(imported(path))] == []


def test_the_laboratory_and_the_benches_do_not_need_the_tests() -> None:
    for folder in ("lab", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not {"tests", "pytest", "hypothesis"} & set(imported(path)), path
