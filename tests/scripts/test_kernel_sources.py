"""What makes the kernels be compiled anew."""

from pathlib import Path

import pytest
from scripts import kernel_sources


def test_the_digest_covers_what_kernels_contain_and_nothing_else() -> None:
    roots = kernel_sources.kernels()
    found = {str(path.relative_to(kernel_sources.SOURCES)) for path in kernel_sources.closure(roots)}
    assert {"aggregator/engine/tables/layout.py", "aggregator/engine/reasons.py", "m3msg/rows.py"} <= found
    assert {str(path.relative_to(kernel_sources.SOURCES)) for path in roots} <= found
    assert "aggregator/engine/engine.py" not in found


def test_a_constant_two_imports_away_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room").mkdir()
    for name, text in {
        "__init__": "",
        "far": "N = 1\n",
        "near": "from room.far import N\n",
        "some_kernels": "import numba\nfrom room import near\n\n@njit\ndef f(): ...\n",
        "other": "X = 1\n",
    }.items():
        (tmp_path / "room" / f"{name}.py").write_text(text)
    monkeypatch.setattr(kernel_sources, "SOURCES", tmp_path)
    first = kernel_sources.digest()
    (tmp_path / "room" / "other.py").write_text("X = 2\n")
    assert kernel_sources.digest() == first
    (tmp_path / "room" / "far.py").write_text("N = 2\n")
    assert kernel_sources.digest() != first
