"""What a real instance goes on with: what it holds after a restart, other workers, other limits, and a folder that somebody else has."""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lab.instances import Aggregator
from lab.kv import kv_of
from lab.waiting import until
from tests.aggregator.supervisor.instance_rig import ID, Rig
from tests.aggregator.supervisor.test_durable import POLICY, load, totals

from aggregator.config import kv_keys, load_config
from aggregator.supervisor.election.completeness import Remembered
from aggregator.supervisor.flushing.holding import Holding, decode_holding
from m3cluster.kv import KeyNotFoundError
from m3cluster.proto import encode
from m3cluster.proto.messages import INT64_PROTO
from m3metrics.codec.unaggregated import CounterWithMetadatas

pytestmark = pytest.mark.integration

S = 1_000_000_000
KEYS = kv_keys(load_config([Path(__file__).resolve().parents[3] / "configs/local/m3aggregator.yml"], {}).value)


async def holding_of(rig: Rig) -> Holding | None:
    """What the instance says of itself in the KV."""
    try:
        return decode_holding((await rig.store.get(f"{KEYS.complete_since(1)}/{ID}")).data)
    except KeyNotFoundError:
        return None


def folder_of(rig: Rig) -> Path:
    return rig.folder / "journal" / ID


async def acked(rig: Rig) -> None:
    await until(lambda: not rig.client.unacked, what="acks")


