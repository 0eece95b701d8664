"""Two or three instances through random orders of faults, above all of the KV: it is killed, hangs, loses answers, cuts one of them
off, at any moment of start-up, election, flush and hand-over. Whatever happens, nobody has to help: afterwards one of them leads, every
window has arrived with its whole value, and nobody wrote while another one might.

The windows that are judged are those that a candidate holds completely. So an instance is ended only while another one does and is in
line, and a new one, which lacks the samples of open windows, begins only behind one that is in line. The KV is left in peace until it
has them.
"""

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from tests import virtual_time
from tests.aggregator.supervisor.cluster_model import (
    RESOLUTION,
    TTL_S,
    Cluster,
    Delivery,
    ModelKV,
    Node,
    S,
    Worker,
    placement_with,
    put_placement,
)

from m3cluster.placement.model import NEVER_NS
from m3x import log
from m3x.clock import wall_ns

SEEDS = 60
NAMES = "abc"
FAULTS_S = 45
HEAL_S = 15


def up(time_ns: int) -> int:
    """To the next end of a window."""
    return -(-time_ns // RESOLUTION) * RESOLUTION


class Scenario:
    """One run; everything random comes from ``seed``."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.log: list[str] = []

    async def run(self) -> None:
        self.kv = ModelKV(self.chance)
        self.cluster = Cluster(self.chance, self.kv)
        self.cluster.say = self.say
        self.nodes = [Node(self.cluster, name) for name in NAMES[: self.chance.choice((2, 2, 3))]]
        self.first_ns = up(wall_ns() + 2 * S)
        self.cutovers = {0: 0}
        self.joined_ns = 0
        # The KV may be away, and the placement missing, when everything starts.
        await self.kv.turn(self.chance.choice(("up", "refuse", "hang", "lossy")))
        for node in self.nodes:
            node.start()
        await asyncio.sleep(self.chance.uniform(0, 1.5))
        put_placement(self.kv, self.nodes[0].keys.placement, placement_with(self.cutovers, self.cluster.nodes))
        end = asyncio.get_running_loop().time() + FAULTS_S
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(self.chance.choice((0.1, 0.5, 1, 3, 6)))
            await self.fault()
        await self.heal()
        await asyncio.sleep(HEAL_S)
        self.judge()
        for node in self.nodes:
            await node.stop()
        self.kv.server.close()

    def say(self, text: str) -> None:
        self.log.append(f"{(wall_ns() - self.first_ns) / S:7.2f} {text}")

    async def fault(self) -> None:
        alive = [node for node in self.nodes if node.alive]
        kinds = ["downstream", "placement"]
        if all(self.holds_all(node) for node in alive):
            kinds += ["refuse", "hang", "lossy", "up", "up", "cut", "mend"]
        kinds += ["start", "start"] if len(alive) < len(self.nodes) else []
        kinds += ["kill", "stop", "resign"] if len(alive) > 1 else []
        kind = self.chance.choice(kinds)
        if kind in ("refuse", "hang", "lossy", "up"):
            self.say(f"KV {kind}")
            await self.kv.turn(kind)
        elif kind in ("cut", "mend"):
            node = self.chance.choice(alive)
            self.say(f"{kind} {node.name}")
            node.store.cut = kind == "cut"
        elif kind == "downstream":
            self.cluster.accepting = not self.cluster.accepting
            self.say(f"downstream accepts: {self.cluster.accepting}")
        elif kind == "placement":
            self.add_shard()
        elif self.cluster.covered().get(0):
            # Empty flush times are those of a new cluster: whoever comes first may lead it.
            await self.change(kind, self.chance.choice(alive), alive)

    def add_shard(self) -> None:
        if len(self.cutovers) == 1:
            self.cutovers[1] = up(wall_ns() + self.chance.choice((2, 5, 9)) * S)
            self.say("placement")
            put_placement(self.kv, self.nodes[0].keys.placement, placement_with(self.cutovers, self.cluster.nodes))

    async def change(self, kind: str, node: Node, alive: list[Node]) -> None:
        """Begins a process, ends one, or has the leader resign: all that only behind a candidate that holds everything."""
        if kind == "resign":
            node = next((one for one in alive if one.member is not None and one.member.leads), node)
        rest = [one for one in alive if one is not node or kind == "start"]
        if not any(self.holds_all(one) and self.cluster.in_line(one) for one in rest):
            return
        self.say(f"{kind} {node.name}, holding all: {[one.name for one in alive if self.holds_all(one)]}")
        if kind == "start":
            next(one for one in self.nodes if not one.alive).start()
        elif kind == "kill":
            await node.kill()
        elif kind == "stop":
            await node.stop()
        elif node.member is not None and node.member.leads:
            await asyncio.gather(node.member.resign(), return_exceptions=True)

    def holds_all(self, node: Node) -> bool:
        """Whether a node has all samples of what is not delivered yet."""
        covered = self.cluster.covered()
        needed = [max(covered.get(shard, 0), self.first_ns, cutover) for shard, cutover in self.cutovers.items()]
        # A flush time in the middle of a window does not cover it.
        return node.worker.started_ns <= min(needed) // RESOLUTION * RESOLUTION

    async def heal(self) -> None:
        self.say("heal")
        await self.kv.turn("up")
        self.cluster.accepting = True
        for node in self.nodes:
            node.store.cut = False
        while dead := [node for node in self.nodes if not node.alive]:
            if any(node.alive and self.holds_all(node) and self.cluster.in_line(node) for node in self.nodes):
                dead[0].start()
            await asyncio.sleep(0.1)

    def judge(self) -> None:
        now = wall_ns()
        assert len(self.cluster.leaders()) == 1, "nobody leads"
        arrived: dict[tuple[int, int], list[bool]] = {}
        terms = set()
        for one in self.cluster.deliveries:
            arrived.setdefault((one.shard, one.end_ns), []).append(one.whole)
            assert (one.term, one.shard, one.end_ns) not in terms, f"{one} twice in one term"
            terms.add((one.term, one.shard, one.end_ns))
            covered = self.cluster.known[one.node, one.term][one.shard]
            assert one.end_ns > covered, f"{one} although the KV covered {covered} when the term began"
        for shard, cutover in self.cutovers.items():
            for end in range(max(self.first_ns + RESOLUTION, cutover + RESOLUTION), now - 4 * S, RESOLUTION):
                found = arrived.get((shard, end), [])
                assert found, f"shard {shard}: the window that ends at {(end - self.first_ns) / S} s is missing"
                assert all(found), (
                    f"shard {shard}: the window that ends at {(end - self.first_ns) / S} s arrived incomplete"
                )
            assert all(s != shard or end > cutover for s, end in arrived), f"shard {shard} before its cutover"
            assert self.cluster.covered()[shard] >= now - 8 * S, "flush times do not advance"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of lines would be all that the processor does."""
    monkeypatch.setattr(log._output, "level", 100)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nobody_has_to_help(seed: int) -> None:
    scenario = Scenario(seed)
    try:
        virtual_time.run(scenario.run(), seed)
    except BaseException:
        print("\n".join(scenario.log))
        raise


async def cold_before_warm() -> tuple[str, str, list[bool]]:
    """The leader dies while a cold instance has been there for longer than the key of a warm one: the warm one, who led, what was whole."""
    chance = random.Random(1)
    cluster = Cluster(chance, ModelKV(chance))
    nodes = {name: Node(cluster, name) for name in NAMES}
    put_placement(cluster.kv, nodes["a"].keys.placement, placement_with({0: 0}, nodes))
    for name in "ab":
        nodes[name].start()
    while not (cluster.covered().get(0) and all(cluster.in_line(nodes[name]) for name in "ab")):  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.1)
    leader = cluster.leaders()[0]
    warm = nodes["ab".replace(leader, "")]
    warm.store.cut = True
    await asyncio.sleep(8)
    # Nothing is flushed for good from here on: whoever begins now stays cold.
    cluster.accepting = False
    nodes["c"].start()
    await asyncio.sleep(2)
    warm.store.cut = False
    while not cluster.in_line(warm):  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.1)
    await nodes[leader].kill()
    cluster.accepting = True
    killed_ns = wall_ns()
    await asyncio.sleep(10)
    after = [one for one in cluster.deliveries if one.at_ns > killed_ns]
    leads = cluster.leaders()[0]
    for name in (warm.name, "c"):
        await nodes[name].stop()
    cluster.kv.server.close()
    return warm.name, leads, [one.whole for one in after]


