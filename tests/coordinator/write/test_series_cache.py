"""The series cache: compiled preparation against the plain one, what is known against what was new, who gives way to whom, bounds."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.downsample import TemplateSpec
from coordinator.not_kept import Reason
from coordinator.prompb import TIME_SERIES, labels_of
from coordinator.write.series_cache import Maker, Prepared, SeriesCache, SeriesTooLargeError, TooManyMetadatasError
from m3metrics.ids import coordinator_id
from m3metrics.metric import MetricType
from m3metrics.series_ids import validate_tags
from m3metrics.shard import shard_of
from m3x.protobuf import marshal

METADATAS = b"staged metadatas"


def _columns(
    keys: Sequence[bytes],
) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint64]]:
    sizes = np.array([len(key) for key in keys], np.uint32)
    at = (np.cumsum(sizes) - sizes).astype(np.uint32)
    return np.frombuffer(bytearray(b"".join(keys)) or bytearray(1), np.uint8), at, sizes, np.zeros(len(keys), np.uint64)


def _never(row: int) -> list[TemplateSpec] | None:
    raise AssertionError(f"row {row} was known")


def _id(cache: SeriesCache, template: int) -> bytes:
    row = cache.templates[template]
    return cache.arena[int(row["id_at"]) : int(row["id_at"]) + int(row["id_size"])].tobytes()


def _metadatas_of(cache: SeriesCache, template: int) -> bytes:
    row = cache.templates[template]
    return cache.arena[int(row["meta_at"]) : int(row["meta_at"]) + int(row["meta_size"])].tobytes()


def _note(cache: SeriesCache, template: int) -> bytes:
    row = cache.templates[template]
    return cache.arena[int(row["annotation_at"]) : int(row["annotation_at"]) + int(row["annotation_size"])].tobytes()


def _spec(name: bytes) -> TemplateSpec:
    return TemplateSpec(name, METADATAS, MetricType.COUNTER, b"note " + name)


def test_a_series_is_prepared_once() -> None:
    cache = SeriesCache(2048, 4 << 20)
    columns = _columns([b"alpha", b"beta", b"alpha"])
    asked: list[int] = []

    def make(row: int) -> list[TemplateSpec]:
        asked.append(row)
        return [_spec(b"one"), _spec(b"two")] if row == 0 else []

    first, count = cache.resolve(*columns, make)
    assert asked == [0, 1]
    assert count.tolist() == [2, 0, 2]
    assert [_id(cache, t) for t in (first[0], first[0] + 1)] == [b"one", b"two"]
    row = cache.templates[first[0]]
    note, meta = int(row["annotation_at"]), int(row["meta_at"])
    assert cache.arena[note : note + 8].tobytes() == b"note one"
    assert cache.arena[meta : meta + int(row["meta_size"])].tobytes() == METADATAS
    assert row["metric_type"] == MetricType.COUNTER
    assert int(cache.hashes[first[0]]) % 64 == shard_of(b"one", 64)
    again, counts = cache.resolve(*columns, _never)
    assert counts.tolist() == count.tolist()
    for row in (0, 2):
        templates = range(int(again[row]), int(again[row]) + 2)
        assert [_id(cache, t) for t in templates] == [b"one", b"two"]
        assert [_note(cache, t) for t in templates] == [b"note one", b"note two"]
        assert [_metadatas_of(cache, t) for t in templates] == [METADATAS] * 2
        assert [int(cache.hashes[t]) % 64 for t in templates] == [shard_of(b"one", 64), shard_of(b"two", 64)]


def test_the_context_is_part_of_the_key() -> None:
    cache = SeriesCache(2048, 4 << 20)
    buf, at, size, contexts = _columns([b"same", b"same"])
    contexts[1] = 7
    first, _ = cache.resolve(buf, at, size, contexts, lambda row: [_spec(b"%d" % row)])
    assert [_id(cache, int(t)) for t in first] == [b"0", b"1"]


def test_what_is_not_valid_is_not_remembered() -> None:
    cache = SeriesCache(2048, 4 << 20)
    columns = _columns([b"bad"])
    asked = 0

    def make(_row: int) -> None:
        nonlocal asked
        asked += 1

    for expected in (1, 2):
        assert cache.resolve(*columns, make)[1].tolist() == [0]
        assert asked == expected
    assert cache.series == 0


class _Clock:
    """Of a cache."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def _add(cache: SeriesCache, names: Sequence[bytes]) -> set[bytes]:
    """Writes series; those that were not known."""
    made: set[bytes] = set()

    def make(row: int) -> list[TemplateSpec]:
        made.add(names[row])
        return [_spec(names[row])]

    for begin in range(0, len(names), 500):
        part = names[begin : begin + 500]

        def make_part(row: int, begin: int = begin) -> list[TemplateSpec]:
            return make(begin + row)

        first, count = cache.resolve(*_columns(part), make_part)
        assert count.tolist() == [1] * len(part)
        assert [_id(cache, int(t)) for t in first] == list(part)
        assert [_note(cache, int(t)) for t in first] == [b"note " + name for name in part]
    return made


