"""Prints a digest of all that the compiled kernels are made of: scripts/environment.sh compiles them anew when it changes.

A kernel contains the constants and other kernels that its module imports, but numba's cache looks only at the kernel's own file. So the
digest covers every module named ``*kernels*.py`` and what these import of this project, directly or through others.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src"


def imported(path: Path) -> Iterator[Path]:
    """The project's files that the module at ``path`` imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = SOURCES.joinpath(*name.split("."))
            yield from (found for found in (place.with_suffix(".py"), place / "__init__.py") if found.is_file())


def closure(roots: list[Path]) -> set[Path]:
    """``roots`` and all that they import of this project."""
    seen: set[Path] = set()
    left = list(roots)
    while left:
        path = left.pop()
        if path not in seen:
            seen.add(path)
            left += imported(path)
    return seen


def digest() -> str:
    """Hexadecimal digest of names and contents."""
    result = hashlib.sha256()
    for path in sorted(closure(sorted(SOURCES.rglob("*kernels*.py")))):
        result.update(f"{path.relative_to(SOURCES)}\0".encode())
        result.update(hashlib.sha256(path.read_bytes()).digest())
    return result.hexdigest()


if __name__ == "__main__":
    print(digest())
