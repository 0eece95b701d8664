"""What becomes of a write when nodes fail, against ``golden/m3db/behaviour.jsonl``: sessions in virtual time against played hosts.

Every vector is met, acknowledged or not, with as many rounds to the same nodes, but for those in which M3 loses values or finds no end.
Which these are is said by rules on what the nodes do (``exception``), the rows of docs/compatibility.md, "Writing to M3DB".
"""

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest
from tests import virtual_time
from tests.golden.vectors import Vector, cases
from tests.m3db.played import Network, Series
from tests.m3db.test_session import Source
from tests.m3db.test_topology import instance, placement, shards

from m3cluster.placement import Shard, ShardState
from m3db.consistency import CopyRules, RowState, WriteLevel
from m3db.options import SessionOptions
from m3db.session import Session, open_session
from m3db.topology import Topology
from m3db.write import WriteRows
from m3x.instrument import Registry

SHARDS, RETRIES = 4, 3
SERIES = Series(500, SHARDS)
UNCONNECTED = {"down", "sick", "hang_health"}
RULES = {
    "default": CopyRules(),
    "pair": CopyRules(pair_counts=True),
    "pair+v2": CopyRules(pair_counts=True),
    "none": CopyRules(WriteLevel.NONE),
}


@dataclass(frozen=True)
class Outcome:
    """Whether the message was acknowledged, after how many rounds, and which nodes were asked in each."""

    acked: bool
    rounds: int
    asked: frozenset[str]


def of_vector(vector: Vector) -> Outcome:
    rounds = [frozenset(f"n{node}" for node in one["requests"]) for one in vector["rounds"]]
    assert len(set(rounds)) <= 1
    return Outcome(vector["acked_after_s"] is not None, len(rounds), rounds[0] if rounds else frozenset())


def replaced(vector: Vector) -> bool:
    """Whether n4 is taking the place of n1."""
    return vector["nodes"] == 4


def good_copies(vector: Vector) -> int:
    """Copies that have the value in the end and count by themselves; a pair that succeeds counts as one, if the client says so."""
    modes, available = vector["modes"], ["n2", "n3"] if replaced(vector) else ["n1", "n2", "n3"]
    good = sum(modes.get(name, "ok") in {"ok", "short"} for name in available)
    if replaced(vector) and vector["client_config"].startswith("pair"):
        good += all(modes.get(name, "ok") == "ok" for name in ("n1", "n4"))
    return good


def back_without_connections(vector: Vector) -> bool:
    """Whether the nodes are well, but have been away: not one was asked."""
    return not vector["modes"] and not vector["rounds"]


def exception(vector: Vector) -> Outcome | None:
    """What is right where M3 is not; None: M3 is right."""
    modes, expected = vector["modes"], of_vector(vector)
    available = 2 if replaced(vector) else 3
    if vector["client_config"] == "none":  # M3 waits for ever
        return Outcome(True, 1, expected.asked)
    if not expected.acked or good_copies(vector) >= 2:
        if (
            expected.acked and not expected.rounds
        ):  # M3 says that it was in vain, and forgets it: it has no connections yet
            return Outcome(True, 1, frozenset({"n1", "n2", "n3"}))
        return None
    never_in_reach = sum(modes.get(f"n{n}", "ok") == "bad" for n in range(1, 4)) > available - 2
    if never_in_reach:  # M3 is right: sending it again is in vain
        return None
    # Else too few copies have it, and M3 lets it go: a host without connections, one bad request, exhausted resources, half a pair.
    return Outcome(False, 2 * RETRIES if expected.asked else 0, expected.asked)


def topology_of(vector: Vector, moved: bool = False) -> Topology:
    all_shards = list(range(SHARDS))
    if not replaced(vector):
        names = ("n1", "n2", "n3")
        return Topology.of_placement(
            placement(
                3, SHARDS,
                *(instance(n, *shards(*all_shards), endpoint="n4:9000" if moved and n == "n3" else "") for n in names),
            )
        )  # fmt: skip
    return Topology.of_placement(
        placement(
            3, SHARDS,
            instance("n1", *shards(*all_shards, state=ShardState.LEAVING)),
            instance("n2", *shards(*all_shards)),
            instance("n3", *shards(*all_shards)),
            instance("n4", *(Shard(number, ShardState.INITIALIZING, "n1") for number in all_shards)),
        )
    )  # fmt: skip


def values_of(vector: Vector) -> WriteRows:
    if "burst" in vector["name"]:
        return SERIES.rows()
    return SERIES.rows(range(3 if "batch_3" in vector["name"] else 1))


async def ingest(session: Session, rows: WriteRows) -> tuple[bool, float]:
    """As the ingest server of the vectors: one retry. Whether all is acknowledged, and when."""
    begun = asyncio.get_running_loop().time()
    for _ in range(2):
        result = await session.write(rows)
        if not np.any(result.states == RowState.RETRY):
            return True, asyncio.get_running_loop().time() - begun
        await asyncio.sleep(0.1)
    return False, 0.0


async def prepare(vector: Vector, network: Network, source: Source) -> None:
    """Whatever was before the write."""
    for name, mode in vector["modes"].items():
        if mode == "down":
            network.stop(name)
        else:
            network[name].mode = mode
    if UNCONNECTED & set(vector["modes"].values()) - {"down"}:
        await asyncio.sleep(60)
    if back_without_connections(vector):
        for name in network.hosts:
            network.stop(name)
        await asyncio.sleep(60)
        for host in network.hosts.values():
            host.mode = "ok"
    if "endpoint_changed" in vector["name"]:
        source.tell(topology_of(vector, moved=True))
        await asyncio.sleep(10)


async def play(vector: Vector) -> tuple[Outcome, float]:
    network = Network([f"n{number}" for number in range(1, 5)])
    source = Source(topology_of(vector))
    options = SessionOptions(rules=RULES[vector["client_config"]], write_timeout_s=2.0)
    async with open_session(options, source, Registry().scope(), opener=network.open) as session:
        await asyncio.sleep(10)
        assert session.topology is not None
        await prepare(vector, network, source)
        acked, after_s = await ingest(session, values_of(vector))
        while not acked and back_without_connections(vector):  # the message comes again
            acked, after_s = await ingest(session, values_of(vector))
        await asyncio.sleep(3)
    times = {name: {at for at, _ in host.calls} for name, host in network.hosts.items() if host.calls}
    rounds = max((len(found) for found in times.values()), default=0)
    if not back_without_connections(vector):
        assert all(len(found) == rounds for found in times.values()), "not every round asked the same hosts"
    return Outcome(acked, rounds, frozenset(times)), after_s


@pytest.mark.parametrize("vector", cases("m3db/behaviour.jsonl", "name"))
def test_writes_end_as_in_m3(vector: Vector) -> None:
    outcome, after_s = virtual_time.run(play(vector))
    right = exception(vector)
    if back_without_connections(vector):  # M3 lets it go; here it is written as soon as two nodes are connected
        assert outcome.acked
        assert len(outcome.asked) >= 2
        return
    if "endpoint_changed" in vector["name"]:  # M3 does not notice, and goes on with the old endpoint
        right = Outcome(True, 1, frozenset({"n1", "n2", "n4"}))
    assert outcome == (right or of_vector(vector))
    if outcome.acked and right is None:
        assert after_s <= vector["acked_after_s"] + 0.01