def _gauges(first: int, number: int) -> list[bytes]:
    """Keys of ordinary gauges with two labels."""
    return [
        b"\x0a\x0e\x0a\x08__name__\x12\x02up\x0a%c\x0a\x04host\x12%c%d" % (8 + len(str(i)), len(str(i)), i)
        for i in range(first, first + number)
    ]


def _write(cache: SeriesCache, keys: Sequence[bytes]) -> int:
    """Writes ordinary gauges; how many were not known."""
    before = cache.built
    for begin in range(0, len(keys), 1000):
        first, count = cache.resolve(*_columns(keys[begin : begin + 1000]), _never, METADATAS)
        assert (count == 1).all()
        assert _id(cache, int(first[-1])) == coordinator_id(labels_of(keys[min(begin + 1000, len(keys)) - 1]), "gauge")
    return cache.built - before


@pytest.mark.parametrize("max_series", [1024, 0])
def test_what_is_seen_every_interval_stays_and_what_is_seen_once_goes(max_series: int) -> None:
    clock = _Clock()
    cache = SeriesCache(max_series, 1 << 20, clock)
    room = max_series or 16_000
    keep = _gauges(0, room // 3)
    _write(cache, keep)
    for wave in range(40):
        clock.seconds += 1
        _write(cache, _gauges(1_000_000 + wave * room, room // 4))
        # One that found no room may have been the first to come.
        assert _write(cache, keep) <= len(keep) // 10
    assert _write(cache, keep) == 0
    assert cache.forgotten > 5 * room
    assert cache.series >= room // 2
    assert cache.size_bytes <= 1 << 20
    assert not max_series or cache.series <= max_series


def test_more_than_it_holds_in_turn_costs_only_what_is_too_much() -> None:
    cache = SeriesCache(0, 1 << 20, _Clock())
    while not cache.full():
        _write(cache, _gauges(cache.built, 1000))
    room = cache.series
    everything = _gauges(0, room * 6 // 5)
    for _ in range(3):
        _write(cache, everything)
    new = _write(cache, everything)
    assert new < len(everything) * 0.3
    assert cache.series > room * 0.9


def test_what_is_not_seen_any_more_gives_way() -> None:
    clock = _Clock()
    cache = SeriesCache(0, 1 << 20, clock)
    for _ in range(3):
        _write(cache, _gauges(0, 30_000))
    said = cache.full()
    assert said is not None
    assert f"{cache.series} series" in said
    assert "writeCache.maxBytes" in said
    clock.seconds += 600
    assert cache.full() is None
    others = _gauges(1_000_000, 10_000)
    _write(cache, others)
    # Some came where none of those that were looked at was an old one.
    assert _write(cache, others) < 100


def test_where_all_are_wanted_the_new_one_is_not_kept() -> None:
    cache = SeriesCache(1024, 4 << 20, _Clock())
    wanted, others = _gauges(0, 1024), _gauges(5000, 500)
    _write(cache, wanted)
    assert _write(cache, wanted) == 0
    for _ in range(2):
        assert _write(cache, others) == 500
        assert _write(cache, wanted) == 0
    assert cache.not_kept == 1000


def test_a_table_that_grows_forgets_what_was_not_seen_for_long() -> None:
    clock = _Clock()
    cache = SeriesCache(0, 64 << 20, clock)
    for hour in range(10):
        _write(cache, _gauges(hour * 10_000, 10_000))
        clock.seconds += 3700
    assert cache.series < 40_000


def test_messages_of_their_own_are_kept_as_long_as_they_are_seen() -> None:
    clock = _Clock()
    cache = SeriesCache(0, 1 << 20, clock)
    keep = [b"kept-%d" % i for i in range(500)]
    _add(cache, keep)
    _add(cache, keep)
    for wave in range(40):
        clock.seconds += 1
        _add(cache, [b"wave-%d-%d" % (wave, i) for i in range(500)])
        assert _add(cache, keep) == set()
        assert cache.size_bytes <= 1 << 20
    assert cache.forgotten > 5000
    clock.seconds += 600
    others = [b"other-%d" % i for i in range(4000)]
    _add(cache, others)
    # Of those that were seen once, some may have been in a chunk of the log that was wanted.
    assert len(_add(cache, others)) < 400


def _listed(cache: SeriesCache, limit: int) -> list[bytes]:
    found: list[bytes] = []
    after: int | None = 0
    while after is not None:
        entries, after = cache.remembered(after, limit)
        assert len(entries) <= limit
        assert all(context == 0 for _, context in entries)
        found += [key for key, _ in entries]
    return found


@pytest.mark.parametrize("limit", [7, 100_000])
def test_what_is_remembered_is_listed(limit: int) -> None:
    cache = SeriesCache(0, 16 << 20, _Clock())
    names = [b"path.%d" % i for i in range(300)]
    gauges = _gauges(0, 30_000 if limit > 1000 else 500)
    _add(cache, names)
    _write(cache, gauges)
    listed = _listed(cache, limit)
    assert sorted(listed) == sorted([*names, *gauges])


def test_what_is_forgotten_is_not_listed_and_its_keys_are_given_up() -> None:
    clock = _Clock()
    cache = SeriesCache(2048, 4 << 20, clock)
    keep = _gauges(0, 300)
    _write(cache, keep)
    _write(cache, keep)
    for wave in range(30):
        clock.seconds += 1
        _write(cache, _gauges(1_000_000 + wave * 5000, 5000))
        _write(cache, keep)
    listed = _listed(cache, 1000)
    assert set(keep) <= set(listed)
    assert len(listed) == len(set(listed)) == cache.series
    assert cache.size_bytes < 2 << 20


def test_a_series_larger_than_the_cache_is_refused() -> None:
    cache = SeriesCache(1024, 4 << 20)
    with pytest.raises(SeriesTooLargeError, match=r"writeCache.maxBytes"):
        cache.resolve(*_columns([b"x" * (3 << 20)]), lambda _: [_spec(b"a")])
    assert cache.resolve(*_columns([b"small"]), lambda _: [_spec(b"a")])[1].tolist() == [1]


def test_metadatas_are_bounded() -> None:
    cache = SeriesCache(1024, 4 << 20)
    for i in range(200):
        cache.metadata_range(b"%d" % i + b"x" * 1000)
    with pytest.raises(TooManyMetadatasError):
        cache.metadata_range(b"y" * 100_000)


_LONG = [b"x" * n for n in (31, 32, 33, 65, 119, 130, 300)]
_text = st.one_of(
    st.binary(max_size=6), st.sampled_from([b"__name__", b"__m3_type__", b"__m3", b"__m", b"__a__", b"le", b"Zone"])
)
_labels = st.lists(st.tuples(_text, st.one_of(_text, st.just(b"v"), st.sampled_from(_LONG))), max_size=8)


@given(st.lists(_labels, min_size=1, max_size=6))
def test_compiled_preparation_gives_the_plain_id_or_leaves_it(series: list[list[tuple[bytes, bytes]]]) -> None:
    keys = [marshal(TIME_SERIES, {"labels": [{"name": n, "value": v} for n, v in labels]}) for labels in series]
    cache = SeriesCache(1024, 4 << 20)
    left: set[int] = set()

    def make(row: int) -> None:
        left.add(row)

    first, count = cache.resolve(*_columns(keys), make, METADATAS)
    _assert_right(cache, keys, first, count, left)
    left.clear()
    first, count = cache.resolve(*_columns(keys), make, METADATAS)
    _assert_right(cache, keys, first, count, left)


def _assert_right(
    cache: SeriesCache, keys: list[bytes], first: NDArray[np.int64], count: NDArray[np.int64], left: set[int]
) -> None:
    for row, key in enumerate(keys):
        labels = labels_of(key)
        try:
            validate_tags(sorted(labels))
        except ValueError:
            assert count[row] == 0
            continue
        if any(name.startswith(b"__m3") for name, _ in labels):
            assert count[row] == 0
            continue
        assert row not in left
        assert _id(cache, int(first[row])) == coordinator_id(labels, "gauge")
        assert int(cache.hashes[first[row]]) % 1024 == shard_of(coordinator_id(labels, "gauge"), 1024)
        assert cache.templates[first[row]]["metric_type"] == MetricType.GAUGE


def test_metadatas_of_their_own_survive_with_their_series() -> None:
    cache = SeriesCache(1024, 4 << 20)

    def own(row: int) -> bytes:
        # Together more than the room for shared ones.
        return b"metadatas of %d " % row + b"." * 3000

    keep = _columns([b"kept-%d" % i for i in range(100)])
    cache.resolve(*keep, lambda row: [TemplateSpec(b"kept-%d" % row, own(row), untimed=row % 2 == 1)])
    for wave in range(12):
        _add(cache, [b"wave-%d-%d" % (wave, i) for i in range(200)])
        first, _ = cache.resolve(*keep, _never)
        assert [_metadatas_of(cache, int(t)) for t in first] == [own(row) for row in range(100)]
        assert cache.templates[first]["untimed"].tolist() == [0, 1] * 50
    assert cache.forgotten > 0
    assert cache.any_untimed


def test_a_gauge_with_metadatas_from_rules_needs_no_record() -> None:
    cache = SeriesCache(0, 1 << 20)
    keys = _gauges(0, 100)

    def make(row: int) -> list[TemplateSpec]:
        return [
            TemplateSpec(coordinator_id(labels_of(keys[row]), "gauge"), b"of rule %d" % (row % 3), MetricType.COUNTER)
        ]

    cache.resolve(*_columns(keys), make)
    before = cache.size_bytes
    first, _ = cache.resolve(*_columns(keys), _never)
    assert [_metadatas_of(cache, int(t)) for t in first] == [b"of rule %d" % (row % 3) for row in range(100)]
    assert [_id(cache, int(t)) for t in first] == [coordinator_id(labels_of(key), "gauge") for key in keys]
    assert (cache.templates[first]["metric_type"] == MetricType.COUNTER).all()
    _add(cache, [b"with a record"])
    assert cache.size_bytes > before


def test_nothing_is_remembered_with_its_reason() -> None:
    cache = SeriesCache(0, 1 << 20)
    columns = _columns([b"dropped", b"nothing"])

    def make(row: int) -> Prepared:
        return Reason.DROP_RULE if row == 0 else []

    makers: tuple[Maker, ...] = (make, _never)
    for one in makers:
        first, count = cache.resolve(*columns, one)
        assert count.tolist() == [0, 0]
        assert first.tolist() == [Reason.DROP_RULE.code, 0]


def test_everything_is_forgotten_when_it_means_something_else() -> None:
    cache = SeriesCache(1024, 4 << 20)
    columns = _columns([b"one"])
    cache.expect(1)
    cache.resolve(*columns, lambda _: [TemplateSpec(b"a", METADATAS, untimed=True)])
    cache.expect(1)
    cache.resolve(*columns, _never)
    cache.expect(2)
    assert not cache.any_untimed
    first, _ = cache.resolve(*columns, lambda _: [TemplateSpec(b"b", b"others")])
    assert (_id(cache, int(first[0])), _metadatas_of(cache, int(first[0]))) == (b"b", b"others")
