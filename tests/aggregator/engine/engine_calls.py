"""An engine with options of the tests, and calls to it that check what every answer must hold."""

import itertools
from typing import Any

import numpy as np
from tests.aggregator.engine.engine_frames import frame
from tests.aggregator.engine.reference_engine import bits

from aggregator import ipc
from aggregator.engine import Engine, EngineOptions
from aggregator.lists import ListId
from m3metrics import codec

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
NEVER = (1 << 63) - 1


def options(**changes: Any) -> EngineOptions:
    base = {
        "num_shards": 4,
        "topic_shards": 16,
        "default_storage_policies": ("10s:2d", "1m:40d"),
        "timer_transform": "suffix",
        "gauge_transform": "empty",
        "counter_prefix": "stats.counts.",
        "buffer_past_ns": 20 * SECOND,
        "buffer_future_ns": 15 * SECOND,
        "max_buffer_ns": 120 * SECOND,
        "forwarding_max_const_delay_ns": 10 * SECOND,
        "entry_ttl_ns": 90 * SECOND,
    }
    return EngineOptions(**(base | changes))


def all_shards(n: int = 4, cutover: int = 0, cutoff: int = NEVER) -> list[ipc.OwnedShard]:
    return [ipc.OwnedShard(s, cutover, cutoff) for s in range(n)]


def engine_of(o: EngineOptions, shards: list[ipc.OwnedShard] | None = None, max_series: int = 1 << 12) -> Engine:
    engine = Engine(o, max_series=max_series)
    owned = all_shards(o.num_shards) if shards is None else shards
    engine.set_shards(ipc.Shards(o.num_shards, o.topic_shards, owned), NOW)
    return engine


def send(engine: Engine, messages: list[bytes], now: int, segments: int = 1) -> list[str]:
    """Ingests the messages as one batch and checks the acks; returns what was said of those refused."""
    frames = [frame(m, ident=k + 1) for k, m in enumerate(messages)]
    cuts = np.linspace(0, len(frames), segments + 1).astype(int)
    parts = [b"".join(frames[a:b]) for a, b in itertools.pairwise(cuts)]
    data = np.frombuffer(b"".join(parts), np.uint8)
    result = engine.ingest(data, np.array([len(p) for p in parts], np.int64), now)
    assert result.messages == len(messages)
    assert acked(result.acks.tobytes()) == list(range(1, len(messages) + 1))
    ends = np.cumsum(result.ack_sizes)
    for a, b, part in zip(cuts, cuts[1:], range(segments), strict=False):
        start = 0 if part == 0 else ends[part - 1]
        assert len(acked(result.acks[start : ends[part]].tobytes())) == b - a
    said = [text for text, _ in engine.recent_errors]
    engine.recent_errors.clear()
    return said


def acked(data: bytes) -> list[int]:
    """Message ids of ack frames, read field by field."""
    ids = []
    while data:
        size = int.from_bytes(data[:4], "big")
        body, data = data[4 : 4 + size], data[4 + size :]
        while body:
            assert body[0] == 0x0A
            meta, body = body[2 : 2 + body[1]], body[2 + body[1] :]
            at = meta.index(0x10, 2) + 1
            value = shift = 0
            while True:
                value |= (meta[at] & 127) << shift
                shift += 7
                at += 1
                if meta[at - 1] < 128:
                    break
            ids.append(value)
    return ids


def flush(engine: Engine, command: ipc.Flush, now: int) -> list[tuple[Any, ...]]:
    """What a flush puts out without rollups."""
    out, sent = flush_both(engine, command, now)
    assert sent == []
    return out


def flush_both(engine: Engine, command: ipc.Flush, now: int) -> tuple[list[tuple[Any, ...]], list[bytes]]:
    """Final values, and messages for rollups."""
    out: list[tuple[Any, ...]] = []
    sent: list[bytes] = []
    last = False
    for part in engine.flush(command, now):
        assert not last
        last = part.last
        batch = part.batch
        for k in range(0 if batch is None else len(batch)):
            if part.forwarded:
                sent.append(batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes())
                continue
            m = codec.decode_aggregated(batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes())
            assert batch.policy_names[batch.policies[k]] == str(m.storage_policy)
            out.append((m.id, m.time_ns, str(m.storage_policy), bits(m.value), m.annotation, m.traffic_types))
    assert last
    return out, sent


def flush_all(kind: int, resolution_s: int, target: int, emit: bool = True, **bounds: Any) -> ipc.Flush:
    group = ipc.ShardBounds([], target, bounds.get("cutover", 0), bounds.get("cutoff", NEVER))
    return ipc.Flush(1, ListId(kind, resolution_s * SECOND), emit, [group])
