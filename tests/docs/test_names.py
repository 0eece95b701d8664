"""Names on pages about the code, and in the docstrings of packages, keep up with the tree.

On a page, ``code`` that looks like the path of a module or of a folder (``windows/values.py``, ``state/pipeline``, ``m3cluster/kv``) is
the end of a path that exists; the first folders may be left out. The docstring of a package names every module and package in it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "lab", "bench", "scripts", "configs", "docs")
PAGES = ("docs/architecture.md", "docs/developing.md", "CONTRIBUTING.md")
CODE = re.compile(r"`([\w./-]+)`")
ELSEWHERE = {
    "../shared/golden",  # beside the repository
    "_kv/prod/shardset/0/flush",  # a key
    "src/x",  # M3's
}
PACKAGES = sorted(path for top in ("src", "lab", "bench") for path in (ROOT / top).rglob("__init__.py"))


def tree(root: Path) -> list[str]:
    """Every file and folder, and every module without its ``.py``; each with a slash before it."""
    found = [path for top in FOLDERS for path in [root / top, *(root / top).rglob("*")]]
    names = [f"/{path.relative_to(root)}" for path in found if "__pycache__" not in path.parts]
    return names + [name.removesuffix(".py") for name in names]


def missing(text: str, names: list[str]) -> Iterator[str]:
    """The paths in code that no name of ``names`` ends with."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in CODE.findall(prose):
        is_path = (not code.startswith("/") and "/" in code) or code.endswith(".py")
        if is_path and code not in ELSEWHERE and not any(name.endswith(f"/{code.rstrip('/')}") for name in names):
            yield code


@pytest.mark.parametrize("page", PAGES)
def test_paths_on_pages_exist(page: str) -> None:
    assert list(missing((ROOT / page).read_text(encoding="utf-8"), tree(ROOT))) == []


def unnamed(package: Path) -> set[str]:
    """The modules and packages beside an ``__init__.py`` that its docstring leaves out."""
    docstring = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or ""
    named = {word for code in re.findall(r"``([^`]+)``", docstring) for word in re.findall(r"\w+", code)}
    modules = {path.stem for path in package.parent.glob("*.py")} - {"__init__", "__main__"}
    return (modules | {path.parent.name for path in package.parent.glob("*/__init__.py")}) - named


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_docstrings_of_packages_name_what_is_in_them(package: Path) -> None:
    assert unnamed(package) == set()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with one package."""
    (tmp_path / "src/house/room").mkdir(parents=True)
    (tmp_path / "src/house/__init__.py").write_text('"""A house: ``door``, and ``room/bed`` behind it."""\n')
    (tmp_path / "src/house/door.py").write_text("")
    (tmp_path / "src/house/room/__init__.py").write_text('"""Open the bed first."""\n')
    (tmp_path / "src/house/room/bed.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("`room/bed.py`, `house/door`, `house/room`, `src/house/room/`, `bed.py`", []),
        ("`house.door`, `/ready`, `a / b`, `bed`", []),
        ("```\n`room/chair.py`\n```\n", []),
        ("`room/chair.py` and `room/bed.py`", ["room/chair.py"]),
        ("`oom/bed.py`", ["oom/bed.py"]),
        ("`house/chair`", ["house/chair"]),
        ("`chair.py`", ["chair.py"]),
    ],
)
def test_what_is_missing(small: Path, line: str, found: list[str]) -> None:
    assert list(missing(line, tree(small))) == found


def test_what_is_unnamed(small: Path) -> None:
    assert unnamed(small / "src/house/__init__.py") == set()
    assert unnamed(small / "src/house/room/__init__.py") == {"bed"}
