"""Annotations in columns: one table for many batches, bounded whatever comes, and batches put together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.sinks.annotations import Annotations, AnnotationTable, joined_annotations

_TEXTS = st.lists(st.binary(max_size=3), max_size=12)


def _buffer(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = np.array([len(one) for one in texts], np.uint32)
    buf = np.frombuffer(bytearray(b"".join(texts)) or bytearray(1), np.uint8)
    return buf, (np.cumsum(size) - size).astype(np.uint32), size


def _texts(annotations: Annotations | None, rows: int) -> list[bytes]:
    return [b""] * rows if annotations is None else [annotations.texts[k] for k in annotations.column.tolist()]


@given(st.lists(_TEXTS, min_size=1, max_size=5), st.data())
def test_what_comes_in_is_found_again(batches: list[list[bytes]], data: st.DataObject) -> None:
    table, parts = AnnotationTable(), []
    for texts in batches:
        found = table.annotations(*_buffer(texts))
        assert (found is None) == (not any(texts))
        assert _texts(found, len(texts)) == texts
        parts.append((len(texts), found))
        if found is not None:
            used = found.used()
            assert _texts(used, len(texts)) == texts
            assert set(used.texts) == set(texts)
            rows = data.draw(st.lists(st.integers(0, len(texts) - 1)))
            assert _texts(found.rows(np.array(rows, np.int64)), len(rows)) == [texts[k] for k in rows]
    joined = joined_annotations(parts)
    everything = [text for texts in batches for text in texts]
    assert (joined is None) == (not any(everything))
    assert _texts(joined, len(everything)) == everything


def test_batches_share_their_texts_and_what_is_kept_is_bounded() -> None:
    table = AnnotationTable()
    first, second = (table.annotations(*_buffer([b"counter", b"", b"gauge"])) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.texts is second.texts
    many = table.annotations(*_buffer([b"%d" % k for k in range(70_000)]))
    assert many is not None
    assert many.size_bytes > 70_000 * (4 + 50 + 4)
    after = table.annotations(*_buffer([b"counter"]))
    assert after is not None
    assert after.texts == (b"", b"counter")
    long = table.annotations(*_buffer([bytes(20_000)]))
    assert long is not None
    last = table.annotations(*_buffer([b"gauge"]))
    assert last is not None
    assert last.texts == (b"", b"gauge")
