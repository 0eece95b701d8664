"""Another number of workers while an instance runs: nothing acked is lost or comes twice, nobody is refused, and it says what it does."""

import asyncio
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import yaml
from lab.waiting import until
from tests.aggregator.supervisor.instance_rig import ID, Rig
from tests.aggregator.supervisor.test_durable import load, totals

from aggregator.config import ServiceConfig, load_config
from aggregator.supervisor import Instance
from aggregator.supervisor.problems import PartOfProblems, Problems
from aggregator.supervisor.processes.journals import Journals, unfinished
from aggregator.supervisor.running import parts
from m3x.live_config import NeedsRestartError, Part


def configure(rig: Rig, **instance: Any) -> None:
    """Writes keys of the section ``instance`` into the file of a running instance."""
    assert rig.instance is not None
    found = yaml.safe_load(rig.instance.overlay.read_text())
    found["instance"] |= instance
    rig.instance.overlay.write_text(yaml.safe_dump(found))


async def reload(rig: Rig) -> dict[str, Any]:
    answer = await rig.http.post("/-/reload")
    found: dict[str, Any] = answer.json()
    return found


def taken(*keys: str) -> dict[str, Any]:
    """The answer to a reload that has taken them, and had nothing else to take."""
    return {"ok": True, "applied": list(keys), "needsRestart": [], "problems": []}


async def resized(rig: Rig, workers: int) -> None:
    async def there() -> bool:
        status, _ = await rig.get("/ready")
        return status == 200 and len(rig.children("aggregator.worker")) == workers

    await until(there, 120, every_s=0.1, what=f"{workers} workers that take samples")


@contextlib.asynccontextmanager
async def watched(rig: Rig) -> AsyncIterator[tuple[set[str], list[str]]]:
    """What ``/ready`` says meanwhile, and which connections to its port are refused."""
    said: set[str] = set()
    refused: list[str] = []

    async def look() -> None:
        assert rig.instance is not None
        host, port = rig.instance.socket_address
        while True:
            _, found = await rig.get("/ready")
            said.update(found.get("reasons", ()))
            try:
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
            except OSError as error:
                refused.append(str(error))
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    try:
        yield said, refused
    finally:
        looking.cancel()
        await asyncio.wait([looking])


@pytest.mark.integration
async def test_no_sample_is_lost_or_doubled_from_one_worker_to_two_and_back(rig: Rig) -> None:
    await rig.start(
        None,
        {"workers": 1},
        bufferDurationForPastTimedMetric="60s",
        forwarding={"maxConstDelay": "12s", "maxSingleDelay": "0s"},
    )
    await rig.until_ready()
    supervisor = rig.process.pid
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    sent: Counter[str] = Counter()
    stop = asyncio.Event()
    running = asyncio.create_task(load(rig, sent, stop))
    async with watched(rig) as (said, refused):
        for before, workers in ((1, 2), (2, 1)):
            await until(lambda least=20 * before: len(rig.recorder.every) > least, 60, what="values come out")
            configure(rig, workers=workers)
            if workers == 2:
                assert await reload(rig) == taken("instance.workers")
            else:
                rig.process.popen.send_signal(signal.SIGHUP)
            await resized(rig, workers)
            assert any(f"the number of workers changes from {before} to {workers}" in text for text in said), said
        # Other keys that workers are made with go the same way.
        old = rig.worker(0)
        configure(rig, memoryLimitBytes=1 << 30)
        assert await reload(rig) == taken("instance.memoryLimitBytes")
        await until(lambda: rig.roles().get("worker 0", old) != old, 60, what="another worker")
        await resized(rig, 1)
        assert any("workers are started anew, as keys have changed" in text for text in said), said
        assert "of 1024 MiB" in (await rig.http.get("/debug/state")).json()["facts"]["memory of series and windows"]
    assert refused == []
    assert rig.process.pid == supervisor
    assert len([path for path in (rig.folder / "journal" / ID).iterdir() if path.name.isdecimal()]) == 1
    stop.set()
    await running
    await until(lambda: not rig.client.unacked, 60, what="acks")

    # Timed ones would be waited for too long; of those nothing may come twice.
    untimed = {name: value for name, value in sent.items() if not name.startswith("timed")}

    def complete() -> bool:
        found = totals(rig.recorder)
        return all(found[name] == value for name, value in untimed.items())

    try:
        await until(complete, 60, every_s=0.2, what="all values")
    except TimeoutError:
        found = totals(rig.recorder)
        wrong = {name: (found[name], value) for name, value in untimed.items() if found[name] != value}
        pytest.fail(f"{wrong}\n{rig.log()}")
    assert all(len(values) == 1 for values in rig.recorder.every.values())
    status, found = await rig.get("/ready")
    assert (status, [text for text in found["reasons"] + found["notes"] if "workers" in text]) == (200, [])
    assert await rig.stop() == 0


