"""The index finds exactly the filters that match."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3metrics.filters import TagsFilter, compile_filter
from m3metrics.rules.index import FilterIndex

NAMES = ("__name__", "app", "dc", "z")
VALUES = ("", "a", "ab", "abc", "b", "ba")
PATTERNS = ("*", "a", "a*", "*b", "!a", "!*", "a?", "{a,b}", "[ab]b", "ab*", "*b*", "!{a,ab}", "?*")

filters = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(PATTERNS), max_size=3).map(
    lambda items: compile_filter(" ".join(f"{tag}:{pattern}" for tag, pattern in items.items()))
)
metrics = st.dictionaries(
    st.sampled_from(NAMES).map(str.encode), st.sampled_from(VALUES).map(str.encode), max_size=len(NAMES)
)


@given(st.lists(filters, max_size=12), metrics)
def test_index_and_filters_agree(listed: list[TagsFilter], first: dict[bytes, bytes]) -> None:
    wanted = [position for position, one in enumerate(listed) if one.matches(first)]
    assert FilterIndex(listed).matching(first) == wanted


@pytest.mark.parametrize("text", ["", "__name__:*", "__name__:!x"])
def test_a_metric_without_name(text: str) -> None:
    assert FilterIndex([compile_filter(text)]).matching({}) == [0]
