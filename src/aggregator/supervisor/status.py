"""What the HTTP server shows of an instance."""

import math
import time
from typing import Protocol

from aggregator import ipc
from aggregator.config import KVKeys
from aggregator.http import ListRow, Load, Readiness, ShardRow
from aggregator.lists import ListId
from aggregator.supervisor.election.machine import ElectionState
from aggregator.supervisor.flushing.flush_times import flushed_through
from aggregator.supervisor.flushing.holding import Holding
from aggregator.supervisor.picture import Picture
from aggregator.supervisor.placement import View
from aggregator.supervisor.problems import Problems
from aggregator.supervisor.serving import Serving
from m3metrics.growth import GrowthReport, merged
from m3metrics.traffic import TrafficReport, merged_traffic
from m3msg.producer import ProducerStatus
from m3x.clock import wall_ns

__all__ = ["InstanceStatus", "Shown"]


class Shown(Protocol):
    """What is looked at (``Instance``)."""

    instance_id: str
    keys: KVKeys
    problems: Problems
    view: View | None
    serving: Serving | None

    def store_trouble(self) -> str | None: ...


class InstanceStatus:
    """``StatusSource`` of an instance."""

    def __init__(self, instance: Shown, picture: Picture) -> None:
        self._instance = instance
        self.flow = picture.flow
        self.holders = picture.holders
        self.charts = picture.charts

    @property
    def instance_id(self) -> str:
        """Our id in the placement."""
        return self._instance.instance_id

    def election_state(self) -> str:
        """M3's name of the state."""
        serving = self._instance.serving
        return (serving.shard_set.state if serving is not None else ElectionState.FOLLOWER).text

    def set_up_problems(self) -> list[str]:
        """What is wrong with the set-up, with the fix."""
        problems = self._instance.problems
        return [*problems.reasons.values(), *problems.warnings.values()]

    def can_lead(self) -> bool:
        """Whether leading now would leave no gaps."""
        serving = self._instance.serving
        return serving is not None and serving.shard_set.can_lead()

    async def resign(self) -> None:
        """Gives the lead away. Raises ``TimeoutError``."""
        if self._instance.serving is not None:
            await self._instance.serving.shard_set.resign()

    def readiness(self) -> Readiness:
        """What is missing comes first; the part of a reason before its bracket does not change with time."""
        instance = self._instance
        reasons = list(instance.problems.reasons.values())
        notes = list(instance.problems.warnings.values())
        if (serving := instance.serving) is not None:
            _shards_are_ours(serving, reasons, notes)
            _processes(serving, reasons)
            _consumers(serving, reasons, notes)
        self._store(reasons, notes)
        return Readiness(not reasons, reasons, notes)

    def _store(self, reasons: list[str], notes: list[str]) -> None:
        """A store that does not answer explains what else is missing; while nothing is, it is only worth knowing."""
        trouble = self._instance.store_trouble()
        if trouble is None:
            if self._instance.serving is None and not reasons:
                reasons.append("the placement has not been read yet")
        elif reasons or self._instance.serving is None:
            reasons.insert(0, trouble)
        else:
            notes.insert(0, trouble)

    def shards(self) -> list[ShardRow]:
        """Our shards in order of id."""
        return _shards(self._instance.serving) if self._instance.serving is not None else []

    def lists(self) -> list[ListRow]:
        """Our lists with the oldest and the newest flush time among their shards."""
        by_list: dict[ListId, list[int]] = {}
        for times in _safe_times(self._instance.serving).values() if self._instance.serving is not None else ():
            for list_id, at in times:
                by_list.setdefault(list_id, []).append(at)
        return [
            ListRow(str(i), i.resolution_ns, len(times), min(times), max(times)) for i, times in sorted(by_list.items())
        ]

    def growth(self) -> GrowthReport:
        """Which names have grown of late, in all workers."""
        serving = self._instance.serving
        return merged(stats.growth for stats in serving.worker_stats.values()) if serving is not None else merged([])

    def traffic(self) -> TrafficReport:
        """Which names send most, cost most and are refused most, in all workers."""
        serving = self._instance.serving
        return merged_traffic(stats.traffic for stats in serving.worker_stats.values()) if serving else TrafficReport()

    def loads(self) -> list[Load]:
        """CPU and queue of the front and of each worker."""
        serving = self._instance.serving
        return [] if serving is None else _loads(serving)

    def facts(self) -> list[tuple[str, str]]:
        """Lines for the page."""
        instance = self._instance
        facts = [("instance id", instance.instance_id), ("placement key", instance.keys.placement)]
        if instance.view is not None:
            placement, owned = instance.view.placement, len(instance.view.owned)
            facts += [
                ("placement version", str(placement.version)),
                ("shard set", str(instance.view.shard_set)),
                ("shards", f"{owned} of {placement.num_shards}, {placement.replica_factor} replicas"),
            ]
        return (
            facts
            if instance.serving is None
            else [
                *facts,
                *_process_facts(instance.serving),
                *_memory_facts(instance.serving),
                *_output_facts(instance.serving),
            ]
        )


