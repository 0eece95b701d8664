"""The table of bytes against a dictionary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3x.byte_table import ByteTable


@given(st.lists(st.binary(max_size=40), unique=True, max_size=60), st.lists(st.binary(max_size=40), max_size=60))
def test_it_finds_what_was_added(keys: list[bytes], asked: list[bytes]) -> None:
    table = ByteTable()
    half = len(keys) // 2
    table.add(keys[:half], [i * 3 for i in range(half)])
    table.add(keys[half:], [i * 3 for i in range(half, len(keys))])
    asked = asked + keys
    model = {key: i * 3 for i, key in enumerate(keys)}
    sizes = np.array([len(key) for key in asked], np.int64)
    buf = np.frombuffer(bytearray(b"".join(asked)) + bytes(8), np.uint8)
    found, unknown = table.find(buf, np.cumsum(sizes) - sizes, sizes)
    assert found.tolist() == [model.get(key, -1) for key in asked]
    assert unknown == sum(key not in model for key in asked)
    assert len(table) == len(keys)
    assert [table.key(i) for i in range(len(keys))] == keys
    assert table.find_keys(keys).tolist() == list(model.values())


def test_it_grows() -> None:
    table = ByteTable()
    keys = [b"key-%d" % i * (i % 7 + 1) for i in range(20_000)]
    for first in range(0, len(keys), 1001):
        table.add(keys[first : first + 1001], range(first, min(first + 1001, len(keys))))
    assert table.find_keys(keys[::97]).tolist() == list(range(20_000))[::97]
    assert table.find_keys([b"key-20000"]).tolist() == [-1]
    arena, at, size = table.ranges()
    assert arena[at[-1] : at[-1] + size[-1]].tobytes() == keys[-1]


@given(
    st.lists(st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 1000)), max_size=12), max_size=6),
    st.booleans(),
    st.integers(0, 30),
)
def test_keys_are_added_once_up_to_a_limit(steps: list[list[tuple[bytes, int]]], valued: bool, limit: int) -> None:
    table, model = ByteTable(), dict[bytes, int]()
    for step in steps:
        for key, value in step:
            if key not in model and len(model) < limit:
                model[key] = value if valued else len(model)
        sizes = np.array([len(key) for key, _ in step], np.int64)
        buf = np.frombuffer(bytearray(b"".join(key for key, _ in step)) + bytes(1), np.uint8)
        values = np.array([value for _, value in step], np.int64) if valued else None
        found = table.number(buf, np.cumsum(sizes) - sizes, sizes, values, limit=limit)
        assert found.tolist() == [model.get(key, -1) for key, _ in step]
    assert [table.key(i) for i in range(len(table))] == list(model)
    assert table.find_keys(list(model)).tolist() == list(model.values())


@given(st.integers(0, 200), st.lists(st.tuples(st.integers(0, 220), st.integers(1, 90)), max_size=8))
def test_runs_of_keys_are_numbered_in_any_order(known: int, runs: list[tuple[int, int]]) -> None:
    """Keys that come as they were added, from anywhere on; those of the same size differ in their middle or at their end."""
    table, model = ByteTable(), dict[bytes, int]()
    for asked in [list(range(known)), *(list(range(first, first + count)) for first, count in runs), []]:
        keys = [b"%08d/%d" % (k // 2, k % 2) if k % 3 else b"%d" % k for k in asked]
        for key in keys:
            model.setdefault(key, len(model))
        sizes = np.array([len(key) for key in keys], np.int64)
        buf = np.frombuffer(bytearray(b"".join(keys)) + bytes(1), np.uint8)
        assert table.number(buf, np.cumsum(sizes) - sizes, sizes).tolist() == [model[key] for key in keys]
    assert [table.key(i) for i in range(len(table))] == list(model)


def test_keys_with_another_context_are_others() -> None:
    table = ByteTable()
    table.add([b"a", b"b", b"c"], [0, 1, 2], np.array([0, 5, 0], np.uint64))
    buf, at, size = np.frombuffer(bytearray(b"abc"), np.uint8), np.arange(3), np.full(3, 1)
    assert table.number(buf, at, size).tolist() == [0, 3, 2]


def test_many_keys_are_added_at_once() -> None:
    table = ByteTable()
    buf = np.frombuffer(bytearray(b"%07d" * 50_000 % tuple(range(50_000))), np.uint8)
    at, size = np.arange(0, 7 * 50_000, 7), np.full(50_000, 7)
    assert (table.number(buf, at[:9], size[:9]) == np.arange(9)).all()
    assert (table.number(buf, at, size) == np.arange(50_000)).all()
    assert len(table) == 50_000


def test_it_grows_beyond_what_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [b"key-%d" % i for i in range(300)]
    sizes = np.array([len(key) for key in keys], np.int64)
    buf = np.frombuffer(bytearray(b"".join(keys)), np.uint8)
    tables = [ByteTable((100, 1000))]
    # A system that gives no address space away.
    monkeypatch.setattr("m3x.byte_table.reserve", lambda *_: (_ for _ in ()).throw(MemoryError))
    tables.append(ByteTable((100, 1000)))
    for table in tables:
        before = table.size_bytes
        assert table.number(buf, np.cumsum(sizes) - sizes, sizes).tolist() == list(range(300))
        assert table.key(299) == keys[299]
        assert table.size_bytes - before == 300 * 32 + len(buf)
