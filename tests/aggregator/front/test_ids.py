"""Where ids are in frames that look like one before, against plain Python."""

import random
from typing import Any

import mmh3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aggregator.engine.test_shapes import message
from tests.aggregator.front import test_kernels as plain
from tests.aggregator.front.test_kernels import exact, field, framed, shapes, staging, varint

from aggregator.front import kernels

WORKERS = 256
OWNERS = np.arange(WORKERS, dtype=np.int32)
"""So many that who gets a frame tells its id."""


def routed(data: bytes, known: Any) -> int | None:
    """Who gets the frame; None: it is none."""
    buffers, table = staging(WORKERS, len(data))
    _, count, _, _ = kernels.route(exact(data), 0, len(data), plain.LIMIT, OWNERS, table, known)
    if count == 0:
        return None
    worker = int(np.flatnonzero(table[:, kernels.COUNT])[0])
    assert buffers[worker][: len(data)].tobytes() == data
    return worker


def expected(data: bytes) -> int | None:
    """The same, by all that the frame says."""
    if int.from_bytes(data[:4], "big") != len(data) - 4:
        return None
    try:
        name = plain.metric_id(plain.message_value(data[4:]))
    except plain.Broken:
        return None
    return 0 if name is None else mmh3.hash(name, 0, signed=False) % WORKERS


def shaped(data: bytes, known: Any) -> bool:
    """Whether it looks like one before."""
    before = known["patience"].copy()
    known["patience"] = 3
    routed(data, known)
    found = bool((known["patience"] > 3).any())
    known["patience"] = before
    return found


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32), kind=st.integers(0, 4))
def test_what_looks_the_same_goes_where_it_belongs(seed: int, kind: int) -> None:
    r = random.Random(seed)
    known = shapes()
    for _ in range(20):
        one = message(r, kind)
        for _ in range(2):
            assert routed(one, known) == expected(one)
        for at in r.sample(range(4, len(one)), 12):
            # A bit or a byte of it, which may decide about all that follows.
            other = bytearray(one)
            other[at] ^= r.choice([1, 2, 8, 64, 128, 255, r.randint(1, 255)])
            mutated = bytes(other)
            # A copy: what is different must not be learnt before it was looked at.
            assert routed(mutated, known.copy()) == expected(mutated), (one, at)


def value(ident: bytes, *behind: bytes, metadata: bytes = b"m" * 30) -> bytes:
    """A gauge with whatever behind its id."""
    return field(1, 3) + field(4, field(1, field(1, ident) + b"".join(behind)) + field(2, metadata))


def frame(body: bytes, number: int = 5000, shard: int = 5) -> bytes:
    return framed(field(1, field(1, shard) + field(2, number)) + field(2, body))


DOUBLE = varint(2 << 3 | 1)
ONE = frame(value(b"a" * 40, DOUBLE + b"12345678", field(3, b"note"), field(4, 300)))
SAME = {
    "id, doubles, texts, varints and metadata": frame(
        value(b"b" * 40, DOUBLE + b"87654321", field(3, b"text"), field(4, 301), metadata=b"n" * 30), 5001, 6
    ),
    "the number of the message": frame(value(b"a" * 40, DOUBLE + b"12345678", field(3, b"note"), field(4, 300)), 16000),
}
OTHER = {
    "a shorter number": frame(value(b"a" * 40, DOUBLE + b"12345678", field(3, b"note1"), field(4, 3)), 5000),
    "another tag behind the id": frame(value(b"a" * 40, DOUBLE + b"12345678", field(5, b"note"), field(4, 300))),
    "a second id": frame(value(b"a" * 40, DOUBLE + b"12345678", field(1, b"note"), field(4, 300))),
    "shard of another size": frame(value(b"a" * 39, DOUBLE + b"12345678", field(3, b"note"), field(4, 300)), shard=300),
}


@pytest.mark.parametrize("name", SAME)
def test_what_does_not_decide_may_differ(name: str) -> None:
    known = shapes()
    assert routed(ONE, known) == expected(ONE)
    assert np.count_nonzero(known["word"]) == 1
    assert shaped(SAME[name], known)
    assert routed(SAME[name], known) == expected(SAME[name])


@pytest.mark.parametrize("name", OTHER)
def test_what_decides_may_not(name: str) -> None:
    known = shapes()
    routed(ONE, known)
    assert not shaped(OTHER[name], known.copy())
    assert routed(OTHER[name], known) == expected(OTHER[name])


def test_a_limit_that_is_smaller_now_holds_for_what_looks_the_same() -> None:
    known = shapes()
    routed(ONE, known)
    _, table = staging(WORKERS, len(ONE))
    limit = len(ONE) - 5
    assert kernels.route(exact(ONE), 0, len(ONE), limit, OWNERS, table, known) == (0, 0, kernels.OVERSIZE, len(ONE))