def _shards_are_ours(serving: Serving, reasons: list[str], notes: list[str]) -> None:
    seen = serving.view
    if seen.instance is None:
        return
    left_s = seen.cutover_left_ns(wall_ns()) / 1e9
    if left_s > 0:
        reasons.append(f"the placement is not cut over yet ({left_s:.0f} s left)")
        return
    if "INITIALIZING" in seen.states.values():
        notes.append(
            "serving; INITIALIZING shards wait for nothing: they are marked AVAILABLE at the next placement change"
        )
    _leadership(serving, reasons, notes)


def _leadership(serving: Serving, reasons: list[str], notes: list[str]) -> None:
    member = serving.shard_set
    leader = member.elector.leader
    if member.state is ElectionState.LEADER:
        notes.append(f"leader of shard set {member.number}")
    elif not leader:
        reasons.append(f"shard set {member.number} has no leader yet")
    else:
        notes.append(f"{member.state.text}; {leader} leads shard set {member.number}")
    if member.gives_way or (member.may_write() and not member.may_flush()):
        notes.append(
            f"leaves the lead to others until the windows that lack samples here ({_lacking(member.holding)}) are flushed, "
            "or nobody who holds more of them is there"
        )


def _lacking(holding: Holding) -> str:
    """Which samples are not there."""
    parts = [f"of before {_time(holding.since_ns)}"]
    parts += [f"of {_time(g.from_ns)} to {'now' if g.open else _time(g.to_ns)}" for g in holding.gaps]
    return ", ".join(parts) + " UTC"


def _time(time_ns: int) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(time_ns / 1e9))


def _processes(serving: Serving, reasons: list[str]) -> None:
    fleet = serving.fleet
    if not fleet.listening:
        reasons.append("the listener for metrics is not up")
    down = [str(i) for i in range(len(fleet.workers)) if i not in fleet.ready]
    if down:
        reasons.append(f"workers {', '.join(down)} of {len(fleet.workers)} are not up")
    reasons += filter(None, (child.trouble for child in (fleet.front, *fleet.workers)))
    reasons += [f"worker {worker} is {_replaying(message)}" for worker, message in sorted(serving.replaying.items())]
    for worker, stats in sorted(serving.worker_stats.items()):
        if stats.trouble:
            reasons.append(f"worker {worker} acknowledges nothing: {stats.trouble}")


def _replaying(message: ipc.Replaying) -> str:
    if message.waits:
        return f"waiting for its journal: {message.waits}"
    return f"replaying its journal ({100 * message.part:.0f} %, {message.seconds_left:.0f} s left)"


def _consumers(serving: Serving, reasons: list[str], notes: list[str]) -> None:
    for status in serving.sinks.status():
        _producer(status, reasons, notes)
    rollups = serving.sinks.rollup_status()
    if rollups is not None and serving.rolls_up:
        # Where nothing is rolled up, nothing is missing.
        _producer(rollups, reasons, notes)


