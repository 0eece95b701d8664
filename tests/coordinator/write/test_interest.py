"""The tables of what rules ask for never hide a rule, and mostly tell which series are none of their business."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.prompb import TIME_SERIES
from coordinator.write import kernels
from coordinator.write.interest import Interest
from m3metrics.filters import TagsFilter, compile_filter
from m3x.protobuf import marshal

Labels = dict[bytes, bytes]


def asks_for(interest: Interest, labels: Labels) -> bool:
    listed: list[Any] = [{"name": name, "value": value} for name, value in labels.items()]
    data = np.frombuffer(bytearray(marshal(TIME_SERIES, {"labels": listed})), np.uint8)
    spans = np.zeros((16, 4), np.int64)
    found = kernels.label_spans(data, 0, len(data), spans)
    assert found == len(labels)
    return bool(kernels.interesting(data, spans, found, interest.tags, interest.lengths, interest.values))


TAGS = ("__name__", "app", "dc", "a_label_with_a_long_name", "__m3_type__")
VALUES = ("a", "ab", "abc", "b", "value-of-more-than-sixteen-bytes", "value-of-more-than-sixteen-others")
PATTERNS = ("*", "a", "a*", "*b", "!a", "a?", "{a,b}", "value-of-more-than-six*", "value-of-more-than-sixteen-bytes")
filters = st.dictionaries(st.sampled_from(TAGS), st.sampled_from(PATTERNS), min_size=1, max_size=3).map(
    lambda items: compile_filter(" ".join(f"{tag}:{pattern}" for tag, pattern in items.items()))
)
series = st.dictionaries(st.sampled_from(TAGS[:4]).map(str.encode), st.sampled_from(VALUES).map(str.encode), min_size=1)


@given(st.lists(filters, max_size=8), series)
def test_no_rule_is_hidden(listed: list[TagsFilter], labels: Labels) -> None:
    interest = Interest.of(listed)
    seen = {**labels, b"__m3_type__": b"gauge"}
    if interest is not None and any(one.matches(seen) for one in listed):
        assert asks_for(interest, labels)


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("app:a", {b"app": b"a"}, True),
        ("app:a", {b"app": b"ab"}, False),
        ("app:a*", {b"app": b"ab"}, True),
        ("app:a*", {b"app": b"b"}, False),
        ("app:*", {b"app": b"b"}, True),
        ("app:*", {b"dc": b"b"}, False),
        ("app:* __name__:http_*", {b"app": b"x", b"__name__": b"other"}, False),
        ("__name__:http_*", {b"__name__": b"http_requests"}, True),
        ("__name__:http_*", {b"__name__": b"http"}, False),
    ],
)
def test_what_a_filter_asks_for(text: str, labels: Labels, expected: bool) -> None:
    interest = Interest.of([compile_filter(text)])
    assert interest is not None
    assert asks_for(interest, labels) is expected


@pytest.mark.parametrize("text", ["", "__name__:*", "__name__:!x", "__m3_type__:counter"])
def test_a_filter_that_asks_for_no_label_makes_every_series_interesting(text: str) -> None:
    assert Interest.of([compile_filter("app:a"), compile_filter(text)]) is None


def test_without_rules_nothing_is_interesting() -> None:
    interest = Interest.of([])
    assert interest is not None
    assert not asks_for(interest, {b"app": b"a"})
