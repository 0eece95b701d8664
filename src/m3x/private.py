"""Directories that nobody but the user of the service looks into."""

from pathlib import Path

__all__ = ["private_directory"]


def private_directory(path: Path) -> None:
    """Makes it, and those above it that are missing, for the user alone. One that is there stays as it is. Raises ``OSError``."""
    for folder in reversed(path.parents):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
