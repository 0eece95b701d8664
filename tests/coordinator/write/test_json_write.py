import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.write.decoded import Sample, samples

from coordinator.write.json_write import JSONWrite
from coordinator.write.options import BadRequestError, WriteOptions


def decode(document: Any) -> list[Sample]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return samples(JSONWrite().decode(body, WriteOptions(dialect="json")))


def at(timestamp: Any, value: Any = 1.5, **more: Any) -> dict[str, Any]:
    return {"tags": {"__name__": "up", "b": "c"}, "timestamp": timestamp, "value": value, **more}


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("1534952005", 1534952005000),
        ("1534952005.123", 1534952005123),
        ("1534952005.57", 1534952005570),
        ("1.5e9", 1500000000000),
        ("-1.5", -1500),
        ("2018-08-22T15:33:25Z", 1534952005000),
        ("2018-08-22T15:33:25.123456789Z", 1534952005123),
        ("2018-08-22T17:33:25.5+02:00", 1534952005500),
        ("1969-12-31T23:59:59.5Z", -500),
    ],
)
def test_times(timestamp: str, expected: int) -> None:
    assert decode(at(timestamp)) == [Sample({"__name__": "up", "b": "c"}, expected, 1.5)]


def test_names_of_the_document_may_have_any_case_and_unknown_ones_are_ignored() -> None:
    assert decode({"Tags": {"a": "b"}, "TIMESTAMP": "1", "Value": 2, "more": []}) == [Sample({"a": "b"}, 1000, 2.0)]


def test_without_a_value_it_is_0() -> None:
    assert decode({"tags": {"a": "b"}, "timestamp": "1"}) == [Sample({"a": "b"}, 1000, 0.0)]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b"", "empty request body"),
        (b"{", "truncated"),
        (b"null", "Expected `object`, got `null`"),
        ([], "Expected `object`, got `array`"),
        ({}, "missing required field `tags`"),
        ({"tags": {"a": "b"}}, "missing required field `timestamp`"),
        (at(1), r"Expected `str`, got `int` - at `\$.timestamp`"),
        (at("1", "x"), r"Expected `float`, got `str` - at `\$.value`"),
        (b'{"tags": {"a": "b"}, "timestamp": "1", "value": NaN}', "malformed"),
        ({"tags": {"a": 1}, "timestamp": "1"}, "Expected `str`, got `int`"),
        *[(at(text), "invalid timestamp for ") for text in ("", "x", "nan", "inf", "1e30", " 1", "1_0", "2018-13-01T00:00:00Z", "now")],
        ({"tags": {"a": "x" * 65536}, "timestamp": "1"}, "label literal is too long"),
    ],
)  # fmt: skip
def test_what_is_no_sample(document: Any, text: str) -> None:
    with pytest.raises(BadRequestError, match=text):
        decode(document)


@given(
    st.binary()
    | st.recursive(st.none() | st.floats() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one))
)
def test_whatever_comes_is_a_sample_or_refused(document: Any) -> None:
    try:
        assert len(decode(document)) == 1
    except BadRequestError as error:
        assert str(error)
