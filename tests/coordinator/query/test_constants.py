"""Expressions without series: what Prometheus makes of them (recorded by hand from its answers)."""

import math

import numpy as np
import pytest

from coordinator.query.constants import Constant, evaluate
from coordinator.query.selector import parse_expression

NAN, INF = math.nan, math.inf


def constant(text: str, *times_s: float) -> Constant:
    found = evaluate(parse_expression(text), np.array([round(t * 1000) for t in times_s or (1.5,)], np.int64))
    assert found is not None, text
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0), ("-1", -1.0), ("--1", 1.0), ("-(1)", -1.0), (".5", 0.5), ("0x1F", 31.0), ("1e3", 1000.0), ("Inf", INF), ("NaN", NAN),
        ("1+1", 2.0), ("2 * (3 + 4)", 14.0), ("1 / 3", 1 / 3), ("1 / 0", INF), ("-1 / 0", -INF), ("0 / 0", NAN), ("1 % 0", NAN),
        ("-1 % 2.5", -1.0), ("5 % -3", 2.0), ("2 ^ 3 ^ 2", 512.0), ("-1 ^ 2", -1.0), ("2 ^ 0.5", 1.4142135623730951),
        ("1 atan2 1", math.pi / 4),
        ("10 ^ -3", 0.001), ("1 == bool 1", 1.0), ("1 != bool 1", 0.0), ("NaN == bool NaN", 0.0), ("1 < bool 2", 1.0), ("2 <= bool 1", 0.0),
        ("2 > bool 1", 1.0), ("1 >= bool 2", 0.0), ("pi()", math.pi), ("time()", 1.5), ("time() - 1.5", 0.0), ("scalar(vector(3))", 3.0),
        ("scalar(vector(1) == 2)", NAN), ("# why\n1", 1.0),
    ],
)  # fmt: skip
def test_scalars(text: str, value: float) -> None:
    found = constant(text)
    assert (found.kind, found.there.tolist()) == ("scalar", [True])
    assert repr(found.values.tolist()) == repr([value])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("vector(1)", 1.0), ("(vector(1))", 1.0), ("-vector(1)", -1.0), ("vector(1) + 1", 2.0), ("1 - vector(3)", -2.0),
        ("vector(1) + vector(2)", 3.0), ("vector(1) + on(a) group_left(b) vector(2)", 3.0), ("vector(1) + ignoring(a) vector(2)", 3.0),
        ("vector(1) == 1", 1.0), ("vector(1) == 2", None), ("1 < vector(2)", 2.0), ("vector(2) > 1", 2.0), ("3 < vector(2)", None),
        ("vector(1) == bool 2", 0.0), ("vector(1) < vector(2)", 1.0), ("vector(1) > bool vector(2)", 0.0), ("vector(NaN) == NaN", None),
        ("vector(1) and vector(2)", 1.0), ("vector(1) and vector(2) > 3", None), ("vector(1) == 2 or vector(4)", 4.0),
        ("vector(1) or vector(4)", 1.0), ("vector(1) unless vector(2)", None), ("vector(1) unless vector(2) > 3", 1.0),
        ("vector(time())", 1.5), ("(vector(1) == 2) + 1", None), ("vector(scalar(vector(7)))", 7.0), ("vector(1) or (vector(2) == 3)", 1.0),
    ],
)  # fmt: skip
def test_vectors(text: str, value: float | None) -> None:
    found = constant(text)
    assert (found.kind, found.there.tolist()) == ("vector", [value is not None])
    assert value is None or found.values.tolist() == [value]


def test_strings() -> None:
    found = constant('("a\\n\\"b\\"")')
    assert (found.kind, found.text) == ("string", 'a\n"b"')


def test_each_step_has_its_own_value() -> None:
    assert constant("time() * 2", 1, 2.5, 4).values.tolist() == [2.0, 5.0, 8.0]
    found = constant("vector(time()) > 2", 1, 2.5, 4)
    assert (found.there.tolist(), found.values[1:].tolist()) == ([False, True, True], [2.5, 4.0])
    assert constant("vector(1) unless vector(time()) > 2", 1, 2.5).there.tolist() == [True, False]
