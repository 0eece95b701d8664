"""Where the journals of an instance's workers are, and which shards each has.

``{folder}/layout`` says it, JSON; ``{folder}/{generation}/worker-{n}`` is the journal of a worker. As long as the number of workers stays,
shards stay with the worker whose journal has them. With another number a new generation begins: each worker replays all journals of the
one before, keeps what is its own, and saves it; when all have done that the old generation is removed.

``{folder}/holding`` is what the next process has to know to tell which windows are whole (``election.completeness.Remembered``), JSON,
written in place every second. ``{folder}/lock`` is held as long as the instance runs, so that no two of them write here.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from aggregator import ipc
from aggregator.journal import JournalOptions
from aggregator.supervisor.election.completeness import Remembered
from m3x.log import logger
from m3x.private import private_directory
from m3x.segments import SyncPolicy

__all__ = ["Journals", "unfinished"]

log = logger(__name__)

_VERSION = 1
_FIRST = 1


class _Layout(msgspec.Struct, frozen=True):
    """What the file says."""

    version: int
    generation: int
    workers: int
    owners: dict[int, int]
    """Shard → worker."""
    previous: int = 0
    """The generation that is being replayed into this one, …"""
    previous_workers: int = 0
    """… and how many workers it had; 0: none is."""


class Journals:
    """See the module. A folder that cannot be written is no reason not to start: workers say so."""

    def __init__(self, folder: Path, sync: SyncPolicy, workers: int) -> None:
        self._folder = folder
        self._sync: SyncPolicy = sync
        self._holding = folder / "holding"
        self.remembered = self._recall()
        """What the process before this one left; None: nothing that can be used."""
        self._ready: set[int] = set()
        found = self._read()
        if found is None:
            found = _Layout(_VERSION, _FIRST, workers, {})
        elif found.workers != workers:
            if found.previous_workers:
                # The last one was never complete: what it has is not all there is.
                log.warning("the number of workers changed before the journals had been taken over")
            source = (found.previous or found.generation) if found.previous_workers else found.generation
            count = found.previous_workers or found.workers
            found = _Layout(_VERSION, found.generation + 1, workers, {}, source, count)
            log.info("taking over the journals of another number of workers", workers=workers, before=count)
        self._layout = found

    @property
    def whole(self) -> bool:
        """Whether what the workers have acknowledged is in their own journals, and in no earlier generation."""
        return not self._layout.previous_workers and len(self._ready) >= self._layout.workers

    @property
    def owners(self) -> Mapping[int, int]:
        """Which worker's journal has which shard."""
        return self._layout.owners

    def assign(self, owners: Mapping[int, int]) -> None:
        """Shards belong to these workers from now on."""
        if dict(owners) != self._layout.owners:
            self._write(msgspec.structs.replace(self._layout, owners=dict(owners)))

    def options(self, worker: int, shards: ipc.Shards) -> JournalOptions:
        """For a worker that is started."""
        layout = self._layout
        return JournalOptions(
            path=str(self._path(layout.generation, worker)),
            sync=self._sync,
            shards=shards,
            sources=tuple(str(self._path(layout.previous, number)) for number in range(layout.previous_workers)),
        )

    def lost(self, worker: int) -> None:
        """A worker has no journal."""
        self._ready.discard(worker)

    def ready(self, worker: int) -> None:
        """A worker has replayed what there was, and saved it if it was elsewhere."""
        self._ready.add(worker)
        self._finish()

    def _finish(self) -> None:
        """Forgets the generation before, once all of it has been taken over and the file says so: until then the next process looks
        there."""
        layout = self._layout
        if not layout.previous_workers or len(self._ready) < layout.workers:
            return
        if not self._write(msgspec.structs.replace(layout, previous=0, previous_workers=0)):
            self._layout = layout
            return
        for generation in range(layout.previous, layout.generation):
            shutil.rmtree(self._folder / str(generation), ignore_errors=True)
        log.info("the journals of another number of workers were taken over")

    # --- what the next process has to know

    def remember(self, what: Remembered) -> None:
        """For the next process. What is not there any more when it starts is not held."""
        self._finish()
        try:
            with open(self._holding, "r+b" if self._holding.exists() else "wb") as file:
                file.truncate(file.write(msgspec.json.encode(what) + b"\n"))
        except OSError as error:
            log.error_limited(
                "what this instance holds cannot be written down", path=str(self._holding), error=str(error)
            )
            self.forget()

    def forget(self) -> None:
        """The next process is not to trust in what the journals have."""
        with contextlib.suppress(OSError):
            self._holding.unlink(missing_ok=True)

    def _recall(self) -> Remembered | None:
        try:
            line = self._holding.read_bytes().partition(b"\n")[0]
            return msgspec.json.decode(line, type=Remembered)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.error("it cannot be told which windows are whole", path=str(self._holding), error=str(error))
            return None

    def _path(self, generation: int, worker: int) -> Path:
        return self._folder / str(generation) / f"worker-{worker}"

    def _read(self) -> _Layout | None:
        file = self._folder / "layout"
        try:
            found = msgspec.json.decode(file.read_bytes(), type=_Layout)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.error(
                "the layout of the journals cannot be read; they are left aside", path=str(file), error=str(error)
            )
            return self._after_all()
        if found.version != _VERSION:
            log.error("the layout of the journals is of another version; they are left aside", found=found.version)
            return self._after_all()
        return found

    def _after_all(self) -> _Layout | None:
        """A generation that nothing is in yet."""
        numbers = [0]
        with contextlib.suppress(OSError):
            numbers += [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]
        return _Layout(_VERSION, max(numbers) + 1, 0, {}) if max(numbers) else None

    def _write(self, layout: _Layout) -> bool:
        """Whether the file says it as well."""
        self._layout = layout
        try:
            private_directory(self._folder)
            new = self._folder / "layout.new"
            with open(new, "wb") as file:
                file.write(msgspec.json.encode(layout) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            new.rename(self._folder / "layout")
        except OSError as error:
            log.error_limited("the layout of the journals cannot be written", path=str(self._folder), error=str(error))
            return False
        return True


def unfinished(folder: Path) -> int:
    """With how many workers a process has to go on that ended while journals of another number were taken over; 0: with any number.

    What the workers of the new generation have acknowledged since is in their journals, and everything else in those of the one before.
    """
    try:
        found = msgspec.json.decode((folder / "layout").read_bytes(), type=_Layout)
    except (OSError, msgspec.MsgspecError):
        return 0  # ``Journals`` says it.
    return found.workers if found.version == _VERSION and found.previous_workers else 0
