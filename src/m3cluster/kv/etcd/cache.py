"""The last known values in a file, so that a start without etcd works (docs/m3/cluster.md, cache file).

The file is M3's: JSON, ``{"values": {"<key>": {"value": "<base64>", "version": N, "revision": M}}}``, with ``createRevision`` added. It is
written from a thread, at most twice a second, and replaced as a whole.
"""

import asyncio
import os
from pathlib import Path

import msgspec

from m3cluster.kv.store import Value
from m3x.log import logger

__all__ = ["Cache"]

log = logger(__name__)

_PAUSE_S = 0.5


class _Entry(msgspec.Struct, rename="camel"):
    value: bytes | None
    version: int
    revision: int
    create_revision: int = 0


class _File(msgspec.Struct):
    values: dict[str, _Entry]


class Cache:
    """Values by key. Without a ``path`` nothing is kept. A file that cannot be read or written costs one warning."""

    def __init__(self, path: Path | None, directory_mode: int = 0o755) -> None:
        self._path = path
        self._mode = directory_mode
        self._values: dict[str, Value] = {}
        self._changed = asyncio.Event()
        self._warned = False

    @property
    def enabled(self) -> bool:
        """Whether values are kept."""
        return self._path is not None

    def get(self, key: str) -> Value | None:
        """The last known value."""
        return self._values.get(key)

    def put(self, key: str, value: Value | None, *, newer_only: bool = True) -> None:
        """``key`` has this value now (None: it does not exist); with ``newer_only`` an older revision is ignored."""
        if self._path is None:
            return
        old = self._values.get(key)
        if value is None:
            if old is None:
                return
            del self._values[key]
        else:
            if old is not None and (old == value or (newer_only and old.mod_revision > value.mod_revision)):
                return
            self._values[key] = value
        self._changed.set()

    async def load(self) -> None:
        """Reads the file if there is one."""
        if self._path is None:
            return
        try:
            data = await asyncio.to_thread(self._path.read_bytes)
            entries = msgspec.json.decode(data, type=_File).values
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("the KV cache cannot be read, starting without it", file=str(self._path), error=str(error))
            return
        self._values = {
            key: Value(entry.value or b"", entry.version, entry.create_revision, entry.revision)
            for key, entry in entries.items()
        }

    async def run(self) -> None:
        """Writes what changes; runs until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_PAUSE_S)
            await self.save()

    async def save(self) -> None:
        """Writes the file if anything has changed since."""
        if self._path is None or not self._changed.is_set():
            return
        self._changed.clear()
        entries = {
            key: _Entry(value.data, value.version, value.mod_revision, value.create_revision)
            for key, value in self._values.items()
        }
        try:
            await asyncio.to_thread(self._write, self._path, entries)
        except (OSError, ValueError) as error:
            if not self._warned:
                log.warning(
                    "the KV cache cannot be written, so a later start needs etcd; make its folder writable",
                    file=str(self._path),
                    error=str(error),
                )
            self._warned = True

    def _write(self, path: Path, entries: dict[str, _Entry]) -> None:
        path.parent.mkdir(mode=self._mode, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            draft.write_bytes(msgspec.json.encode(_File(entries)) + b"\n")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
