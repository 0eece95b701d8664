"""What ingest writes for a journal, applied to another engine, makes the same state."""

import random
import struct
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregator.engine.engine_calls import NEVER, NOW, SECOND, engine_of, flush_both, options
from tests.aggregator.engine.engine_frames import frame
from tests.aggregator.engine.test_engine import random_metric, random_stages

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine.ingest.shorthand import MANY, TIME_NS, WHOLE
from aggregator.lists import ListId
from m3metrics import codec
from m3metrics.metadata import DEFAULT_STAGED_METADATAS


def ingest(engine: Engine, messages: list[bytes], now: int, first_id: int = 1) -> Any:
    """Ingests one batch and returns the result; ``rows`` is a copy."""
    data = np.frombuffer(b"".join(frame(m, ident=first_id + k) for k, m in enumerate(messages)), np.uint8)
    result = engine.ingest(data, np.array([len(data)], np.int64), now, journaled=True)
    result.rows = result.rows.copy()
    return result


def numbers() -> np.ndarray:
    return np.zeros(1 << 13, np.uint32)


def command_of(r: random.Random, now: int, o: Any) -> ipc.Flush:
    kind, resolution = r.choice([0, 1, 2]), r.choice([10, 60, 7])
    times = r.choice([1, 1, 2]) if kind == 2 else 0
    delays = [0, o.buffer_past_ns + resolution * SECOND, o.forwarding_delay_ns(resolution * SECOND, times)]
    group = ipc.ShardBounds([], now - delays[kind], 0, NEVER)
    return ipc.Flush(1, ListId(kind, resolution * SECOND, times), r.random() < 0.8, [group])


def close_all(now: int) -> list[ipc.Flush]:
    return [
        ipc.Flush(1, ListId(kind, s * SECOND, times), True, [ipc.ShardBounds([], now + 300 * SECOND, 0, NEVER)])
        for kind, times in ((0, 0), (1, 0), (2, 1), (2, 2))
        for s in (10, 60, 7)
    ]


def same(one: Engine, other: Engine, command: ipc.Flush, now: int) -> list[bytes]:
    out, sent = flush_both(one, command, now)
    assert (out, sent) == flush_both(other, command, now)
    return sent


def without_messages(engine: Engine) -> Any:
    counters, gauges, shards = engine.stats()
    return counters | {"messages": 0}, gauges, shards


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_the_same_again(seed: int) -> None:
    r = random.Random(seed)
    o = options(discard_nan=r.random() < 0.7, values_per_metric_limit_per_second=r.choice([0, 0, 60]))
    engine, copy = engine_of(o), engine_of(o)
    pool = [random_stages(r, NOW, True) for _ in range(5)]
    known = numbers()
    now = NOW
    back: list[bytes] = []
    for _ in range(60):
        now += r.choice([1, SECOND // 3, SECOND, 4 * SECOND])
        action = r.random()
        if action < 0.75:
            metrics = [random_metric(r, pool, now, True) for _ in range(r.randint(1, 12))]
            messages = [
                *(codec.encode_metric(m) + r.choice([b"", b"", b"\x78\x01"]) for m in metrics),
                *back,
                b"\x08\x00",
            ]
            back = []
            rows = ingest(engine, messages, now).rows
            replayed = copy.replay(rows, known, now)
            assert (replayed.lost, replayed.whole) == (0, True)
        elif action < 0.97:
            back += same(engine, copy, command_of(r, now, o), now)
        else:
            engine.expire(now)
            copy.expire(now)
    assert without_messages(engine) == without_messages(copy)
    for command in close_all(now):
        same(engine, copy, command, now)


def test_known_samples_are_short() -> None:
    engine = engine_of(options())
    gauge = codec.GaugeWithMetadatas(id=b"g" * 60, value=1.0, metadatas=DEFAULT_STAGED_METADATAS)
    first = ingest(engine, [codec.encode_metric(gauge)], NOW).rows
    again = ingest(engine, [codec.encode_metric(gauge)], NOW + 1).rows
    assert len(first) > 60
    assert first[0] == WHOLE
    assert len(again) == 16


@given(st.data())
def test_rows_that_are_cut_or_changed_are_survived(data: st.DataObject) -> None:
    engine = engine_of(options())
    r = random.Random(data.draw(st.integers(0, 1000)))
    pool = [random_stages(r, NOW, True) for _ in range(5)]
    messages = [codec.encode_metric(random_metric(r, pool, NOW, True)) for _ in range(8)]
    ingest(engine, messages, NOW)
    rows = ingest(engine, messages, NOW).rows
    cut = data.draw(st.integers(0, len(rows)))
    mutated = rows[:cut].copy()
    for _ in range(data.draw(st.integers(0, 3))):
        if cut:
            mutated[data.draw(st.integers(0, cut - 1))] = data.draw(st.integers(0, 255))
    engine_of(options()).replay(mutated, numbers(), NOW)


def test_what_was_applied_and_comes_again_is_acked_and_not_applied() -> None:
    o = options()
    engine, copy = engine_of(o), engine_of(o)
    r = random.Random(5)
    pool = [random_stages(r, NOW, True) for _ in range(5)]
    metrics = [codec.encode_metric(random_metric(r, pool, NOW, True)) for _ in range(200)]
    known = numbers()
    result = ingest(engine, metrics, NOW)
    copy.replay(result.rows, known, NOW)
    words = copy.repeats_of(result.rows, result.messages, known, NOW)
    assert (words == engine.repeats_of(result.rows, result.messages, np.zeros(0, np.uint32), NOW)).sum() == len(words)
    has_entry = int((words["content"] != 0).sum())
    assert has_entry > 100
    copy.expect_repeats(words)
    again = ingest(copy, metrics, NOW + 5)
    assert again.messages == len(metrics)
    assert len(again.acks) == len(result.acks)
    assert copy.stats()[0]["redelivered"] == has_entry
    # It may come a third time, also after another replay; it is not applied by that.
    third = engine_of(o)
    numbers_there = numbers()
    third.replay(result.rows, numbers_there, NOW)
    before = without_messages(third)
    third.replay(again.rows, np.arange(1, 1 << 13, dtype=np.uint32), NOW)
    assert (third.repeats_of(again.rows, again.messages, numbers_there, NOW) == words).sum() == has_entry
    assert before[2] == without_messages(third)[2]
    assert len(ingest(copy, metrics[:1], NOW, first_id=77).rows)
    once_more = ingest(copy, metrics, NOW + 6)
    assert copy.stats()[0]["redelivered"] == has_entry
    assert len(once_more.rows)


def test_a_short_row_without_a_value_is_lost_and_nothing_behind_it_is_read() -> None:
    engine = engine_of(options())
    gauge = codec.encode_metric(codec.GaugeWithMetadatas(id=b"g", value=1.0, metadatas=DEFAULT_STAGED_METADATAS))
    ingest(engine, [gauge], NOW)
    word, key = struct.unpack("<II", ingest(engine, [gauge], NOW).rows[:8].tobytes())
    row = struct.pack("<IIqI", word >> 8 << 8 | TIME_NS | MANY, key, NOW, 0)
    behind = np.frombuffer(bytearray(row + struct.pack("<d", 7.0)), np.uint8)
    replayed = engine.replay(behind[: len(row)], np.arange(1, 1 << 13, dtype=np.uint32), NOW)
    assert (replayed.lost, replayed.whole) == (1, True)
