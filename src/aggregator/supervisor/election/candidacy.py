"""Whether this instance should lead, and flush, by what it and the others hold (docs/architecture.md §4, "Cold instances").

Pure: ``look`` takes the facts of a moment and returns the decision; the same facts give the same decision however often it is asked. What
is remembered from one moment to the next is only whom it waits for, and since when.

A window that began before an instance held all samples, or meets a gap in what it has, lacks some of them there (``flushing.holding``).
Whoever holds all windows that are not flushed is a candidate, as in M3. Of those that lack some, who holds more leads, that is: who holds
the first window in which they differ (``lacks_more``).

==================  ==========================================================================================================
this instance       gives way to
==================  ==========================================================================================================
leads               a candidate that holds more; one that does not say what it holds (M3's), once everybody has had time to say it
does not lead       any candidate that does not say, or holds more; and for a while an instance that holds more and is no candidate
                    yet, or may not have said yet what it holds; or must be somewhere, as windows that are lacking here
                    were delivered, and flush times wait for what was forwarded of them
==================  ==========================================================================================================

A leader that lacks windows flushes nothing while it gives way, or a candidate has not said yet what it holds, or while it waits for
somebody who holds more and will soon be a candidate; and of
what is due at once not the windows which only somebody else holds, who will hold more when those before them are flushed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aggregator.lists import ListId
from aggregator.supervisor.flushing.commands import LONGEST_AWAITED_NS
from aggregator.supervisor.flushing.flush_times import (
    can_lead,
    distinct_lists,
    held_elsewhere,
    lacks_delivered,
    lacks_more,
)
from aggregator.supervisor.flushing.holding import Holding
from m3cluster.flush_times import ShardSetFlushTimes

__all__ = ["Candidacy", "Decision", "Facts"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at a moment."""

    steady_ns: int
    """A clock that is never set."""
    wall_ns: int
    eligible: bool | None
    """Whether the placement wants us to lead (``campaign_wanted``); None: it cannot be told."""
    leads: bool
    """Whether our term is confirmed."""
    times: ShardSetFlushTimes | None
    """Flush times in the KV."""
    holding: Holding
    """What we hold."""
    since: Mapping[str, Holding]
    """The same of the other instances that say it."""
    settled: bool
    """Whether everybody has had time to say it."""
    candidates: frozenset[str]
    """The other candidates of the election."""
    peers: frozenset[str]
    """The other instances of the shard set, by the placement."""
    delivered: ShardSetFlushTimes | None = None
    """Up to where final output is delivered, as the KV has it."""
    returned_ns: int = 0
    """Steady clock: when we last came to the KV anew, our lease having ended (``Holdings``)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from the facts."""

    wanted: bool | None
    """Whether we are to be a candidate; None: it stays as it is."""
    gives_way: bool
    """Whether we are none only because we lack samples of windows."""
    flushes: bool
    """Whether we may flush, should we lead."""
    again_ns: int | None = None
    """Steady clock: when the decision changes though no fact does."""
    until: Mapping[ListId, int] = field(default_factory=dict)
    """Windows that start then or later are not to be flushed, by list."""


_SOMEBODY = ""
"""Who holds more, if it is not known who that is."""


