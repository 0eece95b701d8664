"""What an instance counts of placements, flushes, a leader's flush times, and output that was given up, by M3's names (docs/metrics.md)."""

from collections.abc import Callable

import numpy as np
from msgspec.structs import replace

from aggregator.ipc import Flush, Flushed, OwnedShard, ShardBounds
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, ListId
from aggregator.supervisor.flushing.commands import Send
from aggregator.supervisor.flushing.figures import FlushFigures, count_updates
from aggregator.supervisor.m3_names import show_m3_names
from aggregator.supervisor.output.forwarder import Ended, Forwarder, Nowhere, Part
from aggregator.supervisor.placement import view
from aggregator.supervisor.placement_figures import PlacementFigures
from aggregator.supervisor.shown import count_shard_check
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes
from m3cluster.placement.model import NEVER_NS, Instance, Placement, Shard, ShardState
from m3msg.batch import MessageBatch
from m3x.instrument import Registry, Scope

S = 1_000_000_000
STANDARD, ROLLUPS = ListId(KIND_STANDARD, 10 * S), ListId(KIND_FORWARDED, 10 * S, 1)
PREFIX = "m3aggregator_aggregator_"


def counted(work: Callable[[Scope], None]) -> dict[str, float]:
    """What a page says after ``work``, summed over labels."""
    registry = Registry()
    show_m3_names(registry, "m3aggregator")
    work(registry.scope("m3aggregator.aggregator"))
    found: dict[str, float] = {}
    for line in registry.render().decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.partition("{")[0].removeprefix(PREFIX)
            found[name] = found.get(name, 0.0) + float(value)
    return found


def placed(*shards: int, shard_set: int = 1, name: str = "a") -> Placement:
    one = Instance(id=name, shard_set_id=shard_set, shards=tuple(Shard(n, ShardState.AVAILABLE) for n in shards))
    return Placement((one,), num_shards=8)


def test_placements() -> None:
    def work(scope: Scope) -> None:
        figures, before = PlacementFigures(scope), None
        figures.unusable()
        for placement in (placed(0, 1, 2), placed(1, 2), placed(1, shard_set=2), placed(1, name="other")):
            seen = view(placement, "a")
            figures.changed(before, seen)
            before = seen

    found = counted(work)
    assert {name: value for name, value in found.items() if name.startswith(("placement", "shard")) and value} == {
        "placement_placement_changed": 4, "placement_updated": 3, "placement_update_failures": 1,
        "placement_manager_placement_updates": 4, "placement_manager_active_placement_errors": 1,
        "placement_manager_instance_not_found": 1, "shards_add": 3, "shards_close": 3,
        "shard_set_id_open": 1, "shard_set_id_same": 1, "shard_set_id_changed": 1, "shard_set_id_clear": 1,
    }  # fmt: skip


def test_flushes_by_what_their_shards_are_in() -> None:
    now_ns = 10**6 * S

    def work(scope: Scope) -> None:
        figures = FlushFigures(scope, 600 * S)
        bounds = [
            ShardBounds([0], 0, now_ns + S, NEVER_NS),
            ShardBounds([1, 2], 0, 0, NEVER_NS),
            ShardBounds([3], 0, 0, now_ns - 60 * S),
            ShardBounds([4], 0, 0, now_ns - 700 * S),
        ]
        flush, discard = Flush(1, STANDARD, emit=True, bounds=bounds), Flush(2, STANDARD, emit=False, bounds=bounds)
        figures.given([Send(0, 1, flush), Send(0, 1, discard)], 5, now_ns, S)
        figures.answered(0, Flushed(1, False, 7, False, []), 2 * S)
        figures.answered(0, Flushed(1, True, 0, False, []), 3 * S)
        figures.answered(0, Flushed(2, True, 0, False, []), 2 * S)
        figures.answered(0, Flushed(1, True, 0, False, []), 9 * S)

    found = counted(work)
    assert {
        name: value for name, value in found.items() if name.startswith(("list_flush", "list_writer", "list_d", "flush_manager_b"))
        and value and "bucket{" not in name and not name.endswith("duration_bucket")
    } == {
        "list_flush_before_cutover": 1, "list_flush_between_cutover_cutoff": 2, "list_flush_between_cutoff_bufferend": 1,
        "list_flush_after_bufferend": 1, "list_discard_before": 1, "list_flush_discard": 1,
        "list_writer_encode_success": 7, "list_writer_route_success": 7, "list_flush_duration_count": 1,
        "list_flush_duration_sum": 2, "list_flush_before_duration_count": 1, "list_flush_before_duration_sum": 1,
        "flush_manager_bucket_duration_count": 1, "flush_manager_bucket_duration_sum": 2,
    }  # fmt: skip


