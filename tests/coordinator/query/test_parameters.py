"""What the headers and the parameters of a request say."""

import pytest
from starlette.requests import Request

from coordinator.query import QueryError, ReadOptions
from coordinator.query.parameters import Parameters, label_name, read_options
from coordinator.query.source import Restriction
from m3metrics.policy import StoragePolicy

DEFAULTS = ReadOptions(series_limit=100, timeout_s=30.0)


def options(**headers: str) -> ReadOptions:
    raw = [(name.replace("_", "-").lower().encode(), text.encode()) for name, text in headers.items()]
    return read_options(Request({"type": "http", "method": "GET", "headers": raw}), DEFAULTS)


def test_nothing_said() -> None:
    assert options() == DEFAULTS
    assert options(M3_Limit_Max_Series="") == DEFAULTS


def test_limits() -> None:
    found = options(
        M3_Limit_Max_Series="7", M3_Limit_Max_Docs="-1", M3_Limit_Max_Range="1h30m",
        M3_Limit_Require_Exhaustive="false", M3_Timeout="1m",
    )  # fmt: skip
    assert found == ReadOptions(
        series_limit=7, docs_limit=0, range_limit_ns=5400 * 10**9, require_exhaustive=False, timeout_s=60.0
    )
    assert options(M3_Limit_Max_Series="0").series_limit == 0


def test_restrictions() -> None:
    assert options(M3_Metrics_Type="unaggregated").restriction == Restriction(False)
    both = options(M3_Metrics_Type="aggregated", M3_Storage_Policy="10s:2d").restriction
    assert both == Restriction(True, StoragePolicy.parse("10s:48h"))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("M3_Metrics_Type", "x"), ("M3_Storage_Policy", "x"), ("M3_Limit_Max_Series", "x"), ("M3_Limit_Max_Series", "1_0"),
        ("M3_Limit_Max_Docs", "9" * 30), ("M3_Limit_Max_Range", "5"), ("M3_Limit_Require_Exhaustive", "perhaps"),
        ("M3_Timeout", "1h"), ("M3_Timeout", "0"), ("M3_Timeout", "-1s"),
    ],
)  # fmt: skip
def test_what_cannot_be(header: str, text: str) -> None:
    with pytest.raises(QueryError, match=header.replace("_", "-")) as caught:
        options(**{header: text})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("job", "job"), ("U__job", "job"), ("U__a_2e_b", "a.b"), ("U__a__b", "a_b"), ("U___e9_t_E9_", "été"), ("U___1f600_", "\U0001f600"),
        ("U__", ""), ("U__a_b", "U__a_b"), ("U__a_", "U__a_"), ("U__a_2x_", "U__a_2x_"),
        ("U___123456_", "U___123456_"), ("U___d800_", "U___d800_"),
        ("u__a_2e_b", "u__a_2e_b"), ("a_2e_b", "a_2e_b"),
    ],
)  # fmt: skip
def test_names_of_labels_in_paths(text: str, name: str) -> None:
    assert label_name(text) == name


def test_limits_and_durations() -> None:
    def given(**texts: str) -> Parameters:
        return Parameters(list(texts.items()), 0)

    assert [given(limit=text).limit() for text in ("", "0", "7")] == [0, 0, 7]
    assert given().limit() == 0
    assert [given(timeout=text).duration_ms("timeout") for text in ("1.5", "1m30s", "250ms", "-1")] == [
        1500,
        90_000,
        250,
        -1000,
    ]
    for text in ("-1", "1.5", "many", "9" * 30):
        with pytest.raises(QueryError, match="limit"):
            given(limit=text).limit()
    for text in ("", "soon", "1x", "nan", "9" * 5000 + "y"):
        with pytest.raises(QueryError, match="timeout"):
            given(timeout=text).duration_ms("timeout")
