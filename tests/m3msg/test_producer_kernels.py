"""The compiled loops of the producer against the plain frame format and against counting by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m3msg.frames import Message, Metadata, decode_message, encode_message, split
from m3msg.producer import kernels
from m3msg.producer.rows import (
    ACKED,
    BIT_ACKED,
    BIT_CLOSED,
    BIT_PENDING,
    BIT_UNWANTED,
    COPY_ROW,
    DROPPED,
    FENCED,
    NO_WRITER,
    OUTCOME_ACKED,
    OUTCOME_CLOSED,
    OUTCOME_FILTERED,
    OUTCOME_LOST,
    OUTCOME_UNWANTED,
    QUEUED,
    RUN_ROW,
    SENT,
    SHARD_ROW,
    WAITING,
)  # fmt: skip
from m3msg.rows import ACK_ROW

NO_MASK = np.zeros(0, np.uint8)
NOW = 1_700_000_000_000_000_000


def columns(values: list[bytes]):
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int64)
    return np.frombuffer(b"".join(values) or b"", np.uint8), offsets


def one_row(metadata: Metadata, value: bytes):
    row = np.zeros(1, COPY_ROW)
    row["id"], row["writer"], row["size"], row["state"] = metadata.id, metadata.shard, len(value), QUEUED
    return row


@given(
    st.integers(0, (1 << 32) - 1), st.integers(1, (1 << 56) - 1), st.integers(1, (1 << 63) - 1), st.binary(max_size=400)
)
def test_frames_are_those_of_the_reference(writer: int, ident: int, now: int, value: bytes):
    row, out, inflight = one_row(Metadata(writer, ident), value), np.full(1000, 0xEE, np.uint8), 1 << 30
    offsets = np.array([0, len(value)], np.int64)
    payload = np.frombuffer(value, np.uint8)
    _, end, sent, count = kernels.encode_rows(row, 0, 1, payload, offsets, False, now, out, 3, inflight)
    assert out[3:end].tobytes() == encode_message(Message(Metadata(writer, ident, now), value))
    assert (sent, count, row["state"][0]) == (len(value), 1, SENT)


def filled(values: list[bytes], shards: list[int], accept=None, mask=NO_MASK, links: int = 2, num_shards: int = 5):
    payload, offsets = columns(values)
    table = np.zeros(num_shards, SHARD_ROW)
    table["writer"] = np.arange(num_shards) + num_shards
    table["link"] = table["writer"] % links
    table["last_id"] = np.arange(num_shards) * 100
    order = np.argsort(table["link"], kind="stable").astype(np.uint32)
    rows, runs = np.zeros(len(values), COPY_ROW), np.zeros(num_shards, RUN_ROW)
    accept = np.ones(num_shards, np.uint8) if accept is None else np.array(accept, np.uint8)
    n, size = kernels.fill_parcel(np.array(shards, np.uint32), offsets, accept, mask, table, order, rows, runs)
    return payload, offsets, table, rows[:n], runs, size


values_and_shards = st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 6)), max_size=60)


@given(values_and_shards, st.lists(st.booleans(), min_size=5, max_size=5), st.booleans())
def test_fill_gives_every_accepted_message_the_next_id_of_its_writer(pairs, accept, masked):
    values, shards = [v for v, _ in pairs], [s for _, s in pairs]
    mask = (np.arange(len(values)) % 2 == 0).astype(np.uint8) if masked and values else NO_MASK
    _, _, table, rows, runs, size = filled(values, shards, accept, mask)
    taken = [i for i, s in enumerate(shards) if s < 5 and accept[s] and (not len(mask) or mask[i])]
    assert sorted(rows["message"].tolist()) == taken
    assert size == sum(len(values[i]) for i in taken)
    assert (np.diff(rows["link"].astype(int)) >= 0).all()
    for s in range(5):
        mine = [i for i in taken if shards[i] == s]
        run = runs[s]
        assert run["count"] == len(mine)
        part = rows[run["start"] : run["start"] + run["count"]]
        assert part["message"].tolist() == mine
        assert part["id"].tolist() == [s * 100 + 1 + k for k in range(len(mine))]
        assert (part["writer"] == s + 5).all()
        assert table["last_id"][s] == s * 100 + len(mine)


@given(values_and_shards, st.data())
def test_acks_mark_exactly_what_they_name(pairs, data):
    values, shards = [v for v, _ in pairs], [s for _, s in pairs]
    _, _, _, rows, runs, _ = filled(values, shards)
    rows["state"] = [data.draw(st.sampled_from([QUEUED, SENT, WAITING, ACKED, DROPPED])) for _ in rows]
    before = rows["state"].copy()
    inflight = np.full(2, 10_000, np.int64)
    wanted = data.draw(st.lists(st.integers(0, max(len(rows) - 1, 0)), unique=True)) if len(rows) else []
    strange = [(3, 50), (8, 299), (8, 100_000), (99, 1)]
    acks = np.array([(int(rows["writer"][i]), int(rows["id"][i])) for i in wanted] + strange, ACK_ROW)
    left, marked, freed = kernels.mark_acks(acks, len(acks), rows, runs, inflight)
    assert sorted(acks[:left].tolist()) == sorted(strange)
    pending = [i for i in wanted if before[i] <= WAITING]
    assert marked == len(pending)
    assert freed == sum(int(rows["size"][i]) for i in pending)
    assert all(rows["state"][i] == ACKED for i in pending)
    others = [i for i in range(len(rows)) if i not in pending]
    assert (rows["state"][others] == before[others]).all()
    sent = sum(int(rows["size"][i]) for i in pending if before[i] == SENT)
    assert inflight.sum() == 20_000 - sent


def test_encode_stops_at_the_window_and_at_the_end_of_the_buffer():
    payload, offsets, _, rows, _, _ = filled([b"x" * 100] * 10, [0] * 10, links=1)
    out = np.zeros(10_000, np.uint8)
    row, end, sent, count = kernels.encode_rows(rows, 0, 10, payload, offsets, False, NOW, out, 0, 250)
    assert (row, sent, count) == (3, 300, 3)  # the third overdraws
    assert kernels.encode_rows(rows, row, 10, payload, offsets, False, NOW, out, end, -50)[3] == 0
    small = np.zeros(500, np.uint8)
    row, end, _, count = kernels.encode_rows(rows, 3, 10, payload, offsets, False, NOW, small, 0, 1 << 40)
    assert (row, count) == (6, 3)
    frames, rest = split(small[:end].tobytes())
    assert rest == b""
    assert [decode_message(f).metadata.id for f in frames] == [4, 5, 6]


def test_states_from_sent_to_resent_and_given_up():
    payload, offsets, _, rows, _, _ = filled([b"abc"] * 4, [0] * 4, links=1)
    inflight, out = np.zeros(1, np.int64), np.zeros(1000, np.uint8)
    kernels.encode_rows(rows, 0, 4, payload, offsets, False, NOW, out, 0, 1000)
    inflight[0] = 12
    rows["state"][1] = ACKED
    inflight[0] -= 3
    assert kernels.lapse(rows, 0, 4, inflight) == 3
    assert inflight[0] == 0
    assert kernels.encode_rows(rows, 0, 4, payload, offsets, False, NOW, out, 0, 1000)[3] == 0
    assert kernels.encode_rows(rows, 0, 4, payload, offsets, True, NOW, out, 0, 0)[3] == 3
    assert rows["state"].tolist() == [WAITING, ACKED, WAITING, WAITING]
    assert kernels.requeue(rows, 0, 4, inflight) == (3, 3)
    assert kernels.settle(rows, 0, 2, FENCED, inflight) == (1, 3)
    assert rows["state"].tolist() == [FENCED, ACKED, QUEUED, QUEUED]


def test_extract_moves_shards_whole_and_keeps_ids():
    values = [bytes([65 + i]) for i in range(12)]
    _, _, _, rows, runs, _ = filled(values, [i % 3 for i in range(12)], links=1)
    rows["state"][runs["start"][1]] = ACKED
    rows["state"][runs["start"][1] + 1] = SENT
    inflight = np.array([1], np.int64)
    out, out_runs = np.zeros(12, COPY_ROW), np.zeros(5, RUN_ROW)
    wanted = np.array([0, 1, 0, 0, 0], np.uint8)
    n, pending, size = kernels.extract(rows, runs, wanted, out, out_runs, inflight)
    assert (n, pending, size, inflight[0]) == (4, 3, 3, 0)
    assert out["id"][:4].tolist() == [101, 102, 103, 104]
    assert out["state"][:4].tolist() == [ACKED, QUEUED, QUEUED, QUEUED]
    acks = np.array([(6, 104)], ACK_ROW)
    assert kernels.mark_acks(acks, 1, rows, runs, inflight)[0] == 1  # not here any more
    assert kernels.mark_acks(acks, 1, out[:4], out_runs, inflight)[:2] == (0, 1)


def test_judge_by_the_best_copy_of_each_message():
    result = np.array([BIT_ACKED, BIT_ACKED | BIT_PENDING, 0, 0, BIT_CLOSED, BIT_UNWANTED], np.uint8)
    outcome = np.full(6, OUTCOME_FILTERED, np.uint8)
    assert kernels.judge(result, np.array([1, 1, 1, 0, 1, 1], np.uint8), outcome)
    ends = [OUTCOME_ACKED, OUTCOME_ACKED, OUTCOME_LOST, OUTCOME_FILTERED, OUTCOME_CLOSED, OUTCOME_UNWANTED]
    assert outcome.tolist() == ends
    # What another service has acked is acked, unless this one still wants it.
    outcome[:] = OUTCOME_ACKED
    assert kernels.judge(result, NO_MASK, outcome)
    assert outcome[4:].tolist() == [OUTCOME_CLOSED, OUTCOME_ACKED]
    result[0] = BIT_PENDING
    assert not kernels.judge(result, NO_MASK, outcome)


def test_no_writer_is_beyond_every_replicated_shard_id():
    assert SHARD_ROW["writer"].itemsize == 4
    assert NO_WRITER == (1 << 32) - 1