async def test_another_process_holds_what_the_one_before_had_but_for_the_gap(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    rig.client.send([CounterWithMetadatas(id=b"c", value=1, metadatas=POLICY)])
    await acked(rig)

    def remembered() -> Remembered | None:
        try:
            return msgspec.json.decode((folder_of(rig) / "holding").read_bytes().splitlines()[0], type=Remembered)
        except (FileNotFoundError, IndexError):
            return None

    def knows_its_producers() -> bool:
        found = remembered()
        return found is not None and found.peers == {"127.0.0.1": 1}

    await until(knows_its_producers, 60, what="the producer is known")
    before = await holding_of(rig)
    assert before is not None
    assert rig.instance is not None
    killed = time.time_ns()
    rig.instance.kill()
    last = remembered()
    assert last is not None
    rig.instance.start()

    async def whole() -> bool:
        found = await holding_of(rig)
        return found is not None and bool(found.gaps) and not found.gaps[-1].open

    await until(whole, 120, every_s=0.1, what="the end of the gap")
    after = await holding_of(rig)
    assert after is not None
    assert after.since_ns == before.since_ns
    [gap] = after.gaps
    assert last.through_ns <= gap.from_ns <= killed < gap.to_ns <= time.time_ns()
    assert not gap.lost, rig.log()
    await rig.until_ready()
    assert await rig.stop() == 0, rig.log()
    # A front that is told to end has no producers any more; the next one waits for them all the same.
    last = remembered()
    assert last is not None
    assert last.peers == {"127.0.0.1": 1}
    assert last.holding == after


async def test_with_another_number_of_workers_no_window_is_lost(rig: Rig) -> None:
    past: dict[str, Any] = {"bufferDurationForPastTimedMetric": "60s"}
    await rig.start(2, **past)
    await rig.until_ready()
    sent: Counter[str] = Counter()
    stop = asyncio.Event()
    running = asyncio.create_task(load(rig, sent, stop))
    for workers in (1, 3):
        await asyncio.sleep(1.5)
        assert rig.instance is not None
        rig.instance.kill()
        await rig.start(workers, **past)
        await rig.until_ready()
        generations = [path.name for path in folder_of(rig).iterdir() if path.name.isdecimal()]
        assert len(generations) == 1, "what was taken over is not removed"
    await asyncio.sleep(1.0)
    stop.set()
    await running
    await acked(rig)
    untimed = {name: value for name, value in sent.items() if not name.startswith("timed")}

    def complete() -> bool:
        found = totals(rig.recorder)
        return all(found[name] == value for name, value in untimed.items())

    try:
        await until(complete, 60, every_s=0.5, what="all values")
    except TimeoutError:
        found = totals(rig.recorder)
        pytest.fail(f"{ {n: (found[n], v) for n, v in untimed.items() if found[n] != v} }\n{rig.log()}")
    assert all(len(values) == 1 for values in rig.recorder.every.values())


async def test_limits_that_were_set_meanwhile_hold_from_the_end_of_the_replay_on(rig: Rig) -> None:
    await rig.start(1)
    await rig.until_ready()
    many = [CounterWithMetadatas(id=b"c", value=1, metadatas=POLICY) for _ in range(50)]
    rig.client.send(many)
    await acked(rig)
    assert rig.instance is not None
    rig.instance.kill()
    await rig.store.set(KEYS.values_limit, encode(INT64_PROTO, {"value": 3}))
    rig.instance.start()
    await rig.until_ready()
    await until(lambda: totals(rig.recorder)["c"] >= 50, 60, what="what was sent before")
    assert totals(rig.recorder)["c"] == 50
    rig.client.send(many)
    await acked(rig)
    # All fifty may have come in two seconds.
    await until(lambda: totals(rig.recorder)["c"] > 50, 60, what="what the limit allows")
    assert totals(rig.recorder)["c"] <= 56


async def test_a_second_process_waits_for_the_folder_and_says_who_has_it(rig: Rig) -> None:
    await rig.start(1)
    await rig.until_ready()
    assert rig.instance is not None
    place = rig.folder / "second"
    place.mkdir()
    overlay = {"instance": {"dataDirectory": str(rig.folder)}}
    second = Aggregator(ID, place, kv_of("embedded", rig.folder).section("m3aggregator"), overlay=overlay)
    second.start()
    try:
        reasons: list[str] = []

        async def waits() -> bool:
            second.process.check()
            try:
                reasons[:] = (await asyncio.to_thread(second.json, "/ready", 2.0))["reasons"]
            except OSError:
                return False
            return any("waiting for the journals" in reason for reason in reasons)

        await until(waits, 120, every_s=0.1, what="the second one to wait")
        assert any(f"process {rig.process.pid}" in reason for reason in reasons), reasons
        before = (folder_of(rig) / "layout").read_bytes()
        assert await rig.stop() == 0, rig.log()
        await until(lambda: second.roles().keys() >= {"front", "worker 0"}, 60, what="the second one serves")
        assert (folder_of(rig) / "layout").read_bytes() == before
    finally:
        second.kill()


@pytest.mark.parametrize("wanted", [True, False])
async def test_it_runs_without_a_journal_where_there_is_no_place_for_one_or_none_is_wanted(
    rig: Rig, wanted: bool
) -> None:
    if wanted:
        (rig.folder / "journal").write_text("not a directory")
    await rig.start(1, instance={} if wanted else {"journal": False})
    await rig.until_ready()
    status, body = await rig.get("/ready")
    said = [note for note in body["notes"] if "without a journal" in note]
    assert status == 200
    problems = (await rig.get("/status"))[1].get("problems", [])
    if wanted:
        assert said
        assert "must be writable" in said[0]
        assert said[0] in problems
        assert "running without a journal" in rig.process.log_file.read_text()
    else:
        assert not said
        assert not (rig.folder / "journal").exists()
    rig.client.send([CounterWithMetadatas(id=b"c", value=3, metadatas=POLICY)])
    await until(lambda: totals(rig.recorder)["c"] == 3, 60, what="output")
    holding = await holding_of(rig)
    assert holding is not None
    # What it had goes with a worker.
    old = holding.since_ns
    os.kill(rig.worker(0), 9)

    async def later() -> bool:
        found = await holding_of(rig)
        return found is not None and found.since_ns > old

    await until(later, 60, every_s=0.1, what="less is held")
    assert await rig.stop() == 0, rig.log()
