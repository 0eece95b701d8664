"""Compares what was acked with what came out, sample by sample and window by window.

A sample belongs to the window of its own time, or, untimed, to one of those between its first sending and its ack: in one of them it has to
be, once. Where instances mirror each other each stamps for itself; a sample whose ack leaves several windows open may then be in
each of them or in none (``unsure``), whoever emits them.

*Missing*: an acked sample, or a window's value, that is nowhere. *Wrong*: a value that no samples give, a sample in a window that is not
its own, a window that came with different values. *Doubled*: a sample that is counted twice. Each counts once per policy.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from lab.crash.samples import BASE, PREFIX, SECOND_NS, SLOTS, WINDOW_S, Group, Kind, Line, Sample, Shows, rate
from lab.crash.sink import Window

__all__ = ["RESOLUTIONS_NS", "Verdict", "judge"]

RESOLUTIONS_NS = (WINDOW_S * SECOND_NS, 2 * WINDOW_S * SECOND_NS)
_EXAMPLES = 3
"""Of each kind of series."""

Windows = Callable[[bytes, int], Mapping[int, Window]]
"""What came of an id at a resolution (ns), by the time in the messages."""


@dataclass(slots=True)
class Verdict:
    """Sums over all series; ``sent`` and ``acked`` count samples, the rest samples or windows per policy."""

    sent: int = 0
    acked: int = 0
    emitted: int = 0
    """Windows that came."""
    again: int = 0
    """Values that came once more, the same."""
    missing: int = 0
    wrong: int = 0
    doubled: int = 0
    unsure: int = 0
    forgiven_ns: list[int] = field(default_factory=list)
    """When the samples had been acked that are not there and need not be (Unix ns)."""
    by_kind: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What is missing, wrong or doubled, by kind of series and which of the three."""
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is missing, wrong or doubled."""
        return not (self.missing or self.wrong or self.doubled)

    def add_missing(self, kind: Kind, text: str, count: int = 1) -> None:
        """Something is missing: ``text`` says what."""
        self.missing += count
        self._remember(kind, "missing", text, count)

    def add_wrong(self, kind: Kind, text: str, count: int = 1) -> None:
        """Something is wrong."""
        self.wrong += count
        self._remember(kind, "wrong", text, count)

    def add_doubled(self, kind: Kind, text: str, count: int = 1) -> None:
        """Something is doubled."""
        self.doubled += count
        self._remember(kind, "doubled", text, count)

    def _remember(self, kind: Kind, which: str, text: str, count: int) -> None:
        if self.by_kind[kind.title, which] < _EXAMPLES:
            self.examples.append(text)
        self.by_kind[kind.title, which] += count


@dataclass(slots=True)
class _Span:
    """The windows (by number) that a sample may be in."""

    first: int
    last: int
    acked_ns: int
    owed: bool
    """Whether it has to be in one of them."""
    taken: bool = False


@dataclass(frozen=True, slots=True)
class _Rules:
    mirrored: bool
    forgiven: tuple[tuple[int, int], ...]

    def owed(self, sample: Sample) -> bool:
        """Whether it may not be missing."""
        return sample.acked_ns > 0 and not any(first < sample.acked_ns <= last for first, last in self.forgiven)


def judge(
    groups: Iterable[Group],
    windows: Windows,
    begin_ns: int,
    end_ns: int,
    *,
    mirrored: bool = False,
    forgiven: Iterable[tuple[int, int]] = (),
) -> Verdict:
    """Everything that was due from ``begin_ns`` to before ``end_ns``, both whole windows of all resolutions.

    ``mirrored``: several instances stamp untimed samples, each for itself. ``forgiven``: what was acked between two times (Unix ns) may be
    missing.
    """
    verdict = Verdict()
    rules = _Rules(mirrored, tuple(forgiven))
    for group in groups:
        for line in group.lines:
            verdict.sent += sum(sample.sent_ns > 0 for sample in line.samples)
            verdict.acked += sum(sample.acked_ns > 0 for sample in line.samples)
        for resolution in RESOLUTIONS_NS:
            came = [_by_number(verdict, group, ident, resolution, windows) for ident in group.outputs]
            if group.kind.shows is Shows.DIGITS:
                _judge_digits(verdict, group, resolution, came, rules)
            elif group.kind.shows is Shows.LAST:
                _judge_lasts(verdict, group.lines[0], resolution, came[0], rules)
            else:
                _judge_rates(verdict, group, resolution, came[0], begin_ns, end_ns)
    return verdict


def _by_number(verdict: Verdict, group: Group, ident: bytes, resolution: int, windows: Windows) -> dict[int, float]:
    """The last value of each window by its number: Unix time of its beginning over the resolution. Values come with its end."""
    found = {}
    for time_ns, window in windows(ident, resolution).items():
        number, rest = divmod(time_ns - resolution, resolution)
        verdict.emitted += 1
        verdict.again += window.count - len(window.values)
        if len(window.values) > 1 or rest:
            came = ", ".join(f"{value:g} ({_when(at)})" for value, at in zip(window.values, window.times, strict=True))
            verdict.add_wrong(group.kind, f"{_name(ident, resolution, number)} came as {came}")
        found[number] = window.values[-1]
    return found


# --- digits


def _judge_digits(verdict: Verdict, group: Group, resolution: int, came: list[dict[int, float]], rules: _Rules) -> None:
    counts: dict[int, dict[int, int]] = {}
    for number, value in came[0].items():
        digits = _digits(value)
        if digits is None:
            verdict.add_wrong(
                group.kind, f"{_name(group.ident, resolution, number)} is {value!r}, which is no sum of samples"
            )
            continue
        for slot, count in digits.items():
            counts.setdefault(slot, {})[number] = count
        if group.kind.timer:
            _judge_timer(verdict, group, resolution, number, digits, came)
    spans = _spans(verdict, group, resolution, rules)
    for slot in {*counts, *spans}:
        _match(verdict, group, resolution, slot, spans.get(slot, []), counts.get(slot, {}), rules.mirrored)


def _digits(value: float) -> dict[int, int] | None:
    """How often each slot is in a sum; None: it is no sum of samples."""
    if value < 0 or value != int(value) or value >= BASE**SLOTS:
        return None
    left, found = int(value), {}
    for slot in range(SLOTS):
        left, digit = divmod(left, BASE)
        if digit:
            found[slot] = digit
    return found


def _judge_timer(
    verdict: Verdict, group: Group, resolution: int, number: int, digits: dict[int, int], came: list[dict[int, float]]
) -> None:
    """Count and max say the same as the sum: an untimed sample is a batch of two values, one of them 0."""
    each = 2 if group.kind is Kind.TIMER else 1
    wanted = [each * sum(digits.values()), BASE ** max(digits, default=0)]
    for ident, values, expected in zip(group.outputs[1:], came[1:], wanted, strict=True):
        if number not in values:
            verdict.add_missing(group.kind, f"{_name(ident, resolution, number)} did not come")
        elif values[number] != expected:
            verdict.add_wrong(
                group.kind, f"{_name(ident, resolution, number)} is {values[number]:g}, expected {expected}"
            )


def _spans(verdict: Verdict, group: Group, resolution: int, rules: _Rules) -> dict[int, list[_Span]]:
    found: dict[int, list[_Span]] = {}
    for line in group.lines:
        for sample in line.samples:
            if sample.sent_ns:
                span = _span(line, sample, resolution, rules)
                found.setdefault(line.slot(sample), []).append(span)
                verdict.unsure += rules.mirrored and span.first != span.last
    return found


def _span(line: Line, sample: Sample, resolution: int, rules: _Rules) -> _Span:
    owed = rules.owed(sample)
    if line.kind.timed:
        window = sample.at_ns // resolution
        return _Span(window, window, sample.acked_ns, owed)
    last = sample.acked_ns // resolution if sample.acked_ns else 1 << 62
    return _Span(sample.sent_ns // resolution, last, sample.acked_ns, owed)


def _match(
    verdict: Verdict,
    group: Group,
    resolution: int,
    slot: int,
    spans: list[_Span],
    counts: dict[int, int],
    mirrored: bool,
) -> None:
    """Gives each window as many samples as it says: those that have to be somewhere first."""
    unsure = [s for s in spans if mirrored and s.first != s.last]
    sure = spans if not unsure else [s for s in spans if s.first == s.last]
    left = _take(counts, [s for s in sure if s.owed])
    left = _take(left, [s for s in sure if not s.owed])
    over = {n: left[n] - sum(s.first <= n <= s.last for s in unsure) for n in sorted(left)}
    over = {number: count for number, count in over.items() if count > 0}
    missing = [s for s in sure if not s.taken and s.owed]
    verdict.forgiven_ns += [s.acked_ns for s in sure if not s.taken and s.acked_ns and not s.owed]
    extra = [number for number, count in over.items() for _ in range(count)]
    for k, span in enumerate(missing):
        place = _name(group.ident, resolution, span.first)
        more = "" if span.first == span.last else f" to {_clock(span.last * resolution)}"
        text = f"{place}{more}: sample of digit {slot}, acked {_when(span.acked_ns)}, is missing"
        if k < len(extra):
            verdict.add_wrong(group.kind, f"{text}; one too much from {_clock(extra[k] * resolution)} on")
        else:
            verdict.add_missing(group.kind, text)
    for number in extra[len(missing) :]:
        verdict.add_doubled(group.kind, f"{_name(group.ident, resolution, number)}: one of digit {slot} too much")


def _take(counts: dict[int, int], spans: list[_Span]) -> dict[int, int]:
    """Marks as many samples in each window as it counts, first those that can be in no later one; returns what is left of the counts."""
    waiting = sorted(spans, key=lambda span: span.first, reverse=True)
    able: list[tuple[int, int, _Span]] = []
    left = {}
    for number in sorted(counts):
        while waiting and waiting[-1].first <= number:
            span = waiting.pop()
            heapq.heappush(able, (span.last, len(waiting), span))
        count = counts[number]
        while able and (count or able[0][0] < number):
            last, _, span = heapq.heappop(able)
            if last >= number:
                span.taken = True
                count -= 1
        if count:
            left[number] = count
    return left


# --- lasts


def _judge_lasts(verdict: Verdict, line: Line, resolution: int, came: dict[int, float], rules: _Rules) -> None:
    spans = [(s, _span(line, s, resolution, rules)) for s in line.samples if s.sent_ns]
    latest: dict[int, Sample] = {}
    """By window, of those that are surely in it, the one that was sent last."""
    for sample, span in spans:
        if span.first == span.last and span.owed:
            latest[span.first] = sample
        verdict.unsure += rules.mirrored and span.first != span.last
    by_number = {sample.number: (sample, span) for sample, span in spans}
    for number, sample in latest.items():
        if number not in came:
            verdict.add_missing(
                line.kind, f"{_name(line.group.ident, resolution, number)} did not come, with sample {sample.number}"
            )
    for number, value in came.items():
        found = by_number.get(int(value)) if value == int(value) else None
        last = latest.get(number)
        if found is not None and found[1].first <= number <= found[1].last and not _is_stale(line, found[0], last):
            continue
        expected = "none" if last is None else last.number
        verdict.add_wrong(line.kind, f"{_name(line.group.ident, resolution, number)} is {value:g}, expected {expected}")


def _is_stale(line: Line, sample: Sample, last: Sample | None) -> bool:
    """Whether a later sample is surely in the same window: it has a later time, or was sent after the ack of this one."""
    if last is None or last is sample:
        return False
    if line.kind.timed:
        return last.at_ns > sample.at_ns
    return 0 < sample.acked_ns < last.sent_ns


# --- rates


def _judge_rates(
    verdict: Verdict, group: Group, resolution: int, came: dict[int, float], begin_ns: int, end_ns: int
) -> None:
    """The first window has none before it, and gives no rate."""
    each = resolution // RESOLUTIONS_NS[0]
    for number in range(begin_ns // resolution + 1, end_ns // resolution):
        shorter = range(number * each, (number + 1) * each)
        expected = sum(BASE**line.source * sum(rate(line.source, w) for w in shorter) // each for line in group.lines)
        if number not in came:
            verdict.add_missing(
                group.kind, f"{_name(group.ident, resolution, number)} did not come, expected {expected:o} (octal)"
            )
        elif came[number] != expected:
            text = f"{int(came[number]):o}" if came[number] == int(came[number]) else f"{came[number]}"
            verdict.add_wrong(
                group.kind, f"{_name(group.ident, resolution, number)} is {text}, expected {expected:o} (octal)"
            )
    early = [n for n in came if not begin_ns // resolution < n < end_ns // resolution]
    for number in early:
        verdict.add_wrong(group.kind, f"{_name(group.ident, resolution, number)} is {came[number]:g}, expected none")


# --- texts


def _name(ident: bytes, resolution: int, number: int) -> str:
    text = ident.removeprefix(PREFIX).decode(errors="replace")
    return f"{text}, {resolution // SECOND_NS} s from {_clock(number * resolution)}"


def _clock(at_ns: int) -> str:
    return "…" if at_ns > 1 << 62 else f"{at_ns // SECOND_NS % 3600 // 60:02}:{at_ns // SECOND_NS % 60:02}"


def _when(at_ns: int) -> str:
    return f"{_clock(at_ns)}.{at_ns // 1_000_000 % 1000:03}"
