"""What the HTTP server shows of an instance."""

import time

from aggregator import ipc
from aggregator.http import ListRow, Readiness, ShardRow
from aggregator.lists import ListId
from aggregator.supervisor.election.machine import ElectionState
from aggregator.supervisor.flushing.flush_times import flushed_through
from aggregator.supervisor.instance import Instance
from m3msg.producer import ProducerStatus
from m3x.clock import wall_ns

__all__ = ["InstanceStatus"]


class InstanceStatus:
    """``StatusSource`` of an instance."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    @property
    def instance_id(self) -> str:
        """Our id in the placement."""
        return self._instance.instance_id

    def election_state(self) -> str:
        """M3's name of the state."""
        member = self._instance.shard_set
        return (member.state if member is not None else ElectionState.FOLLOWER).text

    def set_up_problems(self) -> list[str]:
        """What is wrong with the set-up, with the fix."""
        problems = self._instance.problems
        return [*problems.reasons.values(), *problems.warnings.values()]

    def can_lead(self) -> bool:
        """Whether leading now would leave no gaps."""
        member = self._instance.shard_set
        return member is not None and member.can_lead()

    async def resign(self) -> None:
        """Gives the lead away. Raises ``TimeoutError``."""
        member = self._instance.shard_set
        if member is not None:
            await member.resign()

    def readiness(self) -> Readiness:
        """What is missing comes first; the part of a reason before its bracket does not change with time."""
        instance = self._instance
        reasons = list(instance.problems.reasons.values())
        notes = list(instance.problems.warnings.values())
        seen = instance.view
        if seen is not None and seen.instance is not None:
            left_s = seen.cutover_left_ns(wall_ns()) / 1e9
            if left_s > 0:
                reasons.append(f"the placement is not cut over yet ({left_s:.0f} s left)")
            elif "INITIALIZING" in seen.states.values():
                notes.append(
                    "serving; INITIALIZING shards wait for nothing: they are marked AVAILABLE at the next placement change"
                )
            if left_s <= 0:
                self._leadership(reasons, notes)
        self._processes(reasons)
        self._consumers(reasons, notes)
        self._store(reasons, notes)
        return Readiness(not reasons, reasons, notes)

    def _store(self, reasons: list[str], notes: list[str]) -> None:
        """A store that does not answer explains what else is missing; while nothing is, it is only worth knowing."""
        trouble = self._instance.store_trouble()
        if trouble is None:
            if self._instance.view is None and not reasons:
                reasons.append("the placement has not been read yet")
        elif reasons or self._instance.view is None:
            reasons.insert(0, trouble)
        else:
            notes.insert(0, trouble)

    def _leadership(self, reasons: list[str], notes: list[str]) -> None:
        member = self._instance.shard_set
        if member is None:
            return
        leader = member.elector.leader
        if member.state is ElectionState.LEADER:
            notes.append(f"leader of shard set {member.number}")
        elif not leader:
            reasons.append(f"shard set {member.number} has no leader yet")
        else:
            notes.append(f"{member.state.text}; {leader} leads shard set {member.number}")
        if member.gives_way or (member.may_write() and not member.may_flush()):
            since = time.strftime("%H:%M:%S", time.gmtime(self._instance.completeness.since_ns / 1e9))
            notes.append(
                f"leaves the lead to others until the windows that began before {since} UTC, which lack samples here, are flushed, "
                "or nobody who holds more of them is there"
            )

    def _processes(self, reasons: list[str]) -> None:
        fleet = self._instance.fleet
        if fleet is None:
            return
        if not fleet.listening:
            reasons.append("the listener for metrics is not up")
        down = [str(i) for i in range(len(fleet.workers)) if i not in fleet.ready]
        if down:
            reasons.append(f"workers {', '.join(down)} of {len(fleet.workers)} are not up")

    def _consumers(self, reasons: list[str], notes: list[str]) -> None:
        instance = self._instance
        for status in instance.sinks.status():
            self._producer(status, reasons, notes)
        rollups = instance.sinks.rollup_status()
        if rollups is not None:
            # Where nothing is rolled up, nothing is missing.
            self._producer(rollups, reasons if instance.rolls_up else [], notes if instance.rolls_up else [])

    def _producer(self, status: ProducerStatus, reasons: list[str], notes: list[str]) -> None:
        said = " ".join(reasons)
        reasons += [problem for problem in status.problems if f"topic {status.topic} " not in said]
        for service in status.services:
            away = [i for i in service.instances if not i.connected]
            names = ", ".join(f"{i.instance} at {i.endpoint}" for i in away)
            if away and len(away) == len(service.instances):
                reasons.append(f"topic {status.topic}: no consumer of {service.service} can be reached ({names})")
            elif away:
                notes.append(f"topic {status.topic}: not all consumers of {service.service} are reached ({names})")

    def shards(self) -> list[ShardRow]:
        """Our shards in order of id."""
        instance, now_ns = self._instance, wall_ns()
        if instance.view is None:
            return []
        stats: dict[int, ipc.ShardStats] = {
            shard.id: shard for worker in list(instance.worker_stats.values()) for shard in worker.shards
        }
        safe = self._safe_times()
        ready = instance.fleet.ready if instance.fleet is not None else set()
        rows = []
        for number, owned in sorted(instance.view.owned.items()):
            found = stats.get(number, ipc.ShardStats(number, 0, 0, 0))
            worker = instance.owners.get(number, -1)
            rows.append(
                ShardRow(
                    shard=number,
                    worker=worker,
                    worker_up=worker in ready,
                    state=instance.view.states[number],
                    cutover_ns=owned.cutover_ns,
                    entries=found.entries,
                    open_windows=found.open_windows,
                    last_flush_ns=found.last_flush_ns,
                    flushed_through_ns=min((at for _, at in safe.get(number, [])), default=0),
                    lag_ns=max(now_ns - found.last_flush_ns, 0) if found.last_flush_ns else 0,
                )
            )
        return rows

    def lists(self) -> list[ListRow]:
        """Our lists with the oldest and the newest flush time among their shards."""
        by_list: dict[ListId, list[int]] = {}
        for times in self._safe_times().values():
            for list_id, at in times:
                by_list.setdefault(list_id, []).append(at)
        return [
            ListRow(str(i), i.resolution_ns, len(times), min(times), max(times)) for i, times in sorted(by_list.items())
        ]

    def _safe_times(self) -> dict[int, list[tuple[ListId, int]]]:
        member = self._instance.shard_set
        message = member.times if member is not None else None
        if message is None:
            return {}
        return {shard: flushed_through(times) for shard, times in message.by_shard.items() if not times.tombstoned}

    def facts(self) -> list[tuple[str, str]]:
        """Lines for the page."""
        instance = self._instance
        facts = [("instance id", instance.instance_id), ("placement key", instance.keys.placement)]
        if instance.view is not None:
            placement = instance.view.placement
            facts += [
                ("placement version", str(placement.version)),
                ("shard set", str(instance.view.shard_set)),
                (
                    "shards",
                    f"{len(instance.view.owned)} of {placement.num_shards}, {placement.replica_factor} replicas",
                ),
            ]
        if instance.fleet is not None:
            facts.append(("listening for metrics on", instance.fleet.listening or "nothing yet"))
            for number, child in enumerate(instance.fleet.workers):
                state = "up" if number in instance.fleet.ready else "not up"
                facts.append(
                    (
                        child.name,
                        f"{state}, pid {child.pid or '–'}, incarnation {child.epoch}, {child.restarts} restarts",
                    )
                )
        facts.append(("output that waits for its consumers", f"{instance.output.waiting_bytes} bytes"))
        facts.append(("rollups that wait for other aggregators", f"{instance.rollups.waiting_bytes} bytes"))
        for status in filter(None, (*instance.sinks.status(), instance.sinks.rollup_status())):
            for service in status.services:
                for i in service.instances:
                    state = "connected" if i.connected else f"not connected: {i.last_error}"
                    facts.append(
                        (f"{status.topic} → {i.instance}", f"{state}; {i.unacked} unacked, {i.dropped} dropped")
                    )
        return facts
