"""The hash under a secret, against the formula that its docstring gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3x.keyed_hash import hash_key, secret

_WORDS = 64


def _plainly(words: list[int], key: bytes, context: int) -> tuple[int, int]:
    """What is documented, in Python's numbers."""
    first = second = 0
    blocks = [key[at : at + 8 * _WORDS] for at in range(0, len(key), 8 * _WORDS)] or [b""]
    for block in blocks:
        padded = block + bytes(-len(block) % 16)
        numbers = [int.from_bytes(padded[at : at + 8], "little") for at in range(0, len(padded), 8)]
        sums = []
        for lane in (words[:_WORDS], words[_WORDS : 2 * _WORDS]):
            total = 0
            for k in range(0, len(numbers), 2):
                total += ((numbers[k] + lane[k]) % 2**64) * ((numbers[k + 1] + lane[k + 1]) % 2**64)
            sums += [total % 2**64, total >> 64 & (2**64 - 1)]
        folded = []
        for lane in (words[2 * _WORDS : 2 * _WORDS + 18], words[2 * _WORDS + 18 : 2 * _WORDS + 36]):
            wide = [low | high << 64 for low, high in zip(lane[::2], lane[1::2], strict=True)]
            total = wide[0]
            for factor, number in zip(wide[1:], [*sums, context, len(key), first, second], strict=True):
                total += factor * number
            folded.append(total % 2**128 >> 64)
        first, second = folded
    return max(first, 1), second


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 15, 16, 17, 100, 511, 512, 513, 520, 1024, 1300])
def test_it_is_the_documented_function(size: int) -> None:
    key = np.random.default_rng(size).integers(0, 256, size + 8, np.uint8)
    words = secret()
    for start in range(8):
        data = key[start : start + size]
        found = hash_key(
            np.uint64(words.ctypes.data), np.uint64(key.ctypes.data + start), np.uint64(size), np.uint64(2**63 + 5)
        )
        assert tuple(map(int, found)) == _plainly(words.tolist(), data.tobytes(), 2**63 + 5)


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 1), st.integers(0, 1))
def test_what_differs_has_another_hash(a: bytes, b: bytes, of_a: int, of_b: int) -> None:
    words = secret()

    def of(key: bytes, context: int) -> tuple[int, int]:
        data = np.frombuffer(bytearray(key + bytes(8)), np.uint8)
        one, two = hash_key(
            np.uint64(words.ctypes.data), np.uint64(data.ctypes.data), np.uint64(len(key)), np.uint64(context)
        )
        return int(one), int(two)

    assert (of(a, of_a) == of(b, of_b)) == ((a, of_a) == (b, of_b))
