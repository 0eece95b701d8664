"""Targets beyond the golden vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.query.graphite.compiler import Call, Fetch, Noop, TargetError, compile_target, functions_of, text_of

TEXTS = st.text(alphabet="ab1.5*?{}[],()'\"\\ =!+-eE~$:<>|/%#@&^_\0\u00e9", max_size=12)


@pytest.mark.parametrize("path", ["a.b+c", "web?", "a.é", "-a.b", "a.{b@c,d}", "a.[!x]y", "1e", "100%"])
def test_paths_that_m3_cannot_read(path: str) -> None:
    assert compile_target(path) == Fetch(path)


@pytest.mark.parametrize(
    "target", ["a b", "a.b}", "a.{b", "a,b", "a;b=c", "a'b", "a\\b", "5", "true", "'a'", "sum(a+b)", "a..+", "\u00a0a"]
)
def test_what_is_no_path(target: str) -> None:
    with pytest.raises(TargetError, match="invalid expression"):
        compile_target(target)


def test_functions_are_named_from_the_outermost_in() -> None:
    tree = compile_target("alias(sum(scale(a.b, 2), sum(c)), 'x')")
    assert isinstance(tree, Call)
    assert functions_of(tree) == ["alias", "sumSeries", "scale"]
    assert functions_of(Fetch("a")) == functions_of(Noop()) == []


def test_functions_within_functions_have_an_end() -> None:
    for depth in (100, 101, 20_000):
        target = "sum(" * depth + "a.b" + ")" * depth
        if depth == 100:
            assert text_of(compile_target(target)).count("sumSeries(") == 100
        else:
            with pytest.raises(TargetError, match="more than 100 functions stand in one another"):
                compile_target(target)


@given(TEXTS)
def test_a_text_is_a_target_or_refused(text: str) -> None:
    try:
        text_of(compile_target(text))
    except TargetError as error:
        assert error.status in (400, 500)


@given(TEXTS)
def test_a_text_within_a_function_is_an_argument_or_refused(text: str) -> None:
    try:
        tree = compile_target(f"sum(a.b,{text})")
    except TargetError as error:
        assert error.status == 400
    else:
        assert isinstance(tree, Call)