def test_an_instance_that_lacks_samples_does_not_stand_in_the_way_of_one_that_has_them() -> None:
    warm, leads, whole = virtual_time.run(cold_before_warm())
    assert leads == warm
    assert len(whole) > 3
    assert all(whole)


async def outages_between_losses(seed: int) -> list[bool]:
    """Nobody holds everything, and the KV is away twice; in the second outage one loses what the other one still holds. Of the windows
    that this one holds: whether each arrived whole."""
    chance = random.Random(seed)
    cluster = Cluster(chance, ModelKV(chance))
    nodes = {name: Node(cluster, name) for name in NAMES}
    one, other = nodes["a"], nodes["b"]
    put_placement(cluster.kv, one.keys.placement, placement_with({0: 0}, nodes))
    for node in (one, other):
        node.start()
    while not (cluster.covered().get(0) and all(cluster.in_line(node) for node in (one, other))):  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0.1)
    for up_s in (3, 30):
        await cluster.kv.turn("refuse")
        await asyncio.sleep(2 * TTL_S)
        one.lose_worker()
        if up_s == 3:
            other.lose_worker()
        await cluster.kv.turn("up")
        await asyncio.sleep(up_s)
    for node in (one, other):
        await node.stop()
    cluster.kv.server.close()
    return [one.whole for one in cluster.deliveries if other.worker.whole(one.end_ns)]


