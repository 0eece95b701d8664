"""The series cache: compiled preparation against the plain one, generations, bounds."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.downsample import TemplateSpec
from coordinator.prompb import TIME_SERIES, labels_of
from coordinator.write.series_cache import SeriesCache, SeriesTooLargeError, TooManyMetadatasError
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
    again = cache.resolve(*columns, _never)
    assert [part.tolist() for part in again] == [first.tolist(), count.tolist()]


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


def test_series_seen_again_survive_and_memory_is_bounded() -> None:
    cache = SeriesCache(1024, 4 << 20)
    keep = _columns([b"kept-%d" % i for i in range(50)])
    cache.resolve(*keep, lambda row: [_spec(b"kept-%d" % row)])
    for wave in range(40):
        names = [b"wave-%d-%d" % (wave, i) for i in range(200)]
        cache.resolve(*_columns(names), lambda row, names=names: [_spec(names[row])])
        first, _ = cache.resolve(*keep, _never)
        assert [_id(cache, int(t)) for t in first] == [b"kept-%d" % i for i in range(50)]
        assert cache.series <= 1024
    assert cache.rotations > 5
    row = cache.templates[first[3]]
    note = int(row["annotation_at"])
    assert cache.arena[note : note + int(row["annotation_size"])].tobytes() == b"note kept-3"
    assert int(cache.hashes[first[3]]) % 64 == shard_of(b"kept-3", 64)


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


_text = st.one_of(
    st.binary(max_size=6), st.sampled_from([b"__name__", b"__m3_type__", b"__m3", b"__m", b"__a__", b"le", b"Zone"])
)
_labels = st.lists(st.tuples(_text, st.one_of(_text, st.just(b"v"))), max_size=8)


@given(st.lists(_labels, min_size=1, max_size=6))
def test_compiled_preparation_gives_the_plain_id_or_leaves_it(series: list[list[tuple[bytes, bytes]]]) -> None:
    keys = [marshal(TIME_SERIES, {"labels": [{"name": n, "value": v} for n, v in labels]}) for labels in series]
    cache = SeriesCache(1024, 4 << 20)
    left: set[int] = set()

    def make(row: int) -> None:
        left.add(row)

    first, count = cache.resolve(*_columns(keys), make, METADATAS)
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


def _metadatas_of(cache: SeriesCache, template: int) -> bytes:
    row = cache.templates[template]
    return cache.arena[int(row["meta_at"]) : int(row["meta_at"]) + int(row["meta_size"])].tobytes()


def test_metadatas_of_their_own_survive_with_their_series() -> None:
    cache = SeriesCache(1024, 4 << 20)

    def own(row: int) -> bytes:
        # Together more than the room for shared ones.
        return b"metadatas of %d " % row + b"." * 3000

    keep = _columns([b"kept-%d" % i for i in range(100)])
    cache.resolve(*keep, lambda row: [TemplateSpec(b"kept-%d" % row, own(row), untimed=row % 2 == 1)])
    for wave in range(12):
        names = [b"wave-%d-%d" % (wave, i) for i in range(200)]
        cache.resolve(*_columns(names), lambda row, names=names: [_spec(names[row])])
        first, _ = cache.resolve(*keep, _never)
        assert [_metadatas_of(cache, int(t)) for t in first] == [own(row) for row in range(100)]
        assert cache.templates[first]["untimed"].tolist() == [0, 1] * 50
    assert cache.rotations > 1
    assert cache.any_untimed


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
