"""Prints a digest of all that the compiled kernels are made of: scripts/environment.sh compiles them anew when it changes.

A kernel contains the constants and other kernels that its module imports, but numba's cache looks only at the kernel's own file. So the
digest covers every module that compiles something (``@njit``) and what these import of this project, directly or through others.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src"


def found(name: str) -> list[Path]:
    """The project's file that a module's name stands for; none for what is no module of the project."""
    place = SOURCES.joinpath(*name.split("."))
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]


def imported(path: Path) -> Iterator[Path]:
    """The project's files whose names the module at ``path`` uses: of ``from package import module`` that of the module."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from found(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield from found(f"{node.module}.{alias.name}") or found(node.module)


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


def kernels() -> list[Path]:
    """The modules that compile something."""
    return [path for path in sorted(SOURCES.rglob("*.py")) if b"\n@njit" in path.read_bytes()]


def digest() -> str:
    """Hexadecimal digest of names and contents."""
    result = hashlib.sha256()
    for path in sorted(closure(kernels())):
        result.update(f"{path.relative_to(SOURCES)}\0".encode())
        result.update(hashlib.sha256(path.read_bytes()).digest())
    return result.hexdigest()


if __name__ == "__main__":
    print(digest())
