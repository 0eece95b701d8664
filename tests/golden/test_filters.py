"""Patterns and tag filters against ``golden/coordinator/filters.jsonl``."""

import pytest
from tests.golden.vectors import Vector, cases, raw

from m3metrics.filters import FilterError, compile_filter, compile_pattern, parse_filter


def check_pattern(vector: Vector) -> None:
    pattern = vector["pattern"].encode()
    if "error" in vector:
        with pytest.raises(FilterError) as caught:
            compile_pattern(pattern)
        assert str(caught.value) == vector["error"]
        return
    compiled = compile_pattern(pattern)
    assert compiled.text == vector["string"]
    for text, expected in vector["matches"]:
        value = text.encode()
        assert compiled.matches(value) == expected, text
        if expected:
            # What the index of rules goes by.
            assert value.startswith(compiled.prefix)
            assert compiled.equals in (None, value)


def error_of(function: object, text: str) -> str | None:
    assert callable(function)
    try:
        function(text)
    except FilterError as error:
        return str(error)
    return None


def check_filter_text(vector: Vector) -> None:
    text = vector["text"]
    assert error_of(parse_filter, text) == vector.get("parse_error")
    assert error_of(compile_filter, text) == vector.get("validate_error")
    if "parsed" in vector:
        # The negation is part of the pattern here; M3 keeps the flag for filters that are not made of text.
        assert parse_filter(text) == {tag: item["pattern"] for tag, item in vector["parsed"].items()}
        assert not any(item["negate"] for item in vector["parsed"].values())


def check_tags_match(vector: Vector) -> None:
    compiled = compile_filter(vector["text"])
    first = dict(reversed([(raw(name), raw(value)) for name, value in vector["tags"]]))
    matches = compiled.matches if vector["op"] == "&&" else compiled.matches_any
    assert matches(first) == vector["match"]
    if vector["op"] == "&&":
        assert bool(compiled.mismatches(first)) != vector["match"]


CHECKS = {"pattern": check_pattern, "filter_text": check_filter_text, "tags_match": check_tags_match}


@pytest.mark.parametrize("vector", cases("coordinator/filters.jsonl", "kind"))
def test_filters(vector: Vector) -> None:
    CHECKS[vector["kind"]](vector)
