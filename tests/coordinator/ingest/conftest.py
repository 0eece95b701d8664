"""Messages for the tests of the ingest server."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from m3metrics.codec import AggregatedMetric, encode_aggregated
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy

Packed = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]


@pytest.fixture
def pack() -> Callable[[Sequence[bytes]], Packed]:
    """Messages → one buffer, starts, ends."""

    def packed(messages: Sequence[bytes]) -> Packed:
        ends = np.cumsum([len(one) for one in messages], dtype=np.int64)
        sizes = np.array([len(one) for one in messages], np.int64)
        return np.frombuffer(bytearray(b"".join(messages)) or bytearray(1), np.uint8), ends - sizes, ends

    return packed


@pytest.fixture
def message() -> Callable[..., bytes]:
    """An ``AggregatedMetric`` message."""

    def made(name: str, time_ns: int, value: float, policy: str = "10s:6h", suffix: bytes = b"") -> bytes:
        return encode_aggregated(
            AggregatedMetric(
                id=encode_tags([(b"host", b"x"), (b"__name__", name.encode())]) + suffix,
                time_ns=time_ns,
                value=value,
                storage_policy=StoragePolicy.parse(policy),
            )
        )

    return made