@pytest.mark.integration
async def test_where_samples_would_be_lost_a_restart_is_asked_for(rig: Rig) -> None:
    await rig.start(None, {"workers": 1, "journal": False})
    await rig.until_ready()
    before = rig.children("aggregator.worker")
    configure(rig, workers=2)
    assert await reload(rig) == {"ok": True, "applied": [], "needsRestart": ["instance.workers"], "problems": []}
    assert "without journals" in rig.log()
    assert rig.children("aggregator.worker") == before


# --- without processes


def test_the_number_of_the_command_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "m3aggregator.yml"
    path.write_text("kvClient: {embedded: {path: kv.sqlite}}\ninstance: {workers: 3}\n")
    loaded = load_config([path])
    told: list[int] = []
    instance = cast(Instance, SimpleNamespace(resize=told.append))
    _part(parts(instance, None)).take(loaded)
    assert told == [3]
    with pytest.raises(NeedsRestartError, match="the command line has --workers 1"):
        _part(parts(instance, 1)).take(loaded)
    assert told == [3]


def _part(found: list[Part[ServiceConfig]]) -> Part[ServiceConfig]:
    return next(part for part in found if part.keys == ("instance.workers",))


def test_a_process_that_ended_while_it_took_journals_over_is_followed_by_as_many_workers(tmp_path: Path) -> None:
    """What the new generation has acknowledged would be lost with any other number."""
    first = Journals(tmp_path, "os", 2)
    first.assign({0: 0, 1: 1})
    assert (first.whole, unfinished(tmp_path)) == (False, 0)
    first.ready(0)
    first.ready(1)
    assert first.whole
    first.lost(1)
    assert not first.whole
    second = Journals(tmp_path, "os", 3)
    second.assign({0: 0, 1: 1, 2: 2})
    second.ready(0)
    assert (second.whole, unfinished(tmp_path)) == (False, 3)
    again = Journals(tmp_path, "os", unfinished(tmp_path))
    for worker in range(3):
        again.ready(worker)
    assert (again.whole, unfinished(tmp_path)) == (True, 0)
    (tmp_path / "layout").write_bytes(b"{")
    assert unfinished(tmp_path) == unfinished(tmp_path / "nowhere") == 0
    (tmp_path / "layout").write_bytes(msgspec.json.encode({"version": 99}))
    assert unfinished(tmp_path) == 0


def test_what_a_part_has_found_wrong_goes_with_it() -> None:
    whole = Problems()
    part = PartOfProblems(whole)
    whole.set("placement", "no placement")
    part.set("journal of worker 1", "no room", serious=False)
    part.set("clock", "it went back")
    assert (list(whole.reasons), list(whole.warnings)) == (["placement", "clock"], ["journal of worker 1"])
    part.set("clock", None)
    part.clear()
    assert (whole.reasons, whole.warnings) == ({"placement": "no placement"}, {})
