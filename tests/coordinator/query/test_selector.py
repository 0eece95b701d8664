"""The part of PromQL that is understood, and what is said about the rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.matchers import Matcher, MatchOp
from coordinator.query import QueryError, parse_selector
from coordinator.query.constants import evaluate
from coordinator.query.selector import parse_expression

NAME = b"__name__"


@pytest.mark.parametrize(
    ("text", "matchers", "range_ms", "offset_ms"),
    [
        ("up", [(MatchOp.EQUAL, NAME, b"up")], 0, 0),
        (' ( up{job="a"} ) ', [(MatchOp.EQUAL, NAME, b"up"), (MatchOp.EQUAL, b"job", b"a")], 0, 0),
        ('{a!="x",b=~"y.*"}', [(MatchOp.NOT_EQUAL, b"a", b"x"), (MatchOp.REGEX, b"b", b"y.*")], 0, 0),
        ('{a="x",c!~"z"}', [(MatchOp.EQUAL, b"a", b"x"), (MatchOp.NOT_REGEX, b"c", b"z")], 0, 0),
        ("up[90s] offset 1m", [(MatchOp.EQUAL, NAME, b"up")], 90_000, 60_000),
        ("up offset -1h", [(MatchOp.EQUAL, NAME, b"up")], 0, -3_600_000),
        ('{"a.b"}', [(MatchOp.EQUAL, NAME, b"a.b")], 0, 0),
        ('up{a="ключ\\n"}', [(MatchOp.EQUAL, NAME, b"up"), (MatchOp.EQUAL, b"a", "ключ\n".encode())], 0, 0),
    ],
)  # fmt: skip
def test_selectors(text: str, matchers: list[tuple[MatchOp, bytes, bytes]], range_ms: int, offset_ms: int) -> None:
    selector = parse_selector(text)
    assert list(selector.matchers) == [Matcher(*one) for one in matchers]
    assert (selector.range_ms, selector.offset_ms) == (range_ms, offset_ms)


def test_the_time_that_is_looked_at() -> None:
    assert parse_selector("up offset 10s").shift(50_000, 0, 100_000) == 40_000
    assert parse_selector("up @ 12.5 offset 10s").shift(50_000, 0, 100_000) == 2500
    assert parse_selector("up @ start()").shift(50_000, 1000, 100_000) == 1000
    assert parse_selector("up @ end()").shift(50_000, 1000, 100_000) == 100_000


@pytest.mark.parametrize(
    "text",
    [
        "sum(up)", "rate(up[1m])", "up + 1", "-up", "up[5m:1m]", 'up{a="1" or b="2"}', "sum by (a) (up)", "scalar(up)",
        "absent(vector(1))", "vector(1) or up", "hour()", "sum(vector(1))", "vector(1)[5m:1m]",
    ],
)  # fmt: skip
def test_more_than_a_selector_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(QueryError, match="/api/v1/prom/remote/read") as caught:
        parse_selector(text)
    assert (caught.value.status, caught.value.kind) == (422, "execution")
    assert evaluate(parse_expression(text), np.zeros(1, np.int64)) is None


@pytest.mark.parametrize(
    "text", ["", "  ", "sum(", "bad{", "{}", 'a{b=~"("}', "a b", 'a{b="c', "a" * 100_000, "\x00", "a{b=~'(?=x)'}"]
)
def test_what_is_no_promql_is_a_bad_request(text: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_selector(text)
    assert (caught.value.status, caught.value.kind) == (400, "bad_data")


DEEP = {
    "parentheses": "({})", "negations": "-({})", "minus": "-{}", "sums": "1+{}", "powers": "1^{}", "calls": "vector(scalar({}))",
    "aggregations": "sum({})", "alternatives": "vector(1) or {}", "comparisons": "1 == bool {}", "in quotes": "('\\'(' + {})",
    "with comments": "( # (\n{})", "braces": "({} + a{{b='('}})",
}  # fmt: skip


@pytest.mark.parametrize("form", DEEP.values(), ids=DEEP.keys())
def test_depth_has_an_end(form: str) -> None:
    """The parser calls itself for each level, and would end the process."""

    def nested(levels: int) -> str:
        text = "vector(1)"
        for _ in range(levels):
            text = form.format(text)
        return text

    for levels in (129, 2000):
        with pytest.raises(QueryError, match="more than 128 operators and parentheses") as caught:
            parse_expression(nested(levels))
        assert (caught.value.status, caught.value.kind) == (400, "bad_data")
    try:
        evaluate(parse_expression(nested(40)), np.zeros(1, np.int64))
    except QueryError as error:
        assert "more than 128" not in str(error)


def test_what_is_beside_each_other_is_not_deep() -> None:
    matchers = ",".join(f'l{i}=~"(a|b)+[(-]*"' for i in range(300))
    assert len(parse_selector(f"up{{{matchers}}}").matchers) == 301
    calls = ", ".join('"("' for _ in range(300))
    with pytest.raises(QueryError, match="parse error"):
        parse_expression(f"label_join(up, {calls})" + ")")


@given(st.text(alphabet="ab{}[]()=~!\"',|+*\\ 5m@_:offset\n", max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        parse_selector(text)
    except QueryError as error:
        assert str(error)
