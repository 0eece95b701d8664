"""What an instance says of its memory limit."""

from aggregator.supervisor.memory import MemoryWatch
from aggregator.supervisor.problems import Problems
from m3x.memory import MemoryLimit

NEW = "addUntimed.errors{reason=new-metric-memory-limit}"
TIMED = "addTimed.errors{reason=new-metric-memory-limit}"
KNOWN = "addForwarded.errors{reason=memory-limit}"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_refused_new_metrics_are_a_note_until_none_was_refused_for_a_minute() -> None:
    problems, clock = Problems(), Clock()
    watch = MemoryWatch(MemoryLimit(64 << 20, "instance.memoryLimitBytes"), problems, clock)
    watch.told(0, {"counters": 5})
    assert (problems.reasons, problems.warnings) == ({}, {})
    watch.told(0, {NEW: 3, TIMED: 1})
    (note,) = problems.warnings.values()
    assert note.startswith("new metrics are refused: the memory limit of 64 MiB (instance.memoryLimitBytes)")
    assert problems.reasons == {}
    # The same words as long as it lasts, so that the log has them once.
    for _ in range(100):
        clock.now_s += 1
        watch.told(1, {})
        watch.told(0, {NEW: 3 + int(clock.now_s), TIMED: 1})
        assert list(problems.warnings.values()) == [note]
    last = {NEW: 3 + int(clock.now_s), TIMED: 1}
    clock.now_s += 59
    watch.told(0, last)
    assert problems.warnings
    assert watch.refuses_new
    clock.now_s += 1
    watch.told(1, {})
    assert problems.warnings == {}
    assert not watch.refuses_new


def test_refused_values_of_known_metrics_are_a_reason() -> None:
    problems, clock = Problems(), Clock()
    watch = MemoryWatch(MemoryLimit(64 << 20, "half of the machine's memory"), problems, clock)
    watch.told(0, {KNOWN: 1})
    (reason,) = problems.reasons.values()
    assert reason.startswith("values are refused: the memory limit of 64 MiB (half of the machine's memory)")
    clock.now_s += 61
    watch.told(0, {KNOWN: 1})
    assert problems.reasons == {}


def test_the_next_process_of_a_worker_counts_from_nothing() -> None:
    problems, clock = Problems(), Clock()
    watch = MemoryWatch(MemoryLimit(64 << 20, "x"), problems, clock)
    watch.told(0, {NEW: 1000})
    clock.now_s += 60
    watch.told(0, {NEW: 1000})
    assert problems.warnings == {}
    watch.gone(0)
    watch.told(0, {NEW: 1})
    assert problems.warnings
