"""Checksums are zlib's, whatever the size and wherever the data lies."""

import zlib

import numpy as np
import pytest

from m3x import checksum


@pytest.fixture(params=["this processor", "any processor"], autouse=True)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the compiled part."""
    if request.param == "any processor":
        monkeypatch.setattr(checksum, "_POSSIBLE", False)


@pytest.mark.parametrize("value", [0, 1, 0xDEADBEEF, 0xFFFFFFFF])
def test_it_is_that_of_zlib(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(1).bytes(100_100)
    monkeypatch.setattr(checksum, "_LEAST", 64)
    for size in [*range(200), 4095, 4096, 4097, 100_000]:
        for start in (0, 1, 13):
            part = memoryview(data)[start : start + size]
            assert checksum.crc32(part, value) == zlib.crc32(part, value)


def test_parts_one_after_the_other_are_the_whole() -> None:
    data = np.random.default_rng(2).integers(0, 256, 1 << 20).astype(np.uint8)
    value = 0
    for part in np.split(data, [3, 100, 70_001, 500_000]):
        value = checksum.crc32(part.data, value)
    assert value == zlib.crc32(data)


def test_every_bit_counts() -> None:
    data = np.zeros(checksum._LEAST + 100, np.uint8)
    seen = {checksum.crc32(data.data)}
    for at in (0, 15, 16, 63, 64, 4096, len(data) - 101, len(data) - 1):
        for bit in range(8):
            data[at] ^= 1 << bit
            seen.add(checksum.crc32(data.data))
            data[at] ^= 1 << bit
    assert len(seen) == 65


def test_items_of_more_than_a_byte() -> None:
    data = np.arange(1 << 16, dtype=np.int64)
    assert checksum.crc32(memoryview(data)) == zlib.crc32(data)
