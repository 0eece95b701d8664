"""Matchers and label lists against a plain model, and what a pattern may cost."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.store import Matcher, MatcherError, MatchOp
from coordinator.store.labels import LabelIndex
from m3metrics.ids import Tags

NAMES = [b"__name__", b"app", b"dc"]
VALUES = [b"a", b"ab", b"b", b"b\nc", b"\xc3\xa9"]
PATTERNS = [b"a.*", b"a|b", b"", b".*", b".+", b"(a|ab)", b"[ab]+", b"b.c", b"\xc3\xa9", b"."]

series = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=3)
equality = st.builds(
    Matcher, st.sampled_from([MatchOp.EQUAL, MatchOp.NOT_EQUAL]), st.sampled_from([*NAMES, b"no"]), st.sampled_from([*VALUES, b""])
)  # fmt: skip
pattern = st.builds(
    Matcher, st.sampled_from([MatchOp.REGEX, MatchOp.NOT_REGEX]), st.sampled_from([*NAMES, b"no"]), st.sampled_from(PATTERNS)
)  # fmt: skip


def matches(tags: dict[bytes, bytes], matcher: Matcher) -> bool:
    value = tags.get(matcher.name, b"")
    if matcher.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
        return (value == matcher.value) == (matcher.op == MatchOp.EQUAL)
    found = re.fullmatch(matcher.value.decode(), value.decode()) is not None
    return found == (matcher.op == MatchOp.REGEX)


def index_of(tag_sets: list[Tags]) -> LabelIndex:
    index = LabelIndex()
    for i, tags in enumerate(tag_sets):
        assert index.add(tags) == i
    return index


@given(st.lists(series, max_size=12), st.lists(equality | pattern, max_size=4))
def test_matching_equals_the_model(tag_sets: list[dict[bytes, bytes]], matchers: list[Matcher]) -> None:
    index = index_of([sorted(tags.items()) for tags in tag_sets])
    expected = [i for i, tags in enumerate(tag_sets) if all(matches(tags, matcher) for matcher in matchers)]
    assert index.match(matchers).tolist() == expected


@given(st.lists(series, max_size=12), st.data())
def test_names_and_values_equal_the_model(tag_sets: list[dict[bytes, bytes]], data: st.DataObject) -> None:
    index = index_of([sorted(tags.items()) for tags in tag_sets])
    among = data.draw(
        st.none() | st.lists(st.sampled_from(range(len(tag_sets))), unique=True) if tag_sets else st.none()
    )
    chosen = tag_sets if among is None else [tag_sets[i] for i in among]
    entries = None if among is None else index.match([])[sorted(among)]
    assert index.names(entries) == sorted({name for tags in chosen for name in tags})
    for name in NAMES:
        assert index.values(name, entries) == sorted({tags[name] for tags in chosen if name in tags})


@pytest.mark.parametrize("text", [b"(", b"*", b"[b-a]", b"(?=a)", b"\\1"])
def test_patterns_that_re2_refuses(text: bytes) -> None:
    with pytest.raises(MatcherError, match="error parsing regexp"):
        Matcher(MatchOp.REGEX, b"a", text)
    Matcher(MatchOp.EQUAL, b"a", text)


def test_a_matcher_needs_a_name() -> None:
    with pytest.raises(MatcherError, match="name"):
        Matcher(MatchOp.EQUAL, b"", b"x")


def test_no_pattern_takes_exponential_time() -> None:
    index = index_of([[(b"a", b"a" * 5000)]])
    began = time.process_time()
    assert index.match([Matcher(MatchOp.REGEX, b"a", b"(a+)+b")]).tolist() == []
    # Backtracking would not be done before the sun is out.
    assert time.process_time() - began < 60


def test_values_that_are_no_text_match_by_their_bytes() -> None:
    index = index_of([[(b"a", b"\xff\xfe")], [(b"a", b"x")]])
    assert index.match([Matcher(MatchOp.EQUAL, b"a", b"\xff\xfe")]).tolist() == [0]
    assert index.match([Matcher(MatchOp.NOT_REGEX, b"a", b"x")]).tolist() == [0]


def test_of_a_name_that_is_there_twice_the_first_value_counts() -> None:
    index = index_of([[(b"a", b"1"), (b"a", b"2")]])
    assert index.match([Matcher(MatchOp.EQUAL, b"a", b"1")]).tolist() == [0]
    assert index.match([Matcher(MatchOp.EQUAL, b"a", b"2")]).tolist() == []
