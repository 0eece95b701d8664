"""The compiled table against dictionaries: growing, two generations, contexts, and keys that all have one hash."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numba import njit

from m3x import table_kernels as kernels
from m3x.byte_table import ByteTable, place
from m3x.kernels import base

Key = tuple[bytes, int]


@njit
def _probe(table, keys, i):  # type: ignore[no-untyped-def]
    address = base(keys.buf) + np.uint64(keys.at[i])
    return kernels.probe(table, keys.halves[i], address, np.int64(keys.size[i]), keys.contexts[i])


class Table:
    """Arrays of a fixed number of keys; the hash halves are the caller's."""

    def __init__(self, rows: int) -> None:
        self.head = np.zeros(1, kernels.HEAD)
        self.slots, self.rows = np.zeros(2 * rows, np.uint64), np.zeros(rows, kernels.ROW)
        self.arena = np.zeros(1 << 17, np.uint8)
        self.address = place(self.head, self.slots, self.rows, self.arena)

    def __len__(self) -> int:
        return int(self.head["count"][0])

    def double(self) -> None:
        slots = np.zeros(2 * len(self.slots), np.uint64)
        kernels.rehash(self.slots, slots)
        self.slots, self.rows = slots, np.concatenate([self.rows, np.zeros_like(self.rows)])
        place(self.head, self.slots, self.rows, self.arena)

    def values(self) -> list[int]:
        found: list[int] = self.rows["value"][: len(self)].tolist()
        return found


class Tables(RuleBasedStateMachine):
    """Three tables hear of the same keys: one that grows by itself; one that is rehashed by hand and one of two generations, in which
    all keys have the hash half that was drawn, or one of few.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[Key, int] = {}
        self.growing = ByteTable()
        self.rehashed = Table(1)
        self.current, self.old = Table(32), Table(32)
        self.entered = 0
        self.current_model: dict[Key, int] = {}
        self.old_model: dict[Key, int] = {}

    @initialize(half=st.sampled_from([0, 1, 63, 0xFFFF_FFFF, 0x8000_0000]), spread=st.sampled_from([1, 1, 3]))
    def choose_hashes(self, half: int, spread: int) -> None:
        self.half, self.spread = half, spread

    def columns(self, keys: Sequence[Key]) -> kernels.Keys:
        """With hash halves that hardly tell keys apart."""
        sizes = np.array([len(data) for data, _ in keys], np.uint32)
        return kernels.Keys(
            np.frombuffer(bytearray(b"".join(data for data, _ in keys)) + b"\0", np.uint8),
            (np.cumsum(sizes) - sizes).astype(np.uint32),
            sizes,
            np.array([context for _, context in keys], np.uint64),
            np.array([(self.half + len(data) % self.spread) & 0xFFFF_FFFF for data, _ in keys], np.uint32),
        )

    def enter(self, table: Table, columns: kernels.Keys, i: int, value: int) -> None:
        part = columns._replace(**{name: getattr(columns, name)[i : i + 1] for name in columns._fields[1:]})
        kernels.add_values(table.address, part, np.array([value], np.int64))

    @rule(
        keys=st.lists(
            st.tuples(st.sampled_from([b"", b"a", b"ab", b"8 bytes.", b"8 bytes!"]) | st.binary(max_size=40),
                      st.sampled_from([0, 1, 1 << 63])),
            min_size=1, max_size=24, unique=True,
        )
    )  # fmt: skip
    def add(self, keys: list[Key]) -> None:
        fresh = [key for key in keys if key not in self.model]
        values = list(range(len(self.model), len(self.model) + len(fresh)))
        contexts = np.array([context for _, context in fresh], np.uint64)
        self.growing.add([data for data, _ in fresh], values, contexts)
        columns = self.columns(fresh)
        for i, value in enumerate(values):
            if value == len(self.rehashed.rows):
                self.rehashed.double()
            self.enter(self.rehashed, columns, i, value)
        self.model.update(zip(fresh, values, strict=True))

    @rule(keys=st.lists(st.tuples(st.binary(max_size=2), st.sampled_from([0, 1])), min_size=1, max_size=40))
    def use(self, keys: list[Key]) -> None:
        """Finds each key, brings it over from the old generation, or enters it; the old one is forgotten when the current one is full."""
        columns = self.columns(keys)
        for i, key in enumerate(keys):
            row = _probe(self.current.address, columns, i)
            assert (row >= 0) == (key in self.current_model)
            if row >= 0:
                continue
            before = _probe(self.old.address, columns, i)
            assert (before >= 0) == (key in self.old_model)
            value = int(self.old.rows[before]["value"]) if before >= 0 else self.entered
            self.entered += 1
            if len(self.current) == len(self.current.rows):
                self.current, self.old = Table(32), self.current
                self.current_model, self.old_model = {}, self.current_model
            self.enter(self.current, columns, i, value)
            self.current_model[key] = value

    @invariant()
    def every_key_is_found_and_no_other(self) -> None:
        others = [(b"", 7), (b"never added", 0), *((data, context ^ 2) for data, context in self.model)]
        asked = [*self.model, *(key for key in others if key not in self.model)]
        wanted = [self.model.get(key, -1) for key in asked]
        columns = self.columns(asked)
        at, size = columns.at.astype(np.int64), columns.size.astype(np.int64)
        found, unknown = self.growing.find(columns.buf, at, size, columns.contexts)
        assert found.tolist() == wanted
        assert unknown == wanted.count(-1)
        assert [self.growing.key(value) for value in self.model.values()] == [data for data, _ in self.model]
        rows = np.empty(len(asked), np.int64)
        kernels.find(self.rehashed.address, columns, rows)
        assert [int(self.rehashed.rows[row]["value"]) if row >= 0 else -1 for row in rows.tolist()] == wanted

    @invariant()
    def generations_have_what_was_used(self) -> None:
        for table, model in ((self.current, self.current_model), (self.old, self.old_model)):
            assert table.values() == list(model.values())


TestTables = Tables.TestCase
