"""Inputs that are nearly good: seeds with a few things wrong, by a generator that gives the same ones again."""

import random
from collections.abc import Callable, Iterator, Sequence

__all__ = ["MAX_BYTES", "inputs", "mutated"]

MAX_BYTES = 32 << 10
"""Of an input; one that grows beyond is cut."""
_TELLING = bytes(
    [0, 1, 2, 4, 7, 8, 9, 0x0A, 0x12, 0x1A, 0x20, 0x22, 0x2C, 0x5C, 0x7B, 0x7D, 0x7F, 0x80, 0xC3, 0xFE, 0xFF]
)
"""Bytes that mean something in many formats: tags, lengths, quotes, the ends of ranges."""
_LENGTHS = (
    b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff\xff", b"\xff\x7f", b"\x80\x01", b"\x00\x00",
)  # fmt: skip
"""Lengths as formats write them: large, negative, longer than they need to be."""
_MOST_CHANGES = 4
_MOST_COPIES = 200
_VERY_MANY_COPIES = 6000
"""Rarely: of digits, so many are refused by Python; of brackets, so many nest deeper than its stack."""


def inputs(seeds: Sequence[bytes], words: Sequence[bytes], seed: str, count: int) -> Iterator[bytes]:
    """``count`` inputs: the seeds, then mutations of them. ``words``: what the format is made of, put in now and then."""
    yield from seeds[:count]
    for number in range(len(seeds), count):
        yield mutated(random.Random(f"{seed} {number}"), seeds, words)


def mutated(chance: random.Random, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One input: a seed, changed in one place or a few."""
    data = bytearray(chance.choice(seeds))
    changes = [*_CHANGES, _put_word] if words else _CHANGES
    for _ in range(chance.randint(1, _MOST_CHANGES)):
        chance.choice(changes)(chance, data, seeds, words)
        del data[MAX_BYTES:]
    return bytes(data)


_Change = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def _place(chance: random.Random, data: bytearray) -> int:
    """Where to change something: anywhere, or near the beginning, where the structure is."""
    last = len(data) if chance.random() < 0.7 else min(len(data), 24)
    return chance.randint(0, last)


def _range(chance: random.Random, data: bytearray) -> tuple[int, int]:
    start = _place(chance, data)
    return start, min(len(data), start + chance.choice((1, 2, 4, 8, chance.randint(1, 64))))


def _flip(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    if data:
        data[min(_place(chance, data), len(data) - 1)] ^= 1 << chance.randrange(8)


def _set(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    if data:
        byte = chance.choice(_TELLING) if chance.random() < 0.6 else chance.randrange(256)
        data[min(_place(chance, data), len(data) - 1)] = byte


def _cut(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    del data[_place(chance, data) :]


def _take_out(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    start, stop = _range(chance, data)
    del data[start:stop]


def _put_in(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    at = _place(chance, data)
    data[at:at] = chance.randbytes(chance.randint(1, 12))


def _repeat(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    start, stop = _range(chance, data)
    data[stop:stop] = data[start:stop] * chance.choice((1, 2, 3, chance.randint(1, _MOST_COPIES)))


def _splice(chance: random.Random, data: bytearray, seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    other = bytearray(chance.choice(seeds))
    start, at = _place(chance, other), _place(chance, data)
    if chance.random() < 0.5:
        data[at:] = other[start:]
    else:
        data[at:at] = other[start : start + chance.randint(1, 64)]


def _blow_up(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    at, length = _place(chance, data), chance.choice(_LENGTHS)
    data[at : at + chance.choice((1, 1, 2, len(length)))] = length


def _put_word(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    at = _place(chance, data)
    copies = (
        _VERY_MANY_COPIES if chance.random() < 0.01 else chance.choice((1, 1, 1, 2, chance.randint(1, _MOST_COPIES)))
    )
    data[at:at] = chance.choice(words) * copies


_CHANGES: list[_Change] = [_flip, _flip, _set, _set, _cut, _take_out, _put_in, _repeat, _splice, _blow_up]
