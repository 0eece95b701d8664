"""A file of what a node has stored, so that it is still there after the process was killed: a line of JSON per point."""

import json
from pathlib import Path

from lab.m3db.series import BrokenTagsError, CutTagsError, parse_tags
from lab.m3db.storage import Point, Storage

__all__ = ["Journal"]


class Journal:
    """Appends to ``path`` what a ``Writer`` says it has stored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Each line reaches the operating system before the answer does: a process that is killed loses nothing.
        self._file = path.open("a", buffering=1)

    def append(self, namespace: str, series_id: bytes, block: bytes, point: Point, block_ns: int) -> None:
        """One point."""
        line = [
            namespace, series_id.hex(), block.hex(), point.time_ns, point.bits, point.unit, point.annotation.hex(), block_ns,
        ]  # fmt: skip
        self._file.write(json.dumps(line) + "\n")

    def load(self, storage: Storage) -> None:
        """Stores all of the file again; a last line that is not whole is left out."""
        for text in self._path.read_text().splitlines(keepends=True):
            if not text.endswith("\n"):
                continue
            namespace, series_id, block, time_ns, bits, unit, annotation, block_ns = json.loads(text)
            block_bytes = bytes.fromhex(block)
            try:
                tags, _ = parse_tags(block_bytes)
            except (BrokenTagsError, CutTagsError):
                tags = []
            point = Point(time_ns, bits, unit, bytes.fromhex(annotation))
            storage.write(namespace, bytes.fromhex(series_id), block_bytes, tags, point, block_ns)
