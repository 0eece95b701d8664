"""Which windows an instance holds with all their samples, stamped when they arrived: since when, and but for which gaps. Pure.

A *gap* is a time in which samples did not arrive: the process, or its front, was not there. What had arrived before is kept. Producers held
what they sent meanwhile, and it arrived by the end of the gap. So of the windows that overlap a gap

==========================================  ================================================================================
standard lists                              lack samples, or have some of another window, if a window ends and another one
                                            begins within the gap; a window that has all of the gap within it lacks nothing
timed lists                                 lack nothing: samples say themselves where they belong
forwarded lists                             lack nothing: a leader keeps its flush times back until what it forwards is here, and if
                                            it is gone before that, whoever leads next forwards it again
a gap in which samples were *lost*          all lack samples, of whichever list: of forwarded ones, which come some windows late,
                                            earlier windows as well
==========================================  ================================================================================

Others are told in JSON: the time alone (ns since the epoch) where there are no gaps, as releases before gaps read and write it, else
``{"since": ns, "gaps": [[from, to, lost], …]}``.
"""

from collections.abc import Iterable

import msgspec

from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, ListId, truncate
from m3cluster.placement.model import NEVER_NS

__all__ = ["EVERYTHING", "Gap", "Holding", "Span", "decode_holding", "encode_holding", "first_unflushed"]

_MOST_GAPS = 8
_LATE_NS = 30_000_000_000
"""Rollups of timed metrics come so much later than others, as a rule. It only decides who of several that lack some leads."""

Span = tuple[int, int]
"""Windows that start at or after the first and before the second time."""


class Gap(msgspec.Struct, frozen=True, array_like=True):
    """Nothing arrived after ``from_ns``; what was sent since then had arrived at ``to_ns`` (``NEVER_NS``: it has not yet)."""

    from_ns: int
    to_ns: int
    lost: bool = False
    """Whether some of it never arrived, or came too late for its window."""

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.to_ns >= NEVER_NS

    def lacking(self, list_id: ListId) -> Span | None:
        """The windows of a list that lack samples, or have some of another one."""
        window = list_id.resolution_ns
        first, last = truncate(self.from_ns, window), truncate(self.to_ns - 1, window)
        if not (self.lost or self.open) and (list_id.kind != KIND_STANDARD or first >= last):
            return None
        if list_id.kind == KIND_FORWARDED:
            late_ns = (2 * list_id.times_forwarded + 1) * window + _LATE_NS
            first = truncate(self.from_ns - late_ns, window)
        return first, last + window


class Holding(msgspec.Struct, frozen=True):
    """All samples since ``since_ns``, but for some gaps."""

    since_ns: int = msgspec.field(name="since")
    gaps: tuple[Gap, ...] = ()
    """In order, and apart from each other."""

    def with_gap(self, gap: Gap) -> "Holding":
        """And that gap. Of many the oldest are made one, in which samples were lost."""
        if gap.to_ns <= self.since_ns:
            return self
        joined: list[Gap] = []
        for one in sorted([*self.gaps, gap], key=lambda one: one.from_ns):
            if joined and one.from_ns <= joined[-1].to_ns:
                last = joined.pop()
                joined.append(Gap(last.from_ns, max(last.to_ns, one.to_ns), last.lost or one.lost))
            else:
                joined.append(one)
        while len(joined) > _MOST_GAPS:
            joined[:2] = [Gap(joined[0].from_ns, joined[1].to_ns, lost=True)]
        return Holding(self.since_ns, tuple(joined))

    def from_then_on(self, since_ns: int) -> "Holding":
        """The same, but nothing from before that time."""
        if since_ns <= self.since_ns:
            return self
        return Holding(since_ns, tuple(gap for gap in self.gaps if gap.to_ns > since_ns))

    def lacking(self, list_id: ListId) -> list[Span]:
        """The windows of a list that lack samples: spans in order, which may overlap. The first one has no beginning."""
        window = list_id.resolution_ns
        spans = (gap.lacking(list_id) for gap in self.gaps)
        return [
            (-NEVER_NS, truncate(self.since_ns - 1, window) + window),
            *(span for span in spans if span is not None),
        ]

    @property
    def whole_since_ns(self) -> int:
        """From then on nothing is lacking; ``NEVER_NS``: a gap is open."""
        return max([self.since_ns, *(gap.to_ns for gap in self.gaps)])


EVERYTHING = Holding(0)


def first_unflushed(list_id: ListId, at_ns: int) -> int:
    """The start of the first window that is not flushed, if that list is flushed up to ``at_ns``.

    A standard or timed window is flushed when the time has reached its end, a forwarded one when it has passed its start (M3's rules:
    docs/m3/aggregation.md, whether a follower can lead).
    """
    window = list_id.resolution_ns
    return truncate(at_ns - 1, window) + window if list_id.kind == KIND_FORWARDED else truncate(at_ns, window)


def any_lacks(spans: Iterable[Span], start: int) -> bool:
    """Whether the window that starts then is in one of the spans."""
    return any(first <= start < end for first, end in spans)


def encode_holding(holding: Holding) -> bytes:
    """What others are told."""
    return msgspec.json.encode(holding) if holding.gaps else b"%d" % holding.since_ns


def decode_holding(data: bytes) -> Holding:
    """Raises ``ValueError`` for what is none."""
    try:
        found = msgspec.json.decode(data, type=int | Holding)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return Holding(found) if isinstance(found, int) else found
