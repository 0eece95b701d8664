"""A real instance on a machine whose clock somebody sets (libfaketime: its processes see another wall clock, and the real boot clock)."""

import asyncio
import contextlib
import shutil
import time
from pathlib import Path

import pytest
from lab.waiting import until
from tests.aggregator.supervisor.instance_rig import ID, Rig
from tests.aggregator.supervisor.test_durable import POLICY
from tests.real_servers import require_binary

from aggregator.config import kv_keys, load_config
from m3cluster.kv import KeyNotFoundError
from m3metrics.codec.unaggregated import CounterWithMetadatas

pytestmark = pytest.mark.integration

S = 1_000_000_000
KEYS = kv_keys(load_config([Path(__file__).resolve().parents[3] / "configs/local/m3aggregator.yml"], {}).value)


class SetClock:
    """What an instance sees; ``env`` makes it see it."""

    def __init__(self, file: Path) -> None:
        require_binary("faketime")
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        self._file = file
        self.set_by(0)
        self.env = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
        }  # fmt: skip

    def set_by(self, seconds: int) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}")
        fresh.rename(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> SetClock:
    return SetClock(tmp_path / "set-by")


async def feed(rig: Rig, seconds: float) -> int:
    """Counters of 1, ten a second; how many."""
    sent, until_s = 0, time.monotonic() + seconds
    while time.monotonic() < until_s:
        rig.client.send([CounterWithMetadatas(id=b"c", value=1, metadatas=POLICY)])
        sent += 1
        await asyncio.sleep(0.1)
    return sent


async def test_a_clock_that_is_set_and_set_back_at_once_changes_nothing(rig: Rig, clock: SetClock) -> None:
    await rig.start(env=clock.env)
    await rig.until_ready()
    began_ns = time.time_ns()
    sent = await feed(rig, 3)
    for seconds in (3600, -3600):
        clock.set_by(seconds)
        sent += await feed(rig, 2)
        clock.set_by(0)
        sent += await feed(rig, 2)
    await until(lambda: rig.recorder.total("c") == sent, 60, what="every sample in a window")
    windows = rig.recorder.of("c")
    assert all(began_ns < at < time.time_ns() for at in windows)
    assert all(len(values) == 1 for values in windows.values())
    assert (await rig.get("/ready"))[0] == 200


async def test_flush_times_of_a_clock_that_was_ahead_are_told_and_can_be_forgotten(rig: Rig, clock: SetClock) -> None:
    clock.set_by(3600)
    await rig.start(env=clock.env)
    await rig.until_ready()
    await feed(rig, 1)
    await until(lambda: rig.recorder.total("c") > 0, 60)
    await rig.stop()
    clock.set_by(0)
    await rig.start(env=clock.env)
    said: list[str] = []

    async def told() -> bool:
        status, document = await rig.get("/ready")
        said[:] = [reason for reason in document.get("reasons", []) if "ahead of this machine's clock" in reason]
        return status == 503 and bool(said)

    await until(told, 60, what="/ready to tell")
    keys = [KEYS.flush_times(1), KEYS.delivered(1)]
    assert f"delete {keys[0]} and {keys[1]} and their journals" in said[0]
    # What it says.
    await rig.stop()
    for key in keys:
        with contextlib.suppress(KeyNotFoundError):
            await rig.store.delete(key)
    shutil.rmtree(rig.folder / "journal" / ID)
    await rig.start(env=clock.env)
    await rig.until_ready()
    before = rig.recorder.total("c")
    sent = await feed(rig, 1)
    await until(lambda: rig.recorder.total("c") == before + sent, 60, what="what was sent since")
