"""Requests beyond the golden vectors: where parameters come from, and which of two wins."""

from typing import Any

import pytest
from starlette.requests import Request

from coordinator.query import QueryError, ReadOptions
from coordinator.query.graphite.requests import ANY_NUMBER, read_find, read_render

S = 10**9
NOW_NS = 1_700_000_000 * S


def request(
    query: str,
    body: bytes = b"",
    *,
    headers: dict[str, str] | None = None,
    kind: str = "application/x-www-form-urlencoded",
) -> Request:
    sent = {"content-type": kind, **(headers or {})}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST" if body else "GET",
        "path": "/",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
    }
    return Request(scope, receive)


async def test_the_form_comes_before_the_url() -> None:
    asked = await read_render(
        request("target=b&maxDataPoints=5", b"target=a%2A&maxDataPoints=7&from=-2h"), ReadOptions(), NOW_NS
    )
    assert (asked.targets, asked.max_data_points) == (["a*", "b"], 7)
    assert (asked.from_ns, asked.until_ns) == (NOW_NS - 7185 * S, NOW_NS + 15 * S)
    alone = await read_render(request("target=b", b"target=a", kind="text/plain"), ReadOptions(), NOW_NS)
    assert (alone.targets, alone.max_data_points) == (["b"], ANY_NUMBER)


async def test_pairs_that_cannot_be_read_are_left_out() -> None:
    asked = await read_render(
        request("target=%zz&target=a;b&target=a+b&%gg=1&&target&target=%c3%a9%ff"), ReadOptions(), NOW_NS
    )
    assert asked.targets == ["a b", "", "é\N{REPLACEMENT CHARACTER}"]


async def test_headers_win_over_parameters() -> None:
    query = "query=a&limit=9&docsLimit=8&rangeLimit=1h&requireExhaustive=false&timeout=9s"
    defaults = ReadOptions(series_limit=100, timeout_s=30)
    by_query = (await read_find(request(query), defaults, NOW_NS)).options
    assert (by_query.series_limit, by_query.docs_limit, by_query.range_limit_ns) == (9, 8, 3600 * S)
    assert (by_query.require_exhaustive, by_query.timeout_s) == (False, 9)
    headers = {
        "M3-Limit-Max-Series": "-1", "M3-Limit-Max-Docs": "7", "M3-Limit-Max-Range": "2h", "M3-Limit-Require-Exhaustive": "true",
        "M3-Timeout": "4s", "timeout": "3s",
    }  # fmt: skip
    by_header = (await read_find(request(query, headers=headers), defaults, NOW_NS)).options
    assert (by_header.series_limit, by_header.docs_limit, by_header.range_limit_ns) == (0, 7, 7200 * S)
    assert (by_header.require_exhaustive, by_header.timeout_s) == (True, 4)
    assert (await read_find(request("query=a"), defaults, NOW_NS)).options == defaults
    signed = await read_find(request("query=a", headers={"M3-Limit-Max-Series": "+5"}), defaults, NOW_NS)
    assert signed.options.series_limit == 5


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("limit=x", 'could not parse value: input=x, err=strconv.Atoi: parsing "x": invalid syntax'),
        ("docsLimit=99999999999999999999", "value out of range"),
        ("rangeLimit=1", 'could not parse duration limit: input=1, err=time: missing unit in duration "1"'),
        ("rangeLimit=1x", 'time: unknown unit "x" in duration "1x"'),
        ("returnedSeriesLimit=1.5", "could not parse value: input=1.5"),
        ("requireExhaustive=perhaps", "could not parse limit: input=perhaps"),
        ("requireNoWait=perhaps", "could not parse no-wait: input=perhaps"),
        ("step=-5", "could not parse step: err=expected positive step size, instead got: -5000000000"),
        ("lookback=step", "could not parse lookback"),
        ("step=%20", "could not parse step"),
        ("timeout=0", "less than or equal to zero 0s"),
        ("offset=1h", "invalid 'offset': invalid relative time 1h"),
        ("compare=%2B1h", "'compare' must be in the past"),
        ("maxDataPoints=9223372036854775808", "invalid 'maxDataPoints': 9223372036854775808"),
    ],
)
async def test_what_is_refused(query: str, error: str) -> None:
    with pytest.raises(QueryError) as caught:
        await read_render(request(f"target=a&{query}"), ReadOptions(), NOW_NS)
    assert caught.value.status == 400
    assert error in str(caught.value)


async def test_a_range_is_within_64_bits() -> None:
    asked = await read_find(
        request("query=a&from=-9223372036854775808&until=9223372036854775807"), ReadOptions(), NOW_NS
    )
    assert asked.range_ms == (-9_223_372_036_855, 9_223_372_036_854)
