"""What this instance holds of the samples that were sent to it, stamped when they arrived: what decides who should lead.

Samples do not arrive while the front is not there, or is stopped: that is a *gap* (``flushing.holding``). With journals the time between
two processes is one as well, for what had arrived before is there again when all workers have replayed theirs. A worker's death is none:
the front keeps what it had not acked, with its stamps. What is lost with a worker without a journal, or with a journal that cannot be read,
is everything: then nothing is held that began before.

A gap begins with the newest time up to which everything that had arrived is known to be applied and written (the front says it every
second, and each journal when it is replayed). It ends when the producers are back and have given what they held:

* every host that had connections on which samples came has as many again, or ``WAIT_NS`` have passed since the front listens, and
* then a second has passed in which nobody new connected, and in which the workers have applied whatever came.

Nobody can tell that a producer gave samples up: m3msg has no word for it. So samples of a gap count as *lost* where they may have been:
when a host is not back in time, when workers have refused samples as too late meanwhile, when it took longer than ``LONGEST_NS``, which
buffers and TTLs of producers may not outlast, when the host of this instance has been started anew in between and the journal is not
written to the disk before acknowledgements leave, and when somebody was connected who sends without acks (raw TCP).
A producer whose buffer is full within that time loses samples unnoticed here; it counts
them itself.

Where it is not known who was connected (a first start, a start without a journal), each connection in the first ``WAIT_NS`` brings what it
kept: everything is held from the last of them on. A supervisor that is stopped costs nothing: its front and its workers go on.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from aggregator.ipc import ONE_WAY
from aggregator.supervisor.flushing.holding import Gap, Holding
from m3cluster.placement.model import NEVER_NS
from m3x.clock import boot_ns, wall_ns
from m3x.log import logger

__all__ = ["LONGEST_NS", "WAIT_NS", "Completeness", "Remembered"]

log = logger(__name__)

_HOPE_NS = 2_000_000_000
"""A process ended so long at most after it last said up to when everything was written, which it does every second."""
WAIT_NS = 10_000_000_000
"""So long after a front began to listen it is waited for producers that were connected to the one before."""
LONGEST_NS = 60_000_000_000


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What the next process has to know; meaningless without the journals."""

    holding: Holding
    """A gap that is open in it goes on."""
    through_ns: int
    """What had arrived up to then was applied and written."""
    peers: dict[str, int] | None
    """Host → connections on which samples came; None: that was not known."""
    boot_id: str = ""
    """Of the host at that time."""


