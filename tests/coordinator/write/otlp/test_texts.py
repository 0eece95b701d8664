from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from tests.coordinator.write.otlp.requests import any_value

from coordinator.write.otlp.texts import number_text, value_text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"), ("", ""), (True, "true"), (False, "false"), (-3, "-3"), (b"\x00\xff", "AP8="), (None, ""),
        (1.0, "1"), (0.5, "0.5"), (1e-7, "1e-7"), (1.5e21, "1.5e+21"), (123456789.0, "123456789"), (0.0, "0"),
        (1e20, "100000000000000000000"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"),
        (float("nan"), "NaN"),
        ([], "[]"), (["a", 1, 1.0, 1e-7, True, None, b"\x00", b""], '["a",1,1,1e-7,true,null,"AA==",null]'),
        ({"b": 1, "a": {"c": "<&>\u2028\n"}}, '{"a":{"c":"<&>\\u2028\\n"},"b":1}'),
        ({"n": float("-inf")}, ""), ([[float("nan")]], ""),
    ],
)  # fmt: skip
def test_values(value: Any, expected: str) -> None:
    assert value_text(AnyValue(**any_value(value))) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (5.0, "5"), (0.005, "0.005"), (2.5, "2.5"), (1e-9, "0.000000001"), (1e22, "1" + "0" * 22), (0.0, "0"), (-1.0, "-1"),
        (float("inf"), "+Inf"),
    ],
)  # fmt: skip
def test_numbers_have_no_exponent(number: float, expected: str) -> None:
    assert number_text(number) == expected
