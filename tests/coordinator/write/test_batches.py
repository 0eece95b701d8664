"""Encoding: halves where the cache is too small, bounds, pieces."""

from collections.abc import Sequence

import numpy as np
import pytest

from coordinator.downsample import TemplateSpec
from coordinator.not_kept import Reason
from coordinator.write import kernels
from coordinator.write.batches import UNBOUNDED, BatchTooLargeError, Columns, Encoder, Preparation, pieces
from coordinator.write.series_cache import SeriesCache
from m3metrics.codec import decode_metric
from m3msg.batch import MessageBatch, joined_messages


def columns(keys: Sequence[bytes]) -> Columns:
    """Each with one sample, whose value is its row."""
    sizes = np.array([len(key) for key in keys], np.uint32)
    at = (np.cumsum(sizes) - sizes).astype(np.uint32)
    series = np.zeros(len(keys), kernels.SERIES_ROW)
    series["sample_from"], series["samples"] = np.arange(len(keys)), 1
    return Columns(
        np.frombuffer(bytearray(b"".join(keys)), np.uint8), at, sizes, np.zeros(len(keys), np.uint64), series,
        np.arange(len(keys)), 10**9, np.arange(len(keys), dtype=np.float64),
    )  # fmt: skip


def payloads(batch: MessageBatch) -> list[bytes]:
    return [batch.payload[a:b].tobytes() for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]


def test_series_that_do_not_fit_into_the_cache_together_go_one_by_one() -> None:
    cache = SeriesCache(1024, 1 << 20)
    names = [b"%03d" % i + b"x" * 20_000 for i in range(40)]
    specs = {row: [TemplateSpec(b"%d-%d" % (row, k) + names[row], b"") for k in range(3)] for row in range(40)}
    specs[7] = [TemplateSpec(b"7-%d" % k + names[7] * 10, b"") for k in range(5)]
    encoded = Encoder(cache, 1 << 20).encode(columns(names), Preparation(lambda row: specs[row]), 8)
    assert list(encoded.too_large) == [7]
    assert "raise writeCache.maxBytes" in encoded.too_large[7]
    assert encoded.count.tolist() == [0 if row == 7 else 3 for row in range(40)]
    values = [decode_metric(payload).value for payload in payloads(joined_messages(encoded.batches))]
    assert values == [float(row) for row in range(40) if row != 7 for _ in range(3)]


def test_why_nothing_is_sent() -> None:
    made = [[TemplateSpec(b"id", b"m")], Reason.NO_RULE, None, [TemplateSpec(b"x" * 2000, b"m")], [], Reason.DROP_RULE]
    encoder = Encoder(SeriesCache(1024, 4 << 20), 1000)
    for _ in range(2):
        encoded = encoder.encode(columns([b"%d" % i for i in range(6)]), Preparation(lambda row: made[row]), 8)
        assert encoded.count.tolist() == [1, 0, 0, 0, 0, 0]
        assert encoded.unsent.tolist() == [0, Reason.NO_RULE.code, 0, 0, 0, Reason.DROP_RULE.code]
        assert encoded.any_unsent
        assert list(encoded.too_large) == [3]
        assert "up to 2081 bytes, the aggregators are sent at most 1000" in encoded.too_large[3]


def test_more_than_the_buffer_holds_is_refused_before_anything_is_encoded() -> None:
    preparation = Preparation(lambda _row: [TemplateSpec(b"id", b"m")])
    rows = columns([b"%d" % i for i in range(2000)])
    with pytest.raises(BatchTooLargeError, match="makes up to 166000 bytes of messages, .* has room for 165999"):
        Encoder(SeriesCache(8192, 8 << 20), 1000, 165_999).encode(rows, preparation, 8)
    assert Encoder(SeriesCache(8192, 8 << 20), 1000, UNBOUNDED).encode(rows, preparation, 8).count.all()


def test_pieces_are_the_batch() -> None:
    batch = MessageBatch(
        np.frombuffer(b"-" + b"a" * 5 + b"b" * 50 + b"c" * 4 + b"d" * 6, np.uint8),
        np.array([1, 6, 56, 60, 66]),
        np.arange(4, dtype=np.uint32),
    )
    cut = list(pieces(batch, 10))
    assert [payloads(piece) for piece, _ in cut] == [[b"a" * 5], [b"b" * 50], [b"c" * 4, b"d" * 6]]
    assert [(part.start, part.stop) for _, part in cut] == [(0, 1), (1, 2), (2, 4)]
    assert payloads(joined_messages([piece for piece, _ in cut])) == payloads(batch)
    assert joined_messages([piece for piece, _ in cut]).shards.tolist() == [0, 1, 2, 3]
