"""What the headers of a request say."""

import pytest
from starlette.requests import Request

from coordinator.query import QueryError, ReadOptions
from coordinator.query.parameters import read_options
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
