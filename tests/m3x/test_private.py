"""Directories for the user alone."""

import os
import stat
from pathlib import Path

import pytest

from m3x.config import ConfigError
from m3x.private import private_directory
from m3x.processes import run_directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_all_that_is_made_is_private_and_the_rest_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    private_directory(tmp_path / "there/a/b")
    assert [mode(tmp_path / name) for name in ("there", "there/a", "there/a/b")] == [0o755, 0o700, 0o700]
    private_directory(tmp_path / "there/a/b")


def test_sockets_lie_where_nobody_else_looks(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with run_directory(str(tmp_path / "run"), key="k", prefix="m3-", longest=200) as path:
            assert mode(path) == mode(tmp_path / "run") == 0o700
    finally:
        os.umask(old)


def test_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"k: .*/file/run cannot be made: "),
        run_directory(str(tmp_path / "file/run"), key="k", prefix="m3-", longest=200),
    ):
        pass
