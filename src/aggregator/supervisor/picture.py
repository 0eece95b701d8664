"""The way of the data through an instance, who holds which shards, and the last hour, for the page."""

from typing import Protocol

from aggregator.http import BUSY
from aggregator.supervisor.placement import View
from aggregator.supervisor.serving import Serving
from m3cluster.placement.holding import holder
from m3msg.producer import ProducerStatus
from m3x.clock import wall_ns
from m3x.pages import Chart, Edge, History, Holder, Lane, Line, Stage, amount, size

__all__ = ["FIGURES", "Picture"]

_RECEIVED = "m3msg_server_message_received"
_ACKED = "m3msg_server_ack_sent"
_CONNECTIONS = "m3msg_server_open_connections"
_APPLIED = "aggregator_worker_messages"
_ENTRIES = "aggregator_engine_entries"
_NEW = "aggregator_map_new_entries"
_WINDOWS = "aggregator_engine_windows"
_FLUSHES = "aggregator_worker_flushes_running"
_WAITING = "front_waiting_bytes"
_UNACKED = "front_unacked_bytes"
_FINAL = "aggregator_flush_handler"
_ROLLUPS = "aggregator_client"
_RESIDENT = ("front_resident_bytes", "aggregator_worker_resident_bytes")
_REFUSED = {
    "too late or too early": (
        "aggregator_entry_too_far_in_the_past",
        "aggregator_entry_too_far_in_the_future",
        "aggregator_entry_arrived_too_late",
    ),
    "beyond a rate limit": (
        "aggregator_entry_value_rate_limit_exceeded",
        "aggregator_map_new_metric_rate_limit_exceeded",
    ),
    "not our shard": ("aggregator_shard_not_writeable_errors",),
    "dropped": ("aggregator_entry_dropped_values", "aggregator_timer_samples_without_memory"),
}
FIGURES = (
    _RECEIVED, _ACKED, _CONNECTIONS, _APPLIED, _ENTRIES, _NEW, _WINDOWS, _FLUSHES, _WAITING, _UNACKED, *_RESIDENT,
    *(f"{client}_message_{what}" for client in (_FINAL, _ROLLUPS) for what in ("enqueue", "acked")),
    *(name for names in _REFUSED.values() for name in names),
)  # fmt: skip
"""What is kept for it."""


class Shown(Protocol):
    """What is looked at (``Instance``)."""

    view: View | None
    serving: Serving | None


