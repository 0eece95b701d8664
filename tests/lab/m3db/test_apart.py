"""The played node is a judge of the client: it shares nothing with it."""

import ast
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "lab/m3db"
MAY_DRIVE_IT = ("drill",)
"""What runs services that contain the client."""


def test_nothing_of_the_client_is_imported() -> None:
    modules = [path for path in FOLDER.glob("*.py") if path.stem not in MAY_DRIVE_IT]
    assert len(modules) > 10
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("m3db", "coordinator")], path
