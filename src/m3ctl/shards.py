"""``m3ctl shards``: the shards of every instance, with what its workers make of them."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from m3ctl.answers import Shard, ShardRow
from m3ctl.client import CtlError, ask_all
from m3ctl.cluster import AGGREGATOR, Cluster, Target
from m3ctl.report import Report, Table, age, clock, ranges, shown_duration

__all__ = ["show_shards"]


@dataclass(frozen=True, slots=True)
class _Row:
    """A shard as the placement has it, and as its instance serves it."""

    target: Target
    shard: Shard
    served: ShardRow | None

    @property
    def like(self) -> tuple[object, ...]:
        """Shards that are equal in this share a row."""
        worker = (self.served.worker, self.served.worker_up) if self.served is not None else None
        return self.target.id, self.shard.state, self.shard.cutover_nanos, self.shard.cutoff_nanos, worker


def show_shards(cluster: Cluster, *, each: bool, instance_id: str, shard: int | None) -> Report:
    """Shards by instance; ``each``: one row per shard. Raises ``CtlError``."""
    placement = cluster.placement(AGGREGATOR).placement
    now_ns = cluster.now_ns()
    targets = [t for t in cluster.targets(placement) if not instance_id or t.id == instance_id]
    if instance_id and not targets:
        raise CtlError(
            f"no instance {instance_id!r} in the placement; there are: {', '.join(sorted(placement.instances))}"
        )
    report = Report({"environment": cluster.settings.environment})
    rows: list[_Row] = []
    for target, answer in zip(targets, ask_all(cluster.shards, targets), strict=True):
        served: dict[int, ShardRow] = {}
        if isinstance(answer, CtlError):
            report.problems.append(str(answer))
        elif answer is None:
            report.notes.append(
                f"{target.id} at {target.url} does not serve /shards (M3's own m3aggregator has no such page): "
                "its rows show the placement alone"
            )
        else:
            served = {row.shard: row for row in answer.shards}
        owned = [] if target.instance is None else target.instance.shards
        if target.instance is None:
            report.problems.append(f"{target.id} at {target.url} is not in the placement")
        chosen = (one for one in owned if shard in (None, one.id))
        rows += [_Row(target, one, served.get(one.id)) for one in sorted(chosen, key=lambda s: s.id)]
    report.data["shards"] = [_data(row) for row in rows]
    groups: dict[object, list[_Row]] = {}
    for row in rows:
        groups.setdefault((row.like, row.shard.id) if each else row.like, []).append(row)
    columns = ("instance", "shard set>", "state", "cutover", "worker>", "entries>", "windows>", "last flush", "lag>")
    if each:
        table = Table(("shard>", *columns))
        table.rows += [(str(group[0].shard.id), *_shown(group, now_ns)) for group in groups.values()]
    else:
        # Shard ids of a shard set are often scattered; the long column comes last.
        table = Table(("shards>", *columns, "shard ids"))
        table.rows += [
            (str(len(group)), *_shown(group, now_ns), ranges(row.shard.id for row in group))
            for group in groups.values()
        ]
    report.blocks.append(table)
    down = sorted({f"worker {r.served.worker} of {r.target.id}" for r in rows if r.served and not r.served.worker_up})
    if down:
        report.problems.append(
            f"not up: {', '.join(down)}; its shards take nothing until it is (see the instance's log)"
        )
    return report


def _shown(group: list[_Row], now_ns: int) -> tuple[str, ...]:
    first = group[0]
    served = [row.served for row in group if row.served is not None]
    cutover = first.shard.cutover_nanos
    return (
        first.target.id,
        str(first.target.shard_set or "-"),
        first.shard.state,
        age(cutover, now_ns) or "-",
        _worker(first.served),
        str(sum(row.entries for row in served)) if served else "-",
        str(max(row.open_windows for row in served)) if served else "-",
        clock(_newest(row.last_flush_ns for row in served)) if served else "-",
        shown_duration(max(row.lag_ns for row in served) / 1e9) if any(row.lag_ns for row in served) else "-",
    )


def _newest(times: Iterable[int]) -> int:
    return max(times, default=0)


def _worker(row: ShardRow | None) -> str:
    if row is None:
        return "-"
    return str(row.worker) if row.worker_up else f"{row.worker} down"


def _data(row: _Row) -> dict[str, object]:
    return {
        "shard": row.shard.id,
        "instance": row.target.id,
        "shardSet": row.target.shard_set,
        "placement": msgspec.to_builtins(row.shard),
        "served": None if row.served is None else msgspec.to_builtins(row.served),
    }