class Picture:
    """See the module; ``history`` has ``FIGURES``."""

    def __init__(self, instance: Shown, history: History) -> None:
        self._instance = instance
        self._history = history

    def flow(self) -> list[Lane]:
        """Samples come in; windows, and what is rolled up, go out."""
        serving, history = self._instance.serving, self._history
        if serving is None:
            return [
                Lane("Samples", [Stage("producers"), Edge(0.0), Stage("this instance", trouble="does not serve yet")])
            ]
        fleet = serving.fleet
        down = [str(i) for i in range(len(fleet.workers)) if i not in fleet.ready]
        workers = Stage(
            "workers",
            [
                f"{len(fleet.ready)} of {len(fleet.workers)} up",
                f"{amount(history.now(_ENTRIES))} entries, {amount(history.now(_WINDOWS))} windows",
                size(history.now(_RESIDENT[1])),
            ],
            f"{', '.join(down)} not up" if down else _busy(serving),
        )
        front = Stage(
            "front",
            [f"{amount(history.rate(_ACKED))} acks/s", size(history.now(_RESIDENT[0]))],
            "" if fleet.listening else "does not listen yet",
        )
        lanes = [
            Lane(
                "Samples",
                [
                    Stage("producers", [f"{amount(history.now(_CONNECTIONS))} connections"]),
                    Edge(history.rate(_RECEIVED), waiting=_waiting(history.now(_WAITING), "waits")),
                    front,
                    Edge(history.rate(_APPLIED), waiting=_waiting(history.now(_UNACKED), "unacked")),
                    workers,
                ],
            )
        ]
        flushes = history.now(_FLUSHES)
        source = Stage("workers", [f"{amount(flushes)} flushes running" if flushes > 0 else "no flush runs"])
        for status in serving.sinks.status():
            lanes.append(self._way_out("Windows", source, status, _FINAL, serving.output.waiting_bytes))
        rollups = serving.sinks.rollup_status()
        if rollups is not None and serving.rolls_up:
            lanes.append(self._way_out("Rollups", source, rollups, _ROLLUPS, serving.rollups.waiting_bytes))
        return lanes

    def _way_out(self, name: str, source: Stage, status: ProducerStatus, client: str, waiting: int) -> Lane:
        put, gone = (self._history.rate(f"{client}_message_{what}") for what in ("enqueue", "acked"))
        instances = [one for service in status.services for one in service.instances]
        queue = sum(one.queued_bytes for one in instances)
        unacked = sum(one.unacked for one in instances)
        away = [f"{one.instance} is not reached" for one in instances if not one.connected]
        consumers = [
            f"{one.instance}: {amount(one.unacked)} unacked"
            + (f", {amount(one.dropped)} dropped" if one.dropped else "")
            for one in instances[:6]
        ]
        more = [f"and {len(instances) - 6} more"] if len(instances) > 6 else []
        return Lane(
            f"{name}, topic {status.topic}",
            [
                source,
                Edge(put, waiting=_waiting(waiting, "waits")),
                Stage("supervisor", [f"{amount(unacked)} unacked"], "; ".join(status.problems)),
                Edge(gone, waiting=_waiting(queue, "in its queue")),
                Stage(
                    ", ".join(service.name for service in status.services) or "no consumer",
                    [*consumers, *more],
                    "; ".join(away[:3]),
                ),
            ],
        )

    def holders(self) -> list[Holder]:
        """The instances of our shard set first, then the others."""
        seen, serving = self._instance.view, self._instance.serving
        if seen is None:
            return []
        now_ns = wall_ns()
        peers = seen.peers()
        leader = serving.shard_set.elector.leader if serving is not None else ""
        ordered = sorted(seen.placement.instances, key=lambda one: (one.id not in peers, one.shard_set_id, one.id))
        return [
            holder(
                one,
                seen.placement.num_shards,
                leader if one.id in peers else None,
                now_ns,
                "this instance, " if one.id == seen.instance_id else "",
            )
            for one in ordered
        ]

    def charts(self) -> list[Chart]:
        """Rates, and memory."""
        history = self._history
        return [
            Chart(
                "Messages a second",
                [
                    Line("received", history.rates(_RECEIVED)),
                    Line("applied", history.rates(_APPLIED)),
                    Line("put out", history.rates(f"{_FINAL}_message_enqueue", f"{_ROLLUPS}_message_enqueue")),
                ],
            ),
            Chart(
                "Refused a second",
                [Line(name, history.rates(*names)) for name, names in _REFUSED.items()],
            ),
            Chart("Series", [Line("entries", history.values(_ENTRIES))]),
            Chart("New series a second", [Line("new entries", history.rates(_NEW))]),
            Chart(
                "Memory",
                [Line(name, history.values(key)) for name, key in zip(("front", "workers"), _RESIDENT, strict=True)],
                shown=size,
            ),
            Chart(
                "Queues",
                [Line("waiting", history.values(_WAITING)), Line("unacked", history.values(_UNACKED))],
                shown=size,
            ),
        ]


def _busy(serving: Serving) -> str:
    """Which workers have no more than a little of their core left."""
    found = [
        f"{number} ({100 * share:.0f} % of a core)"
        for number, stats in sorted(serving.worker_stats.items())
        if (share := stats.gauges.get(f"worker.cpu-share{{worker={number}}}", 0.0)) >= BUSY
    ]
    return f"busy: {', '.join(found)}" if found else ""


def _waiting(nbytes: float, what: str) -> str:
    return f"{size(nbytes)} {what}" if nbytes > 0 else ""
