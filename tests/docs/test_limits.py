"""docs/limits.md keeps up with the code: each row of its tables of bounds has a test and a metric that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/limits.md"
HEADER = "| what | bound | when it is full | metric | test |"


def rows() -> list[list[str]]:
    """The cells of every row of every table of bounds."""
    found: list[list[str]] = []
    inside = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line == HEADER:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


ROWS = rows()


@cache
def functions_of(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if not skipped(node))


def skipped(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it is never run."""
    return any(ast.unparse(one).startswith("pytest.mark.skip") for one in function.decorator_list)


def plain(name: str) -> str:
    """As on the metrics page."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@cache
def texts() -> frozenset[str]:
    """Every string of the sources, and the parts of those that are put together, by words."""
    found: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 120:
                head, _, tags = node.value.partition("{")
                found |= {plain(head), plain(tags.rpartition("=")[2])}
    return frozenset(found)


def known(name: str) -> bool:
    """Whether a metric of that name is written anywhere: as it is, or behind the name of its scope."""
    parts = name.split("_")
    return any("_".join(parts[k:]) in texts() for k in range(len(parts)))


def test_there_are_rows_for_all_parts() -> None:
    assert len(ROWS) > 60
    assert all(len(row) == 5 for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_test_of_a_row_exists(row: list[str]) -> None:
    path, _, name = row[4].strip("`").partition("::")
    assert name in functions_of(ROOT / "tests" / path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_metric_of_a_row_exists(row: list[str]) -> None:
    metrics = re.findall(r"`([a-zA-Z0-9_]+)(?:\{(\w+)=([\w-]+)\})?`", row[3])
    assert metrics, "a row names a metric"
    for name, _, value in metrics:
        assert known(name), name
        assert not value or plain(value) in texts(), value


def test_what_does_not_exist_is_noticed() -> None:
    assert not known("front_no_such_thing")
    assert "test_no_such_thing" not in functions_of(ROOT / "tests/m3x/test_web.py")
