"""The arena of ids: those of series that are gone make room a piece at a time, while others come, go and are found."""

import mmap
import random

import pytest
from tests.aggregator.engine.engine_calls import NOW, SECOND, engine_of, flush, flush_all, options, send
from tests.aggregator.engine.test_memory import gauge, ids

from aggregator import ipc
from aggregator.engine import Engine
from aggregator.engine import engine as rooms
from aggregator.engine.tables import layout
from aggregator.lists import KIND_STANDARD, ListId

TTL = 30 * SECOND
MIB = 1 << 20


def in_use(engine: Engine) -> dict[int, bytes]:
    """The ids of all entries that are not free, by row, as the arena has them."""
    tables = engine._tables
    rows = tables.entries[: int(tables.head["entries"])]
    return {
        row: tables.ids[at : at + size].tobytes()
        for row, (at, size, state) in enumerate(rows[["id_at", "id_size", "state"]].tolist())
        if state != layout.ENTRY_FREE
    }


def put_out(engine: Engine, at: int) -> list[bytes]:
    """The ids of what is flushed up to then; its windows go."""
    out = flush(engine, flush_all(KIND_STANDARD, 10, at), at)
    engine.commit(ipc.Commit(ListId(KIND_STANDARD, 10 * SECOND), [], at))
    return [found[0] for found in out]


@pytest.mark.parametrize("seed", range(4))
def test_ids_stay_what_they_are_while_they_are_moved(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are smaller than an id, and larger than all; series come, go and stay meanwhile."""
    rng = random.Random(seed)
    monkeypatch.setattr(rooms, "_COMPACT_FROM", 2000)
    engine = engine_of(options(entry_ttl_ns=TTL), max_series=1 << 13)
    seen: dict[bytes, int] = {}
    moved = 0
    for turn in range(60):
        at = NOW + turn * 10 * SECOND
        names = list({b"%d" % rng.randrange(2000) + rng.randrange(200) * b"x" for _ in range(150)})
        for start in range(0, len(names), 30):
            monkeypatch.setattr(rooms, "_MOVED_BYTES", rng.choice((1, 50, 4000, MIB)))
            was_moving = engine._moves_ids
            assert send(engine, [gauge(name) for name in names[start : start + 30]], at) == []
            moved += was_moving
        seen |= dict.fromkeys(names, at)
        assert sorted(put_out(engine, at + 10 * SECOND)) == sorted(names)
        engine.expire(at + 10 * SECOND)
        seen = {name: last for name, last in seen.items() if last >= at + 10 * SECOND - TTL}
        assert int(engine._tables.head["live"]) == len(seen)
        assert set(seen) <= set(in_use(engine).values())
    assert moved > 20
    before = int(engine._tables.head["live"])
    assert send(engine, [gauge(name) for name in seen], at) == []
    assert int(engine._tables.head["live"]) == before


def test_what_was_moved_takes_no_more_than_it_needs() -> None:
    """And it stays where it is: what is behind it goes back to the system."""
    engine = engine_of(options(entry_ttl_ns=TTL), max_series=1 << 16)
    names = ids(20_000, b"long" + 400 * b"n")
    assert send(engine, [gauge(one) for one in names], NOW) == []
    arena, head = engine._tables.ids, engine._tables.head
    full = int(head["ids"])
    at = NOW + 60 * SECOND
    kept = names[::4]
    assert send(engine, [gauge(one) for one in kept], at) == []
    put_out(engine, at + 10 * SECOND)
    engine.expire(at)
    while engine._moves_ids:
        assert send(engine, [gauge(kept[0])], at) == []
    assert engine._tables.ids is arena
    assert sorted(in_use(engine).values()) == sorted(kept)
    left = int(head["ids"])
    assert left == sum(layout.ID_HEAD + len(one) for one in kept)
    assert (int(head["dead_ids"]), int(head["ids_seen"]), int(head["ids_moved"])) == (0, 0, 0)
    # Pages that were given back read as zero.
    assert not arena[-(-left // mmap.PAGESIZE) * mmap.PAGESIZE : full // mmap.PAGESIZE * mmap.PAGESIZE].any()
    assert send(engine, [gauge(one) for one in names], at) == []
    assert sorted(in_use(engine).values()) == sorted(names)


def test_a_piece_is_no_larger_than_it_is_to_be() -> None:
    engine = engine_of(options(entry_ttl_ns=TTL), max_series=1 << 16)
    names = ids(60_000)
    assert send(engine, [gauge(one) for one in names], NOW) == []
    at = NOW + 60 * SECOND
    assert send(engine, [gauge(one) for one in names[::2]], at) == []
    put_out(engine, at + 10 * SECOND)
    engine.expire(at)
    pieces, seen = 1, int(engine._tables.head["ids_seen"])
    assert 0 < seen <= rooms._MOVED_BYTES + 200
    while engine._moves_ids:
        assert send(engine, [gauge(names[0])], at) == []
        pieces += 1
    assert pieces == -(-60_000 * (layout.ID_HEAD + len(names[0])) // rooms._MOVED_BYTES)
