"""Series, batches and the meaning of matchers for the tests of the store."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from coordinator.matchers import Matcher, MatchOp
from coordinator.store import WriteBatch
from m3metrics.ids import encode_tags


def series_id(name: str, **labels: str) -> bytes:
    """Encoded tags of a series."""
    return encode_tags([(b"__name__", name.encode()), *((k.encode(), v.encode()) for k, v in sorted(labels.items()))])


def write_batch(points: Sequence[tuple[bytes, int, float]], policy: int = 0) -> WriteBatch:
    """A batch of (id, time in ms, value)."""
    sizes = np.array([len(one) for one, _, _ in points], np.int64)
    return WriteBatch(
        buf=np.frombuffer(bytearray(b"".join(one for one, _, _ in points)) or bytearray(1), np.uint8),
        id_at=np.cumsum(sizes) - sizes,
        id_size=sizes,
        time_ms=np.array([time for _, time, _ in points], np.int64),
        values=np.array([value for _, _, value in points], np.float64),
        policies=np.full(len(points), policy, np.int64),
    )


def satisfies(tags: dict[bytes, bytes], matcher: Matcher) -> bool:
    """Whether a series matches, told the plain way."""
    value = tags.get(matcher.name, b"")
    if matcher.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
        return (value == matcher.value) == (matcher.op == MatchOp.EQUAL)
    found = re.fullmatch(matcher.value.decode(), value.decode()) is not None
    return found == (matcher.op == MatchOp.REGEX)


@pytest.fixture
def batch() -> Callable[..., WriteBatch]:
    """``write_batch``."""
    return write_batch


@pytest.fixture
def sid() -> Callable[..., bytes]:
    """``series_id``."""
    return series_id