class Completeness:
    """See the module. ``changed`` is called whenever what is held has changed; the processes' events are reported by their names.

    ``past_ns``: how late timed samples may be. ``remembered``: what an earlier process left, with journals; each of the ``workers`` has
    to replay its own before it counts. ``boot_id`` is that of this host, ``synced`` whether the disk has what is acked.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        *,
        past_ns: int = 0,
        workers: int = 1,
        remembered: Remembered | None = None,
        boot_id: str = "",
        synced: bool = False,
    ) -> None:
        self._changed = changed
        self._past_ns = past_ns
        self._boot_id = boot_id
        self._through_ns = 0
        """Everything that had arrived by then is applied; 0: not known yet."""
        self._peers: dict[str, int] | None = None
        """Who was connected before the gap, or is; None: it is not known."""
        self._began_ns = 0
        """When the gap did; 0: there is none."""
        self._lost = False
        self._listens_ns = 0
        """On the boot clock; 0: nobody does."""
        self._connections = 0
        self._told_ns = 0
        """When the front last told who is connected; 0: not since it listens, or was stopped."""
        self._ending = False
        self._late: dict[int, int] = {}
        """Samples that each worker has refused as too late, …"""
        self._late_before: dict[int, int] = {}
        """… and at the beginning of the gap."""
        self._stats_ns: dict[int, int] = {}
        """When each worker last said so."""
        self._replays: dict[int, int] = {}
        """Workers that have replayed their journals, and up to when these go."""
        self._workers = workers
        self._goes_on = False
        """The gap began before the last process ended."""
        self._replaying = remembered is not None
        if remembered is None:
            self._held = Holding(wall_ns())
        else:
            closed = tuple(gap for gap in remembered.holding.gaps if not gap.open)
            self._held = Holding(remembered.holding.since_ns, closed)
            self._peers = remembered.peers
            self._lost = not synced and remembered.boot_id != boot_id
            open_from = [gap for gap in remembered.holding.gaps if gap.open]
            self._lost = self._lost or any(gap.lost for gap in open_from)
            # Until the journals have said it.
            self._began_ns = min([remembered.through_ns, *(gap.from_ns for gap in open_from)])
            self._goes_on = bool(open_from)
        self._hoped_ns = 0 if self._goes_on else self._began_ns + _HOPE_NS
        """Up to where journals may go that are replayed."""

    @property
    def holding(self) -> Holding:
        """What is held now; while journals are replayed, what is hoped for."""
        return self._lacking(max(self._began_ns, self._hoped_ns) if self._replaying else self._began_ns)

    def _lacking(self, from_ns: int) -> Holding:
        """What is held if the gap began then; 0: there is none."""
        return self._held.with_gap(Gap(from_ns, NEVER_NS, self._lost)) if from_ns else self._held

    @property
    def replaying(self) -> bool:
        """Whether it is not known yet what the journals have kept."""
        return self._replaying

    def remembered(self) -> Remembered:
        """What the next process has to know."""
        return Remembered(
            holding=self._lacking(self._began_ns),
            through_ns=self._began_ns or self._through_ns or self._held.whole_since_ns,
            peers=self._peers,
            boot_id=self._boot_id,
        )

    # --- events

    def lost(self) -> None:
        """What was held until now is gone: of a worker, all its windows."""
        if self._ending:
            return
        self._held = Holding(wall_ns())
        self._began_ns, self._lost, self._peers, self._replaying = 0, False, None, False
        self._changed()

    def replayed(self, worker: int, through_ns: int, late: int) -> None:
        """A worker has what its journal says, which goes up to ``through_ns``; 0: there was nothing in it.

        ``late``: how many samples it has refused as too late so far.
        """
        self._late[worker] = self._late_before[worker] = late
        if not self._replaying:
            return
        if not through_ns:
            self.lost()
            return
        self._replays[worker] = through_ns
        if len(self._replays) < self._workers:
            return
        self._replaying = False
        if not self._goes_on:
            self._began_ns = max(self._began_ns, min(self._replays.values()))
        self._changed()

    def ending(self) -> None:
        """No more is taken: the journals say up to where it was."""
        self._ending = True

    def front_gone(self) -> None:
        """Nothing is taken any more."""
        if self._ending:
            return
        self._listens_ns = 0
        self._begin(self._through_ns)

    def stopped(self, seconds: float) -> None:
        """The front did not run for so long."""
        self._begin(wall_ns() - int(seconds * 1e9))

    def listening(self) -> None:
        """A front listens."""
        self._listens_ns, self._connections, self._told_ns = boot_ns(), 0, 0
        if not self._began_ns:
            self._arrives_late()

    def connections(self, peers: Iterable[tuple[str, int, int]], through_ns: int) -> None:
        """Who is connected to the front: host, connections, and on how many of them samples came; once a second.

        ``through_ns``: everything that was read before is applied and written.
        """
        if self._ending:
            return
        counts, fed = {}, {}
        for host, connections, used in peers:
            counts[host] = connections
            if used:
                fed[host] = used
        before, self._connections = self._connections, sum(counts.values())
        more = self._connections > before
        if self._began_ns:
            self._look(counts, through_ns, more)
        elif self._peers is None and more and boot_ns() - self._listens_ns < WAIT_NS:
            self._arrives_late()
        self._told_ns = wall_ns()
        if not self._began_ns:
            self._through_ns = through_ns
            if self._listens_ns and (self._peers is not None or boot_ns() - self._listens_ns >= WAIT_NS):
                known = self._peers or {}
                # One that was back before the gap ended, and has had nothing to send since, still belongs to those who send.
                self._peers = {
                    host: count
                    for host in counts
                    if (count := max(fed.get(host, 0), min(known.get(host, 0), counts[host])))
                }

    def refused(self, worker: int, late: int) -> None:
        """How many samples a worker has refused as too late so far; once a second."""
        self._late[worker], self._stats_ns[worker] = late, wall_ns()
        self._late_before.setdefault(worker, 0)

    def worker_gone(self, worker: int) -> None:
        """An incarnation has ended: what it counted goes with it."""
        if self._ending:
            return
        self._lost = self._lost or bool(self._began_ns and not self._replaying)
        for figures in (self._late, self._late_before, self._stats_ns):
            figures.pop(worker, None)

    # --- the gap

    def _begin(self, from_ns: int) -> None:
        """From then on nothing may have arrived."""
        if self._peers is None or not self._through_ns:
            # It has hardly begun: nothing is known of who is connected.
            if not self._began_ns:
                self._arrives_late()
            return
        if not self._began_ns:
            self._late_before = dict(self._late)
        self._began_ns = min(self._began_ns or NEVER_NS, from_ns, self._through_ns)
        self._told_ns = 0
        self._changed()

    def _arrives_late(self) -> None:
        """What arrives now may have been sent before."""
        self._held = self._held.from_then_on(wall_ns())
        self._changed()

    def _look(self, counts: Mapping[str, int], through_ns: int, more: bool) -> None:
        """Whether the gap has ended."""
        if self._replaying or not self._listens_ns or more or not self._told_ns:
            return
        known = self._peers
        back = known is not None and all(counts.get(host, 0) >= count for host, count in known.items())
        if not back and boot_ns() - self._listens_ns < WAIT_NS:
            return
        said = [self._stats_ns.get(worker, 0) for worker in range(self._workers)]
        if through_ns < self._told_ns or min(said) < self._told_ns:
            return
        now_ns, began_ns = wall_ns(), self._began_ns
        one_way = any(host.startswith(ONE_WAY) for host in known or ())
        late = any(count > self._late_before.get(worker, 0) for worker, count in self._late.items())
        lost = self._lost or late or one_way or not back or now_ns - began_ns > LONGEST_NS
        if late:
            began_ns -= self._past_ns
        self._held = self._held.with_gap(Gap(began_ns, now_ns, lost))
        log.info(
            "samples arrive as they are sent again", held_back_s=round((now_ns - began_ns) / 1e9, 2), all_producers_back=back,
            too_late=late, may_be_lost=lost,
        )  # fmt: skip
        self._began_ns, self._lost = 0, False
        self._changed()