def _producer(status: ProducerStatus, reasons: list[str], notes: list[str]) -> None:
    said = " ".join(reasons)
    reasons += [problem for problem in status.problems if f"topic {status.topic} " not in said]
    for service in status.services:
        away = [i for i in service.instances if not i.connected]
        names = ", ".join(f"{i.instance} at {i.endpoint}" for i in away)
        if away and len(away) == len(service.instances):
            reasons.append(f"topic {status.topic}: no consumer of {service.service} can be reached ({names})")
        elif away:
            notes.append(f"topic {status.topic}: not all consumers of {service.service} are reached ({names})")


def _shards(serving: Serving) -> list[ShardRow]:
    now_ns, safe = wall_ns(), _safe_times(serving)
    stats = {shard.id: shard for worker in serving.worker_stats.values() for shard in worker.shards}
    rows = []
    for number, owned in sorted(serving.view.owned.items()):
        found = stats.get(number, ipc.ShardStats(number, 0, 0, 0))
        worker = serving.routing.owners[number]
        rows.append(
            ShardRow(
                shard=number,
                worker=worker,
                worker_up=worker in serving.fleet.ready,
                state=serving.view.states[number],
                cutover_ns=owned.cutover_ns,
                entries=found.entries,
                open_windows=found.open_windows,
                last_flush_ns=found.last_flush_ns,
                flushed_through_ns=min((at for _, at in safe.get(number, [])), default=0),
                lag_ns=max(now_ns - found.last_flush_ns, 0) if found.last_flush_ns else 0,
            )
        )
    return rows


def _loads(serving: Serving) -> list[Load]:
    front = serving.front_gauges
    found = [Load("front", -1, front.get("front.cpu-share", math.nan), 0.0, 0.0)]
    for number in range(len(serving.fleet.workers)):
        stats = serving.worker_stats.get(number)
        tag = f"{{worker={number}}}"
        share = math.nan if stats is None else stats.gauges.get(f"worker.cpu-share{tag}", math.nan)
        waiting, unacked = (front.get(f"front.{what}-bytes{tag}", 0.0) for what in ("waiting", "unacked"))
        found.append(Load(f"worker {number}", number, share, waiting, unacked))
    return found


def _safe_times(serving: Serving) -> dict[int, list[tuple[ListId, int]]]:
    message = serving.shard_set.times
    if message is None:
        return {}
    return {shard: flushed_through(times) for shard, times in message.by_shard.items() if not times.tombstoned}


def _process_facts(serving: Serving) -> list[tuple[str, str]]:
    fleet = serving.fleet
    facts = [("listening for metrics on", fleet.listening or "nothing yet")]
    for number, child in enumerate(fleet.workers):
        replaying = serving.replaying.get(number)
        state = "up" if number in fleet.ready else "not up" if replaying is None else _replaying(replaying)
        told = f"{state}, pid {child.pid or '–'}, incarnation {child.epoch}, {child.restarts} restarts"
        facts.append((child.name, told))
    return facts


def _memory_facts(serving: Serving) -> list[tuple[str, str]]:
    gauges = [stats.gauges for stats in serving.worker_stats.values()]
    used, needed, limit = (
        round(sum(one.get(f"memory.{name}-bytes", 0) for one in gauges)) for name in ("used", "needed", "limit")
    )
    of = f"of {limit >> 20} MiB" if limit else "no limit"
    return [("memory of series and windows", f"{used >> 20} MiB, {needed >> 20} MiB with full windows; {of}")]


def _output_facts(serving: Serving) -> list[tuple[str, str]]:
    facts = [
        ("output that waits for its consumers", f"{serving.output.waiting_bytes} bytes"),
        ("rollups that wait for other aggregators", f"{serving.rollups.waiting_bytes} bytes"),
    ]
    for status in filter(None, (*serving.sinks.status(), serving.sinks.rollup_status())):
        for service in status.services:
            for i in service.instances:
                state = "connected" if i.connected else f"not connected: {i.last_error}"
                told = f"{state}; {i.unacked} unacked, {i.dropped} dropped"
                facts.append((f"{status.topic} → {i.instance}", told))
    return facts
