"""Inputs that are nearly good: seeds with a few things wrong, by a generator that gives the same ones again."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["MAX_BYTES", "inputs", "mutated"]

T = TypeVar("T")
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
_FULL = 0.005
"""So rarely there are as many as there is room for: of digits, so many are refused by Python; of brackets, so many nest deeper than its
stack; of anything, time that grows with the square of their number is seen."""


def inputs(seeds: Sequence[bytes], words: Sequence[bytes], seed: str, count: int) -> Iterator[bytes]:
    """``count`` inputs: the seeds, the long ones, then mutations. ``words``: what the format is made of, put in now and then."""
    first = [*seeds, *_long(seeds, words)][:count]
    yield from first
    chance = random.Random(seed)
    for _ in range(len(first), count):
        yield mutated(chance, seeds, words)


def _long(seeds: Sequence[bytes], words: Sequence[bytes]) -> Iterator[bytes]:
    """Each word as often as there is room for it, alone, and somewhere in a seed."""
    for number, word in enumerate(words):
        seed = seeds[number % len(seeds)]
        many = word * ((MAX_BYTES - len(seed)) // len(word))
        yield from (many, seed + many, many + seed, seed[: len(seed) // 2] + many + seed[len(seed) // 2 :])


def mutated(chance: random.Random, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One input: a seed, changed in one place or a few."""
    data = bytearray(_one_of(chance, seeds))
    changes = _CHANGES_OF_TEXTS if words else _CHANGES
    for _ in range(_up_to(chance, _MOST_CHANGES)):
        _one_of(chance, changes)(chance, data, seeds, words)
        if len(data) > MAX_BYTES:
            del data[MAX_BYTES:]
    return bytes(data)


_Change = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]


def _below(chance: random.Random, end: int) -> int:
    """0 … end - 1: as ``randrange``, in a fifth of its time, which for fast parsers is most of a run."""
    return int(chance.random() * end)


def _up_to(chance: random.Random, last: int) -> int:
    """1 … last."""
    return 1 + int(chance.random() * last)


def _one_of(chance: random.Random, some: Sequence[T]) -> T:
    return some[int(chance.random() * len(some))]


def _place(chance: random.Random, data: bytearray) -> int:
    """Where to change something: anywhere, or near the beginning, where the structure is."""
    last = len(data) if chance.random() < 0.7 else min(len(data), 24)
    return _below(chance, last + 1)


def _range(chance: random.Random, data: bytearray) -> tuple[int, int]:
    start = _place(chance, data)
    return start, min(len(data), start + _one_of(chance, (1, 2, 4, 8, _up_to(chance, 64))))


def _flip(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    if data:
        data[min(_place(chance, data), len(data) - 1)] ^= 1 << _below(chance, 8)


def _set(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    if data:
        byte = _one_of(chance, _TELLING) if chance.random() < 0.6 else _below(chance, 256)
        data[min(_place(chance, data), len(data) - 1)] = byte


def _cut(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    del data[_place(chance, data) :]


def _take_out(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    start, stop = _range(chance, data)
    del data[start:stop]


def _put_in(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    at = _place(chance, data)
    data[at:at] = chance.randbytes(_up_to(chance, 12))


def _repeat(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    start, stop = _range(chance, data)
    data[stop:stop] = data[start:stop] * _one_of(chance, (1, 2, 3, _up_to(chance, _MOST_COPIES)))


def _splice(chance: random.Random, data: bytearray, seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    other = bytearray(_one_of(chance, seeds))
    start, at = _place(chance, other), _place(chance, data)
    if chance.random() < 0.5:
        data[at:] = other[start:]
    else:
        data[at:at] = other[start : start + _up_to(chance, 64)]


def _blow_up(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], _words: Sequence[bytes]) -> None:
    at, length = _place(chance, data), _one_of(chance, _LENGTHS)
    data[at : at + _one_of(chance, (1, 1, 2, len(length)))] = length


def _put_word(chance: random.Random, data: bytearray, _seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    at = _place(chance, data)
    word, copies = _one_of(chance, words), _one_of(chance, (1, 1, 1, 2, _up_to(chance, _MOST_COPIES)))
    if chance.random() < _FULL:
        copies = (MAX_BYTES - len(data)) // len(word)
    data[at:at] = word * copies


_CHANGES: list[_Change] = [_flip, _flip, _set, _set, _cut, _take_out, _put_in, _repeat, _splice, _blow_up]
_CHANGES_OF_TEXTS = [*_CHANGES, _put_word]