def test_flush_times_of_the_leader_and_what_they_lack() -> None:
    whole = ShardFlushTimes(standard={10 * S: 1}, forwarded={10 * S: {1: 1}})
    times = ShardSetFlushTimes(
        {
            0: whole,
            1: ShardFlushTimes(),
            2: replace(whole, forwarded={10 * S: {}}),
            3: replace(whole, forwarded={10 * S: {2: 1}}),
        }
    )

    def work(scope: Scope) -> None:
        follower = scope.sub("flush-manager.follower")
        count_updates(follower, times, ShardSetFlushTimes({0: whole}), range(5), [STANDARD, ROLLUPS])

    found = counted(work)
    prefix = "flush_manager_follower_"
    assert {n.removeprefix(prefix): v for n, v in found.items() if n.startswith(prefix) and v} == {
        "kv_updates": 2, "shard_not_found": 2, "flush_windows_not_ended": 2, "resolution_not_found": 2,
        "nil_forwarded_times": 1, "num_forwarded_times_not_found": 1,
    }  # fmt: skip


def test_shards_that_may_be_closed() -> None:
    owned = {number: OwnedShard(number, 0, 5) for number in range(3)}
    times = ShardSetFlushTimes({0: ShardFlushTimes(standard={S: 5}), 1: ShardFlushTimes(standard={S: 4})})

    def work(scope: Scope) -> None:
        check = scope.sub("tick.shard-check")
        count_shard_check(check, None, owned)
        count_shard_check(check, times, owned)

    found = counted(work)
    assert {n.removeprefix("tick_shard_check_"): v for n, v in found.items() if n.startswith("tick_shard")} == {
        "no_flush_times": 3, "all_flushed": 1, "not_fully_flushed": 1, "shard_not_found": 1,
    }  # fmt: skip


class Sink:
    """Takes what it is given, and says nothing."""

    away = saturated = False

    def __init__(self, *, open_: bool) -> None:
        self._open = open_

    def room(self, _nbytes: int) -> bool:
        return self._open

    def deliver(self, batch: MessageBatch) -> None:
        """Keeps it."""

    def look(self) -> bool:
        return False


def part_of(messages: int) -> Part:
    batch = MessageBatch(np.zeros(messages, np.uint8), np.arange(messages + 1), np.zeros(messages, np.uint32))
    return Part(0, 1, 1, 1, batch)


def forwarder(scope: Scope, output: str) -> Forwarder:
    client = scope.sub("client") if output == "forwarded" else None
    return Forwarder(lambda *_: None, lambda: None, lambda *_: None, scope.sub("forwarder"), output, client)


def test_output_that_is_given_up_or_not_sent() -> None:
    def work(scope: Scope) -> None:
        for output in ("final", "forwarded"):
            losing = forwarder(scope, output)
            losing.sinks.append(Nowhere(losing.ended, lambda: None))
            losing.offer(part_of(3))
            held = forwarder(scope, output)
            held.sinks.append(Sink(open_=False))
            held.offer(part_of(2))
            held.drop()
            good = forwarder(scope, output)
            sink = Sink(open_=True)
            good.sinks.append(sink)
            good.offer(part := part_of(5))
            good.ended(sink, part, Ended(5))

    found = counted(work)
    wanted = {
        "client_flush_errors": 1, "client_writeForwarded_errors": 3, "list_flush_metric_consume_errors": 3,
        "list_flush_on_consumed_errors": 3, "list_flush_on_discarded": 2, "list_flush_writer_flush_errors": 2,
        "list_writer_aggregations_on_done_not_write": 2, "list_writer_aggregations_on_done_write_errors": 3,
        "list_writer_errors": 1, "client_flush_success": 2, "client_writeForwarded_success": 8,
        "client_flush_success_latency_count": 2, "client_writeForwarded_success_latency_count": 8,
    }  # fmt: skip
    assert {name: found.get(name) for name in wanted} == wanted
