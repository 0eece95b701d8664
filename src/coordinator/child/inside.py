"""The aggregator inside, from the lock on its directory to its end."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from coordinator.child.cluster import make_cluster, take_away_candidates
from coordinator.child.process import ChildProcess
from coordinator.child.settings import Places, document
from coordinator.child.watching import Watching
from coordinator.config import CoordinatorConfig
from coordinator.config.inside import LONGEST_RUN_DIRECTORY
from m3cluster import kv
from m3cluster.placement import InvalidPlacementError, PlacementError
from m3x.config import ConfigError
from m3x.log import logger
from m3x.private import private_directory
from m3x.processes import run_directory
from m3x.segments import DirectoryLock, DirectoryLocked

__all__ = ["Inside", "inside"]

log = logger(__name__)

_MODULE = "aggregator"
SEVERAL = (
    "aggregation happens inside this coordinator, and only of what it is sent: if another one gets samples of the same series, or of the "
    "same rollup, each writes values of its part of them (docs/compatibility.md); send each series to one, or set "
    "downsample.remoteAggregator"
)


@dataclass(slots=True)
class Inside:
    """What the rest of the coordinator sees of it."""

    places: Places
    store: kv.Store
    """The KV of its cluster."""
    process: ChildProcess
    watching: Watching

    async def run(self) -> None:
        """Keeps the aggregator running, until its end."""
        await self.process.run()

    async def end(self) -> None:
        """No more samples come: it delivers what it has emitted, and ends."""
        await self.process.end()

    def reasons(self) -> list[str]:
        """Why it takes no samples, one line each; empty: it does."""
        return self.watching.reasons

    def notes(self) -> list[str]:
        """What else an operator should know."""
        return [SEVERAL, *self.watching.notes]


@contextlib.asynccontextmanager
async def inside(config: CoordinatorConfig, data_dir: Path) -> AsyncIterator[Inside]:
    """Makes everything that the aggregator needs; it is not running yet, and must have ended when the context does.

    Raises ``KVError``, ``OSError`` (the directory cannot be used, or another coordinator uses it).
    """
    section = config.embedded_aggregator
    data = (data_dir / section.directory).resolve()
    private_directory(data)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(_locked(data).close)
        try:
            run = stack.enter_context(
                run_directory(
                    section.run_directory,
                    key="embeddedAggregator.runDirectory",
                    prefix="m3coord-",
                    longest=LONGEST_RUN_DIRECTORY,
                )
            )
        except ConfigError as error:
            raise OSError(str(error)) from error
        places = Places(run, data)
        store = await kv.open_store(kv.Embedded(places.kv))
        stack.push_async_callback(store.close)
        file = run / "m3aggregator.yml"
        file.write_text(json.dumps(document(config, places, config.memory_shares), indent=1), encoding="utf-8")

        async def prepare() -> None:
            await take_away_candidates(store)

        try:
            await make_cluster(store, places)
        except (PlacementError, InvalidPlacementError) as error:
            raise kv.KVError(f"{places.kv}: {error}") from error
        process = ChildProcess(_MODULE, ["-f", str(file), "--data-dir", str(data)], prepare, kv.KVError)
        watching = Watching(places.pages, lambda: _state(process))
        stack.push_async_callback(watching.close)
        looking = asyncio.create_task(watching.run(), name="readiness of the aggregator")
        try:
            yield Inside(places, store, process, watching)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


def _state(process: ChildProcess) -> str:
    started = f"process {process.pid}" if process.pid else "its process is not running"
    code = process.last_code
    if code is None:
        return f"{started}, starting"
    ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"{started}, started again {process.restarts} times; it ended last with {ended}: see its lines in the log"


def _locked(directory: Path) -> DirectoryLock:
    """Two coordinators with one directory would write each other's journals."""
    try:
        return DirectoryLock(directory)
    except DirectoryLocked as error:
        raise OSError(
            f"{directory} is used by another coordinator, {error.holder}: "
            "give each one its own --data-dir, or embeddedAggregator.directory"
        ) from error
