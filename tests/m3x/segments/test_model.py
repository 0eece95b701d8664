"""A log against a plain list, through rolls, drops, kills and power cuts in any order."""

import itertools
import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from m3x.segments import START, Appended, Position, Reader, SegmentLog
from m3x.segments import log as log_module

_SEGMENT_BYTES = 400
_FOREVER_S = 3600.0
_MEMORY = Path("/dev/shm")
"""Where fsync costs nothing."""


def abandon(log: SegmentLog) -> None:
    """Lets go of a log as the end of its process would: nothing is synced or written any more."""
    if log._syncer is not None:
        log._syncer.close()
    elif log._file >= 0:
        log_module.os.close(log._file)
    log._directory.close()


class LogModel(RuleBasedStateMachine):
    """``records`` is what the log must hold; ``reader`` is one that is used from time to time, as a consumer's is."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="log-model-", dir=_MEMORY if _MEMORY.is_dir() else None))
        self.records: list[tuple[Appended, bytes]] = []
        self.count = 0
        self.first = True
        self.log = self.open()
        self.reader: Reader = self.log.reader()
        self.read_to: Position = START

    def open(self) -> SegmentLog:
        self.first = True
        return SegmentLog(self.path, sync="interval", interval_s=_FOREVER_S, segment_bytes=_SEGMENT_BYTES)

    def reopen(self) -> None:
        self.reader.close()
        self.log = self.open()
        self.reader = self.log.reader(self.reader.position)

    def teardown(self) -> None:
        self.reader.close()
        abandon(self.log)
        shutil.rmtree(self.path)

    @rule(size=st.one_of(st.integers(0, 60), st.integers(0, 900)), parts=st.integers(1, 4))
    def append(self, size: int, parts: int) -> None:
        self.count += 1
        data = random.Random(self.count).randbytes(size)
        cuts = [size * part // parts for part in range(parts + 1)]
        before = self.log.end
        place = self.log.append([data[start:stop] for start, stop in itertools.pairwise(cuts)])
        assert before <= place.start < place.end == self.log.end
        self.records.append((place, data))
        if self.first:
            # The first fsync of a log waits for nothing; this one waits for it. From then on only flush() makes anything durable in time.
            self.log.flush()
            self.first = False

    @rule()
    def roll(self) -> None:
        self.log.roll()

    @rule()
    def flush(self) -> None:
        self.log.flush()
        assert self.log.durable == self.log.end

    @rule()
    def close_and_open(self) -> None:
        self.log.close()
        self.reopen()

    @rule()
    def kill(self) -> None:
        abandon(self.log)
        self.reopen()
        assert self.log.damage == []

    @rule(seed=st.integers(0, 2**32))
    def cut_power(self, seed: int) -> None:
        """Of each file anything from what is durable to all of it is left; what was not written reads as zeros, or is not there."""
        cut = random.Random(seed)
        durable = self.log.durable
        abandon(self.log)
        for segment in self.log.segments:
            file = self.path / f"{segment.number:016x}.segment"
            if segment.number < durable.segment:
                continue
            if segment.number > durable.segment and cut.random() < 0.3:
                file.unlink()
                continue
            least = durable.offset if segment.number == durable.segment else 0
            left = cut.randint(least, segment.size)
            data = file.read_bytes()
            file.write_bytes(data[:left] + bytes(cut.choice([0, segment.size - left])))
        self.reopen()
        left_over = [(record.start, bytes(record.data)) for record in self.log.reader()]
        expected = [(place.start, data) for place, data in self.records]
        assert set(left_over) <= set(expected)
        assert {found for found in expected if found[0] < durable} <= set(left_over)
        assert left_over == sorted(left_over)
        self.records = [found for found in self.records if (found[0].start, found[1]) in set(left_over)]

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def drop_through(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from([place for place, _ in self.records]))
        position = data.draw(st.sampled_from(place))
        self.log.drop_through(position)
        oldest = self.oldest()
        assert all(place.end <= position for place, _ in self.records if place.start.segment < oldest)
        self.forget_before(oldest)
        assert {place.start.segment for place, _ in self.records if place.end > position} <= self.numbers()

    @rule()
    def drop_oldest(self) -> None:
        held = len(self.numbers())
        if self.log.drop_oldest() is None:
            assert held == 0 or not self.records
        else:
            assert len(self.numbers()) == held - 1
        self.forget_before(self.oldest())

    @rule(most=st.integers(0, 5))
    def consume(self, most: int) -> None:
        expected = [found for found in self.records if found[0].start >= self.read_to]
        for place, data in expected[:most]:
            record = self.reader.next()
            assert record is not None
            assert (record.start, record.end, bytes(record.data)) == (*place, data)
            self.read_to = record.end
        if len(expected) < most:
            assert self.reader.next() is None

    @rule(data=st.data())
    def read_from_somewhere(self, data: st.DataObject) -> None:
        places = [place for place, _ in self.records]
        position = data.draw(st.sampled_from([START, self.log.end, *(place.start for place in places)]))
        chunk_bytes = data.draw(st.integers(1, 2000))
        found = [(record.start, bytes(record.data)) for record in self.log.reader(position, chunk_bytes)]
        assert found == [(place.start, data) for place, data in self.records if place.start >= position]

    @invariant()
    def sizes_are_those_of_the_files(self) -> None:
        files = {path.name: path.stat().st_size for path in self.path.glob("*.segment")}
        assert {f"{segment.number:016x}.segment": segment.size for segment in self.log.segments} == files
        assert self.log.size_bytes == sum(files.values())

    def numbers(self) -> set[int]:
        return {segment.number for segment in self.log.segments}

    def oldest(self) -> int:
        return min(self.numbers(), default=self.log.next_segment)

    def forget_before(self, segment: int) -> None:
        self.records = [found for found in self.records if found[0].start.segment >= segment]


TestLog = LogModel.TestCase
TestLog.settings = settings(max_examples=60, stateful_step_count=40)


def test_a_power_cut_that_empties_a_segment_and_tears_the_one_before_is_put_in_order_at_once() -> None:
    model = LogModel()
    try:
        for size in (0, 281, 0):
            model.append(size=size, parts=1)
        assert len(model.log.segments) == 2
        model.cut_power(seed=160)
        assert len(model.log.damage) == 2
        model.kill()
    finally:
        model.teardown()
