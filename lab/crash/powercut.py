"""A power cut, played: of the files below a directory nothing is left but what was synced.

The processes note their fsyncs (``lab/crash/synced``). A file that no synced directory has is gone, one that was renamed since has its old
name, and each has the length that its last fsync found. What was deleted is not brought back.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Lost", "Notes", "cut", "environment"]

_HOOK = Path(__file__).resolve().parent / "synced"


def environment(notes: Path) -> dict[str, str]:
    """What processes need that note their fsyncs in that file."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{_HOOK}{os.pathsep + before if before else ''}", "M3CRASH_SYNCED": str(notes)}


@dataclass(slots=True)
class Notes:
    """What was durable, by inode."""

    sizes: dict[int, int] = field(default_factory=dict)
    names: dict[int, dict[str, int]] = field(default_factory=dict)
    """Of directories."""
    longest_s: float = 0.0
    """The longest fsync."""

    @classmethod
    def read(cls, path: Path) -> "Notes":
        """What the processes have noted; half a line at the end is one that was killed meanwhile."""
        notes = cls()
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                note = json.loads(line)
            except ValueError:
                continue
            notes.longest_s = max(notes.longest_s, note.get("took_s", 0.0))
            if "gone" in note:
                notes.forget(note["gone"])
            elif note["names"] is None:
                notes.sizes[note["inode"]] = note["size"]
            else:
                notes.names[note["inode"]] = note["names"]
        return notes

    def forget(self, inode: int) -> None:
        """A file is deleted: what gets its inode next is another one."""
        self.sizes.pop(inode, None)
        for directory, names in self.names.items():
            self.names[directory] = {name: number for name, number in names.items() if number != inode}


@dataclass(slots=True)
class Lost:
    """What a cut has taken."""

    files: int = 0
    nbytes: int = 0


def cut(root: Path, notes: Notes) -> Lost:
    """Takes what was not synced from all files below ``root``, which no process has open."""
    lost = Lost()
    for directory in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        _cut_directory(directory, notes, lost)
    return lost


def _cut_directory(directory: Path, notes: Notes, lost: Lost) -> None:
    durable = {inode: name for name, inode in notes.names.get(directory.stat().st_ino, {}).items()}
    for path in [path for path in directory.iterdir() if path.is_file()]:
        found = path.stat()
        name = durable.get(found.st_ino)
        if name is None:
            lost.files += 1
            lost.nbytes += found.st_size
            path.unlink()
            continue
        size = min(notes.sizes.get(found.st_ino, 0), found.st_size)
        lost.nbytes += found.st_size - size
        os.truncate(path, size)
        if name != path.name and not (directory / name).exists():
            path.rename(directory / name)
