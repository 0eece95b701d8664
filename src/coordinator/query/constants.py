"""Expressions that need no series: literals, ``time()``, ``pi()``, ``vector()``, ``scalar()``, and what operators make of these.

Their values are those of Prometheus. A vector of them has one element, without labels, or none: so two of them always match each other,
whatever ``on`` and ``ignoring`` say, and one array of values and one of presence, by step, are a whole evaluation.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import promql_parser as promql
from numpy.typing import NDArray

__all__ = ["Constant", "evaluate"]

_Values = NDArray[np.float64]
_Operator = Callable[[Any, Any], Any]

_ARITHMETIC: dict[str, _Operator] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": np.fmod,
    "^": np.power,
    "atan2": np.arctan2,
}
_COMPARISONS: dict[str, _Operator] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Constant:
    """What an expression comes to at each step."""

    kind: Literal["scalar", "vector", "string"]
    values: _Values
    """By step."""
    there: NDArray[np.bool_]
    """Whether the vector has its element, by step; of scalars always."""
    text: str = ""
    """Of a string."""


def evaluate(expression: promql.Expr, times_ms: NDArray[np.int64]) -> Constant | None:
    """The expression at some times; None if it asks for series, or for a function that is none of those above."""
    with np.errstate(all="ignore"):
        return _evaluate(expression, times_ms)


def _evaluate(expression: promql.Expr, times_ms: NDArray[np.int64]) -> Constant | None:
    match expression:
        case promql.NumberLiteral():
            return _scalar(np.full(len(times_ms), expression.val))
        case promql.StringLiteral():
            return Constant("string", np.zeros(len(times_ms)), np.ones(len(times_ms), np.bool_), expression.val)
        case promql.ParenExpr():
            return _evaluate(expression.expr, times_ms)
        case promql.UnaryExpr():
            # The parser has taken every plus away.
            of = _evaluate(expression.expr, times_ms)
            return None if of is None else Constant(of.kind, -of.values, of.there)
        case promql.Call():
            return _call(expression, times_ms)
        case promql.BinaryExpr():
            left, right = _evaluate(expression.lhs, times_ms), _evaluate(expression.rhs, times_ms)
            if left is None or right is None:
                return None
            modifier = expression.modifier
            return _binary(str(expression.op), left, right, modifier is not None and modifier.return_bool)
    return None


def _call(call: promql.Call, times_ms: NDArray[np.int64]) -> Constant | None:
    arguments = [_evaluate(argument, times_ms) for argument in call.args]
    match call.func.name, arguments:
        case "time", []:
            return _scalar(times_ms / 1000)
        case "pi", []:
            return _scalar(np.full(len(times_ms), np.pi))
        case "vector", [Constant() as scalar]:
            return Constant("vector", scalar.values, scalar.there)
        case "scalar", [Constant() as vector]:
            return _scalar(np.where(vector.there, vector.values, np.nan))
    return None


def _binary(sign: str, left: Constant, right: Constant, return_bool: bool) -> Constant | None:
    there = left.there & right.there
    kind: Literal["scalar", "vector"] = "scalar" if left.kind == right.kind == "scalar" else "vector"
    if sign in _ARITHMETIC:
        return Constant(kind, _ARITHMETIC[sign](left.values, right.values), there)
    if sign in _COMPARISONS:
        holds = _COMPARISONS[sign](left.values, right.values)
        if return_bool:
            return Constant(kind, holds.astype(np.float64), there)
        # Of a scalar and a vector the vector's value stays, on whichever side it stands.
        return Constant("vector", right.values if left.kind == "scalar" else left.values, there & holds)
    match sign:
        case "and":
            return Constant("vector", left.values, there)
        case "or":
            return Constant("vector", np.where(left.there, left.values, right.values), left.there | right.there)
        case "unless":
            return Constant("vector", left.values, left.there & ~right.there)
    return None


def _scalar(values: _Values) -> Constant:
    return Constant("scalar", values, np.ones(len(values), np.bool_))