@pytest.mark.parametrize("seed", range(6))
def test_patience_is_not_used_up_while_the_kv_is_away(seed: int) -> None:
    whole = virtual_time.run(outages_between_losses(seed), seed)
    assert len(whole) > 10
    assert all(whole)


@dataclass(slots=True)
class Life:
    """What a worker has, over the processes that go on with it."""

    name: str
    worker: Worker
    up: list[tuple[int, int]] = field(default_factory=list)
    """When it was there."""

    def is_up(self, begin: int, end: int) -> bool:
        """Whether it was there all the time."""
        return any(first <= begin and last >= end for first, last in self.up)


class Losses:
    """Processes that are killed, ended and started at random, workers that die, downstream and perhaps the KV that go away.

    No matter how little anybody holds: nobody emits a part of a window that somebody else there holds completely, and what is held
    completely for long enough arrives.
    """

    LONG_S = 30

    def __init__(
        self, seed: int, *, kv_faults: bool = False, shard_faults: bool = False, journals: bool = False
    ) -> None:
        self.chance = random.Random(seed)
        self.journals = journals
        """Whether most processes go on with what the one before them had."""
        self.kv_faults = kv_faults
        self.shard_faults = shard_faults
        """Whether the consumer of one of two shards comes and goes; else there is one shard."""
        self.shards = {0: 0, 1: 0} if shard_faults else {0: 0}
        self.log: list[str] = []
        self.lives: list[Life] = []
        self.refused_ns = self.accepted_ns = 0
        """When downstream went away last, and when it was back."""
        self.faults: list[str] = []

    def say(self, text: str) -> None:
        self.log.append(f"{(wall_ns() - self.first_ns) / S:7.2f} {text}")

    def begun(self, node: Node) -> None:
        life = next((one for one in self.lives if one.worker is node.worker), None)
        if life is None:
            self.lives.append(life := Life(node.name, node.worker))
        life.up.append((wall_ns(), NEVER_NS))

    def gone(self, node: Node) -> None:
        life = next(one for one in self.lives if one.worker is node.worker)
        life.up[-1] = (life.up[-1][0], wall_ns())

    async def run(self) -> None:
        self.kv = ModelKV(self.chance)
        self.cluster = Cluster(self.chance, self.kv)
        self.first_ns = up(wall_ns())
        self.cluster.say = self.say
        self.cluster.arrived = self.arrived
        self.nodes = [Node(self.cluster, name) for name in NAMES[: self.chance.choice((2, 2, 3))]]
        put_placement(self.kv, self.nodes[0].keys.placement, placement_with(self.shards, self.cluster.nodes))
        for node in self.nodes:
            node.start()
            self.begun(node)
            await asyncio.sleep(self.chance.choice((0, 0.7, 3)))
        while not self.cluster.covered().get(0):  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        loop = asyncio.get_running_loop()
        end = loop.time() + 60
        while loop.time() < end:
            await asyncio.sleep(self.chance.choice((0.1, 0.5, 1, 3, 6)))
            await self.fault()
        await asyncio.sleep(self.LONG_S + 4)
        self.judge()
        for node in self.nodes:
            if node.alive:
                await node.stop()
        self.kv.server.close()

    async def fault(self) -> None:
        alive = [node for node in self.nodes if node.alive]
        kinds = ["start", "start"] if len(alive) < len(self.nodes) else []
        kinds += ["kill", "stop"] if len(alive) > 1 else []
        kinds += ["refuse", "hang", "lossy"] if self.kv_faults and self.kv.mode == "up" else []
        kinds += ["away", "away"] if self.shard_faults and not self.cluster.away else []
        kind = self.chance.choice([*kinds, "resign", "lose", "downstream"])
        node = self.chance.choice(alive)
        if kind == "start":
            node = next(one for one in self.nodes if not one.alive)
            node.start(journal=self.journals and self.chance.random() < 0.8)
            self.begun(node)
        elif kind == "lose" and node.member is not None:
            self.gone(node)
            node.lose_worker()
            self.begun(node)
        elif kind == "kill":
            self.gone(node)
            await node.kill()
        elif kind == "stop":
            self.gone(node)
            await node.stop()
        elif kind == "resign" and node.member is not None and node.member.leads:
            await asyncio.gather(node.member.resign(), return_exceptions=True)
        elif kind == "downstream" and self.cluster.accepting:
            self.cluster.accepting = False
            self.refused_ns = wall_ns()
            asyncio.get_running_loop().call_later(self.chance.uniform(1, 6), self.accept)
        elif kind == "away":
            self.cluster.away.add(1)
            asyncio.get_running_loop().call_later(self.chance.uniform(1, 15), self.cluster.away.clear)
        elif kind in ("refuse", "hang", "lossy"):
            await self.kv.turn(kind)
            self.back = asyncio.create_task(self.answer(self.chance.uniform(0.5, 8)))
        self.say(f"{kind} {node.name}")

    async def answer(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.kv.turn("up")
        self.say("KV up")

    def accept(self) -> None:
        self.cluster.accepting = True
        self.accepted_ns = wall_ns()

    def arrived(self, one: Delivery) -> None:
        # What arrives when downstream is back may have been flushed when it went. Who has just begun may not have said yet what its
        # journal has.
        flushed_ns = self.refused_ns if wall_ns() - self.accepted_ns < S else wall_ns()
        told_ns = flushed_ns - (2 * S if self.journals else 0)
        holders = [life.name for life in self.lives if life.worker.whole(one.end_ns) and life.is_up(told_ns, wall_ns())]
        if not one.whole and holders:
            self.faults.append(f"{one.node} emits a part of {(one.end_ns - self.first_ns) / S} s, which {holders} hold")

    def judge(self) -> None:
        assert not self.faults, self.faults
        assert len(self.cluster.leaders()) == 1, "nobody leads"
        assert min(self.cluster.covered()[s] for s in self.shards) >= wall_ns() - 8 * S, "flush times do not advance"
        whole = {(one.shard, one.end_ns) for one in self.cluster.deliveries if one.whole}
        long_ns, now_ns = self.LONG_S * S, wall_ns()
        for end in range(self.first_ns + RESOLUTION, now_ns - long_ns, RESOLUTION):
            held = any(life.worker.whole(end) and life.is_up(end, end + long_ns) for life in self.lives)
            for shard in self.shards if held else ():
                assert (shard, end) in whole, f"shard {shard}: {(end - self.first_ns) / S} s is missing"


def lose(seed: int, **faults: bool) -> None:
    losses = Losses(seed, **faults)
    try:
        virtual_time.run(losses.run(), seed)
    except BaseException:
        print("\n".join(losses.log))
        raise


@pytest.mark.parametrize("seed", range(SEEDS))
def test_who_holds_more_leads(seed: int) -> None:
    lose(seed)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_who_holds_more_leads_though_the_consumer_of_a_shard_comes_and_goes(seed: int) -> None:
    lose(seed, shard_faults=True)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_who_holds_more_leads_where_processes_go_on_with_what_those_before_them_had(seed: int) -> None:
    lose(seed, journals=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4 * SEEDS))
def test_who_holds_more_leads_though_the_kv_comes_and_goes(seed: int) -> None:
    lose(seed, kv_faults=True)
