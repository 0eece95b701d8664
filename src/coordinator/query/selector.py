"""The part of PromQL that is answered here from a store: a selector with matchers, a range, an offset and ``@``.

The parser is a library's; expressions beyond a selector (and beyond ``constants``) are understood and refused with a hint: a Prometheus
(or anything else that speaks its remote read) evaluates them over ``/api/v1/prom/remote/read``.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import msgspec
import promql_parser as promql

from coordinator.matchers import Matcher, MatcherError, MatchOp
from coordinator.query.errors import QueryError

__all__ = ["Selector", "parse_expression", "parse_matchers", "parse_selector", "selector_of"]

_MAX_QUERY_CHARACTERS = 64 << 10
_MAX_LEVELS = 128
"""The parser calls itself for each level: thousands of them would end the process."""
_NO_CODE = re.compile(
    r"""  "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*` | \#[^\n]* | \{[^{}"'`\#]*\}  """, re.VERBOSE | re.DOTALL
)
"""Strings and comments, and then matchers, which have no strings any more."""
_LEVELS = re.compile(r"[()\[{}@*/%^+-]|[=!<>]=?|\b(?:and|or|unless|atan2|offset)\b", re.IGNORECASE)
_REMOTE_READ = (
    "only plain selectors such as up{job=\"api\"}, and constants, are evaluated here; "
    "for full PromQL let a Prometheus read from /api/v1/prom/remote/read"
)  # fmt: skip


class Selector(msgspec.Struct, frozen=True):
    """A selector; times in ms."""

    matchers: tuple[Matcher, ...]
    range_ms: int = 0
    """0: an instant vector."""
    offset_ms: int = 0
    at: Callable[[int, int], int] | None = None
    """With ``@``: (start, end) of the query → the time at which it is evaluated."""

    def shift(self, time_ms: int, start_ms: int, end_ms: int) -> int:
        """The time that an evaluation at ``time_ms`` looks at."""
        return (time_ms if self.at is None else self.at(start_ms, end_ms)) - self.offset_ms


def parse_expression(text: str) -> promql.Expr:
    """Raises ``QueryError`` for what is no PromQL."""
    if not text.strip():
        raise QueryError("error parsing param: query, error: no query found")
    if len(text) > _MAX_QUERY_CHARACTERS:
        raise QueryError(f"the query is longer than {_MAX_QUERY_CHARACTERS} characters")
    if _levels(text) > _MAX_LEVELS:
        raise QueryError(f"the query has more than {_MAX_LEVELS} operators and parentheses in each other")
    try:
        with _refusing("a duration of the query is too long", OverflowError):
            return promql.parse(text)
    except ValueError as error:
        raise QueryError(f"parse error: {error}") from None


@contextmanager
def _refusing(why: str, *errors: type[Exception]) -> Iterator[None]:
    """Numbers that are too large for the library become a ``QueryError``: it raises an error, or panics, which is no ``Exception``."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, errors) or type(error).__name__ == "PanicException":
            raise QueryError(why) from None
        raise


def _levels(text: str) -> int:
    """At most so many expressions of a query are in each other: an operator has everything before it, or behind it, within."""
    depth = deepest = operators = 0
    for found in _LEVELS.findall(_NO_CODE.sub(" ", _NO_CODE.sub(" ", text))):
        if found in "({":
            depth += 1
            deepest = max(deepest, depth)
        elif found in ")}":
            depth -= 1
        else:
            operators += 1
    return deepest + operators


def parse_selector(text: str) -> Selector:
    """Raises ``QueryError`` for what is no PromQL, and for PromQL beyond a selector."""
    return selector_of(parse_expression(text))


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """The matchers of a selector without range, offset and ``@``, as listings take it. Raises ``QueryError``."""
    expression = parse_expression(text)
    plain = isinstance(expression, promql.VectorSelector) and _offset_ms(expression) is None and expression.at is None
    if not plain:
        raise QueryError('match[] takes a selector such as up{job="api"}, without range, offset and @')
    return selector_of(expression).matchers


def selector_of(expression: promql.Expr) -> Selector:
    """Raises ``QueryError`` for what is more than a selector, as Prometheus says that an evaluation failed."""
    while isinstance(expression, promql.ParenExpr):
        expression = expression.expr
    range_ms = 0
    if isinstance(expression, promql.MatrixSelector):
        with _refusing("the range is too long", ValueError, OverflowError):
            range_ms = _milliseconds(expression.range)
        expression = expression.vector_selector
    if not isinstance(expression, promql.VectorSelector):
        raise _unsupported(f"{_kind(expression)} is not supported")
    if expression.matchers.or_matchers:
        raise _unsupported("alternatives with 'or' inside braces are not supported")
    return Selector(
        matchers=_matchers(expression),
        range_ms=range_ms,
        offset_ms=_offset_ms(expression) or 0,
        at=_at(expression.at),
    )


def _unsupported(what: str) -> QueryError:
    return QueryError(f"{what}: {_REMOTE_READ}", kind="execution", status=422)


_OPS = (
    (promql.MatchOp.Equal, MatchOp.EQUAL),
    (promql.MatchOp.NotEqual, MatchOp.NOT_EQUAL),
    (promql.MatchOp.Re, MatchOp.REGEX),
    (promql.MatchOp.NotRe, MatchOp.NOT_REGEX),
)


def _matchers(selector: promql.VectorSelector) -> tuple[Matcher, ...]:
    found = []
    try:
        if selector.name is not None:
            found.append(Matcher(MatchOp.EQUAL, b"__name__", selector.name.encode()))
        for one in selector.matchers.matchers:
            op = next(ours for theirs, ours in _OPS if theirs == one.op)
            found.append(Matcher(op, one.name.encode(), one.value.encode()))
    except (MatcherError, UnicodeEncodeError) as error:
        raise QueryError(str(error)) from None
    return tuple(found)


def _offset_ms(selector: promql.VectorSelector) -> int | None:
    with _refusing("the offset is too long", ValueError, OverflowError):
        return None if selector.offset is None else _milliseconds(selector.offset)


def _at(modifier: promql.AtModifier | None) -> Callable[[int, int], int] | None:
    if modifier is None:
        return None
    if modifier.type == promql.AtModifierType.Start:
        return lambda start_ms, _end_ms: start_ms
    if modifier.type == promql.AtModifierType.End:
        return lambda _start_ms, end_ms: end_ms
    time_ms = _moment_ms(modifier)
    return None if time_ms is None else lambda _start_ms, _end_ms: time_ms


def _moment_ms(modifier: promql.AtModifier) -> int | None:
    with _refusing("the time behind @ is before 1970, or too far from it", ValueError, OverflowError):
        moment = modifier.at
    return None if moment is None else round(moment.timestamp() * 1000)


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def _kind(expression: promql.Expr) -> str:
    names = {
        promql.AggregateExpr: "an aggregation",
        promql.BinaryExpr: "an operation between two expressions",
        promql.Call: "a function",
        promql.SubqueryExpr: "a subquery",
        promql.UnaryExpr: "a negation",
        promql.NumberLiteral: "a number",
        promql.StringLiteral: "a string",
    }
    return names.get(type(expression), "this expression")