class Candidacy:
    """See the module.

    ``past_ns``: how late timed samples may be, without the resolution. ``unfed_ns``: a list whose time stands still for so long is fed by
    nobody. ``patience_ns``: so long somebody who holds more is waited for.
    """

    def __init__(self, *, past_ns: int, unfed_ns: int, patience_ns: int) -> None:
        self._past_ns = past_ns
        self._unfed_ns = unfed_ns
        self.patience_ns = patience_ns
        self._expected: frozenset[str] = frozenset()
        self._expected_ns = 0
        """Who holds more and is expected to be a candidate, and since when; 0: nobody."""
        self._compared: dict[str, tuple[Holding, Holding, bool]] = {}
        """The last answer of ``lacks_more`` about each other instance, behind what was asked, ..."""
        self._compared_by: ShardSetFlushTimes | None = None
        """... by these flush times."""
        self._lists: frozenset[tuple[ListId, int]] = frozenset()
        """Those of ..."""
        self._lists_of: ShardSetFlushTimes | None = None
        """... these flush times."""

    def look(self, facts: Facts) -> Decision:
        """The decision at this moment."""
        if self.holds(facts, LONGEST_AWAITED_NS):
            self._expected, self._expected_ns = frozenset(), 0
            return Decision(facts.eligible, gives_way=False, flushes=True)
        expects = self._expects(facts)
        silent = not facts.candidates <= facts.since.keys()
        more = self._more(facts, facts.candidates)
        yields = more or (silent and facts.settled)
        again_ns = self._expected_ns + self.patience_ns if expects else None
        gives_way = bool(facts.eligible) and (yields if facts.leads else more or silent or expects)
        wanted = False if gives_way else facts.eligible
        flushes = not (yields or expects or silent)
        until = self._until(facts) if facts.leads and flushes else {}
        return Decision(wanted, gives_way, flushes, again_ns, until)

    def _until(self, facts: Facts) -> dict[ListId, int]:
        """Where the windows begin that another instance holds, though it does not hold more yet; only gaps can make it so."""
        found: dict[ListId, int] = {}
        for name in facts.peers & facts.since.keys() if facts.holding.gaps else ():
            if not self._holds_more(facts, name):
                other = facts.since[name]
                for list_id, start in held_elsewhere(
                    facts.times, facts.holding, other, longest_ns=LONGEST_AWAITED_NS
                ).items():
                    found[list_id] = min(start, found.get(list_id, start))
        return found

    def holds(self, facts: Facts, longest_ns: int | None = None) -> bool:
        """Whether nobody holds more of the windows that are not flushed, but for those longer than ``longest_ns``.

        Lists that nobody feeds do not count: a leader of ours flushes them all the same (``Flushing``), M3's leaves their times where they
        are. Not for the leader, who would know, nor if another instance says that it holds more: the list's consumers may be away.
        """

        if self._lists_of is not facts.times:
            # Asked every second, and before every flush.
            self._lists, self._lists_of = distinct_lists(facts.times), facts.times

        def warm(unfed_ns: int | None) -> bool:
            return can_lead(
                facts.times,
                facts.holding.since_ns,
                facts.wall_ns,
                self._past_ns,
                longest_ns=longest_ns,
                unfed_ns=unfed_ns,
                gaps=facts.holding.gaps,
                lists=self._lists,
            )

        return warm(None) or (not facts.leads and warm(self._unfed_ns) and not self._more(facts, facts.peers))

    def _more(self, facts: Facts, names: Iterable[str]) -> bool:
        """Whether one of ``names`` holds more of the windows that are not flushed than we do."""
        return any(self._holds_more(facts, name) for name in names)

    def _holds_more(self, facts: Facts, name: str) -> bool:
        own, other = facts.holding, facts.since.get(name)
        if other is None or other == own:
            return False
        if self._compared_by is not facts.times:
            self._compared, self._compared_by = {}, facts.times
        known = self._compared.get(name)
        if known is None or known[:2] != (own, other):
            # Asked before every flush, and thousands of shards take milliseconds.
            lacks = lacks_more(facts.times, own, other, longest_ns=LONGEST_AWAITED_NS)
            self._compared[name] = known = (own, other, lacks)
        return known[2]

    def _expects(self, facts: Facts) -> bool:
        """Whether somebody who holds more will soon be a candidate: is there, or may not have said so yet since the KV was away.

        After a while nobody is expected any more; then only somebody else who holds more is news, and somebody who was a candidate
        meanwhile: a leader that resigns is one again after a second. Nobody could become one while the KV was away: when we are back, so
        late that leases have ended, everybody is expected anew.
        """
        others = facts.peers - facts.candidates
        silent = not facts.settled and not others <= facts.since.keys()
        more = frozenset(name for name in others if self._more(facts, [name]))
        if others and not (more or facts.leads or facts.candidates) and self._is_missed(facts):
            more = frozenset({_SOMEBODY})
        if not silent and not more:
            self._expected, self._expected_ns = frozenset(), 0
            return False
        if self._expected_ns <= facts.returned_ns:
            self._expected, self._expected_ns = frozenset(), 0
        if not self._expected_ns or not more <= self._expected:
            self._expected_ns = facts.steady_ns
        self._expected |= more
        return facts.steady_ns - self._expected_ns < self.patience_ns

    @staticmethod
    def _is_missed(facts: Facts) -> bool:
        """Whether windows are lacking here that another instance has delivered, and would forward once more."""
        return lacks_delivered(facts.times, facts.delivered, facts.holding, longest_ns=LONGEST_AWAITED_NS)
