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


@given(st.lists(st.lists(st.binary(max_size=6), max_size=40), max_size=6))
def test_it_numbers_what_it_does_not_know(batches: list[list[bytes]]) -> None:
    table, model = ByteTable(), dict[bytes, int]()
    for keys in batches:
        sizes = np.array([len(key) for key in keys], np.int64)
        buf = np.frombuffer(bytearray(b"".join(keys)) + bytes(8), np.uint8)
        numbers = table.number(buf, np.cumsum(sizes) - sizes, sizes)
        assert numbers.tolist() == [model.setdefault(key, len(model)) for key in keys]
    assert [table.key(i) for i in range(len(table))] == list(model)


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
