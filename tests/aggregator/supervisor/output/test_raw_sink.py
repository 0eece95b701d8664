"""Rollups over M3's raw TCP: from the queue of the supervisor to sockets of instances, which acknowledge nothing."""

import asyncio
from pathlib import Path

import numpy as np
import yaml
from lab.waiting import until
from tests.m3msg.test_legacy import Listener, placed, shards

from aggregator.config import load_config
from aggregator.supervisor.output.forwarder import Forwarder, Part
from aggregator.supervisor.output.sinks import Sinks
from m3cluster.keys import placement_key
from m3cluster.kv import Embedded, open_store
from m3msg.batch import MessageBatch
from m3x.instrument import Registry

ROOT = Path(__file__).resolve().parents[4]
ENVIRONMENT = "legacy/env"
CLIENT = {
    "type": "legacy",
    "placementKV": {"namespace": "/placement", "environment": ENVIRONMENT},
    "placementWatcher": {"key": "m3aggregator"},
}
LARGE = 512 * 1024
MORE_THAN_SOCKETS_HOLD = 64


class Patient(Listener):
    """Reads nothing before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = asyncio.Event()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.reads.wait()
        await super()._take(reader, writer)


def part_of(number: int, values: list[bytes], of: list[int]) -> Part:
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int64)
    batch = MessageBatch(np.frombuffer(b"".join(values), np.uint8), offsets, np.array(of, np.uint32))
    return Part(0, 1, number, number, batch)


async def test_rollups_over_raw_tcp_are_done_once_queued_and_waited_for_at_the_end(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yml"
    overlay.write_text(yaml.safe_dump({"aggregator": {"client": CLIENT}}))
    config = load_config([ROOT / "configs/local/m3aggregator.yml", overlay], {}).value
    store, registry, done, credit = await open_store(Embedded(tmp_path / "kv.sqlite")), Registry(), [], []
    scope = registry.scope("it")

    def settled(flush_id: int, part: int, awaited: frozenset[int], owed: frozenset[int] = frozenset()) -> None:
        assert part == flush_id
        done.append((flush_id, awaited, owed))

    rollups = Forwarder(settled, lambda: None, lambda *given: credit.append(given[2]), scope, "forwarded")
    final = Forwarder(settled, lambda: None, lambda *_: None, scope)
    sinks = Sinks(config, store, final, rollups, lambda: True, scope, local=frozenset, unroutable=lambda: None)
    running = asyncio.create_task(sinks.run())
    here, slow, away = Listener(), Patient(), Listener()
    await here.start()
    await slow.start()

    def goes() -> bool:
        rollups.pump()
        return len(done) == 1

    # Without a placement a part waits: its messages would go nowhere.
    small = [b"one", b"two", b"three", b"four"]
    rollups.offer(part_of(1, small, [0, 1, 2, 3]))
    await until(lambda: len(rollups.sinks) == 1, what="the sink")
    rollups.pump()
    assert (done, rollups.waiting_bytes, sinks.pending_rollups) == ([], sum(map(len, small)), 0)
    await store.set(
        placement_key(ENVIRONMENT, "m3aggregator"),
        placed((here, shards()[:3]), (slow, shards()[1:2]), (away, shards()[2:3])),
    )
    await until(goes, what="the part is done")
    # Nobody takes the last shard; the instance that is away holds nothing back.
    assert (done, credit, registry.counter("it_lost", output="forwarded")) == (
        [(1, frozenset(), frozenset())], [sum(map(len, small))], 1,
    )  # fmt: skip
    await until(lambda: here.records == small[:3], what="what it owns")
    await until(lambda: sinks.pending_rollups == 0, what="the rest is written")
    assert not rollups.sinks[0].look()

    large = [bytes([k]) * LARGE for k in range(MORE_THAN_SOCKETS_HOLD)]
    rollups.offer(part_of(2, large, [1] * len(large)))
    rollups.pump()
    assert done[1:] == [(2, frozenset(), frozenset())]
    await until(lambda: here.records[3:] == large and sinks.pending_rollups == 1, what="one of two has it")
    closing = asyncio.create_task(sinks.close(60.0))
    await asyncio.sleep(0)
    assert not closing.done()
    assert sinks.pending_rollups == sinks.pending == 1
    slow.reads.set()
    await closing
    assert sinks.pending_rollups == 0
    await until(lambda: slow.records == [b"two", *large], what="what had waited")
    running.cancel()
    await asyncio.wait([running])
    await here.stop()
    await slow.stop()
    await store.close()
