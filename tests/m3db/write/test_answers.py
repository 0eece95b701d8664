"""Answers to batch writes: the kernel against the plain codec."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3db.errors import CallError, ThriftError
from m3db.thrift import StructValue, marshal, unmarshal
from m3db.write import element_errors
from m3db.write.answer_kernels import ERROR, ODD, read_errors
from m3db.write.requests import WRITE

errors = st.lists(
    st.fixed_dictionaries(
        {
            "index": st.integers(0, 127),
            "err": st.fixed_dictionaries(
                {
                    "type": st.sampled_from([0, 1, 7]),
                    "message": st.binary(max_size=40),
                    "flags": st.sampled_from([0, 1, 2, 3]),
                }
            ),
        }
    ),
    max_size=6,
)


def answer(listed: list[StructValue]) -> bytes:
    return marshal(WRITE.result, {"err": {"errors": listed}})


def rows(body: bytes, elements: int) -> list[StructValue]:
    found = element_errors(1, body, elements)
    return [
        {
            "index": int(found.index[k]),
            "err": {
                "type": int(found.errors["type"][k]),
                "message": found.text(k),
                "flags": int(found.errors["flags"][k]),
            },
        }
        for k in range(len(found))
    ]


def plain(body: bytes, elements: int) -> list[StructValue] | None:
    """As the plain codec; None: it does not tell."""
    try:
        listed = unmarshal(WRITE.result, body).get("err", {"errors": []})["errors"]
    except ThriftError:
        return None
    for one in listed:
        one["err"]["message"] = one["err"]["message"].decode(errors="backslashreplace")
    return listed if listed and all(0 <= one["index"] < elements for one in listed) else None


@given(errors)
def test_the_kernel_reads_what_the_plain_code_reads(listed: list[StructValue]) -> None:
    body = answer(listed)
    assert read_errors(np.frombuffer(body, np.uint8), np.empty(20, ERROR)) == len(listed)
    if listed:
        assert rows(body, 128) == plain(body, 128)


@given(errors, st.randoms(use_true_random=False))
def test_broken_answers_are_judged_alike(listed: list[StructValue], chance: random.Random) -> None:
    body = bytearray(answer(listed))
    for _ in range(chance.randint(0, 3)):
        body[chance.randrange(len(body))] = chance.choice([0, 1, 8, 10, 11, 12, 15, chance.randrange(256)])
    cut = bytes(body[: chance.choice([len(body), chance.randint(0, len(body))])])
    wanted = plain(cut, 100)
    if wanted is None:
        with pytest.raises(CallError):
            element_errors(1, cut, 100)
    else:
        assert rows(cut, 100) == wanted


def test_no_errors() -> None:
    assert len(element_errors(0, b"\0", 5)) == 0
    assert len(element_errors(0, marshal(WRITE.result, {}), 5)) == 0
    assert len(element_errors(0, answer([]), 5)) == 0


@pytest.mark.parametrize("body", [b"", b"\0", answer([]), b"\0\0", b"garbage"])
def test_an_error_without_content_may_succeed_later(body: bytes) -> None:
    with pytest.raises(CallError):
        element_errors(1, body, 5)


def test_what_an_error_says() -> None:
    found = element_errors(
        1,
        answer([
            {"index": 3, "err": {"type": 1, "message": "datapoint too far in past: é".encode()}},
            {"index": 1, "err": {"type": 1, "message": b"limit \xff", "flags": 1}},
            {"index": 0, "err": {"type": 0, "message": b"", "flags": 2}},
        ]),
        4,
    )  # fmt: skip
    assert len(found) == 3
    assert found.index.tolist() == [3, 1, 0]
    assert found.bad_request.tolist() == [True, True, False]
    assert found.exhausted.tolist() == [False, True, False]
    assert [found.text(k) for k in range(3)] == ["datapoint too far in past: é", "limit \\xff", ""]


def test_unknown_fields_are_read_by_the_plain_code() -> None:
    body = answer([{"index": 2, "err": {"type": 0, "message": b"x"}}])
    more = body[:-2] + b"\x0a\x00\x09" + bytes(8) + bytes(2)
    assert read_errors(np.frombuffer(more, np.uint8), np.empty(20, ERROR)) == ODD
    assert rows(more, 3) == [{"index": 2, "err": {"type": 0, "message": "x", "flags": 0}}]
