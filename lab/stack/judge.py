"""Compares what storage holds with what the demo stream must give: every series, every closed window, by value.

A window ``[start, start + 10 s)`` is stored with its end as timestamp. The first window of the run is partial and not judged; the last one
judged is the last that the aggregator must have flushed by now.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lab.prometheus import EQUAL, REGEX, Points, remote_read
from lab.stack.demo import WINDOW_S, all_rollups, all_series, expected, expected_rollup
from m3ctl.bench.remote_write import Labels

MIN_WINDOWS = 3
FLUSH_DELAY_S = 20
"""A window of configs/local is in storage this long after its end at the latest: resolution 10 s, past buffer 5 s, and slack."""
MIN_ROLLUP_WINDOWS = 2
ROLLUP_DELAY_S = 40
"""The same for rolled up series: forwarding delay 20 s and a resolution after their timestamp, and slack."""


@dataclass
class Verdict:
    """What the comparison found."""

    series: int = 0
    windows: int = 0
    values: int = 0
    fewest_windows: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Everything that was expected is there with the right value, in enough windows."""
        return not self.problems and self.values > 0

    def __str__(self) -> str:
        head = f"judged {self.values} values: {self.series} series, {self.windows} windows, at least {self.fewest_windows} per series"
        if self.good:
            return f"{head}: all right"
        shown = "\n  ".join(self.problems[:20])
        more = f"\n  … and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
        return f"{head}: {len(self.problems)} PROBLEMS\n  {shown}{more}"


def judge(
    points: Points,
    first_start_s: int,
    last_end_s: int,
    last_rollup_end_s: int,
    min_windows: int,
    min_rollup_windows: int,
) -> Verdict:
    """Judges all windows that start at or after ``first_start_s`` (aligned) and end at or before the last end of their kind."""
    verdict = Verdict()
    starts = range(first_start_s, last_end_s - WINDOW_S + 1, WINDOW_S)
    verdict.windows = len(starts)
    counts = [
        _judge_series(verdict, points, series.labels, {start: expected(series, start) for start in starts}, min_windows)
        for series in all_series()
    ]
    verdict.fewest_windows = min(counts)
    starts = range(first_start_s, last_rollup_end_s - WINDOW_S + 1, WINDOW_S)
    for rollup in all_rollups():
        wanted = {start: expected_rollup(rollup, start) for start in starts}
        _judge_series(verdict, points, rollup.labels, wanted, min_rollup_windows)
    return verdict


def _judge_series(
    verdict: Verdict, points: Points, labels: Labels, wanted: Mapping[int, float | None], min_windows: int
) -> int:
    """Compares one series, window start → value (None: there must be none); returns how many windows have a value."""
    verdict.series += 1
    stored = points.get(labels, {})
    judged = 0
    for start, want in wanted.items():
        got = stored.get((start + WINDOW_S) * 1000)
        judged += got is not None
        if got != want:
            found = "missing" if got is None else str(got)
            verdict.problems.append(f"{_name(labels)} window ending {start + WINDOW_S}: {found}, expected {want}")
    verdict.values += judged
    if judged < min_windows:
        verdict.problems.append(f"{_name(labels)}: {judged} windows judged, at least {min_windows} are needed")
    return judged


def judge_run(
    fetched: Callable[[int, int], Points],
    began_s: int,
    end_s: float,
    min_windows: int = MIN_WINDOWS,
    min_rollup_windows: int = 0,
) -> Verdict:
    """Judges what is stored of a stream that was fed from ``began_s`` on and is looked at since ``end_s``.

    ``fetched``: all demo series between two times in seconds.
    """
    first = (began_s // WINDOW_S + 1) * WINDOW_S
    last, last_rollup = (int(end_s - delay) // WINDOW_S * WINDOW_S for delay in (FLUSH_DELAY_S, ROLLUP_DELAY_S))
    return judge(fetched(first, last), first, last, last_rollup, min_windows, min_rollup_windows)


def fetch(base_url: str, start_s: int, end_s: int) -> Points:
    """All demo series between the two times, raw, through Prometheus remote read."""
    points: Points = {}
    for matcher in (("__name__", REGEX, "demo_.*"), ("__g0__", EQUAL, "demo")):
        points.update(remote_read(base_url, [matcher], start_s * 1000, end_s * 1000))
    return points


def _name(labels: Labels) -> str:
    return "{" + ", ".join(f"{name}={value!r}" for name, value in labels) + "}"
