"""What clients such as Grafana ask a Prometheus beside data: which one it is, its rules, alerts, metadata, exemplars, the form of a query.

A coordinator evaluates no alerts and no recording rules, and keeps neither metadata nor exemplars. So these calls check what they are
given as Prometheus does, and answer as one that has none. Rules of the coordinator's own are under ``/api/v1/rules/match``.
"""

import promql_parser as promql
from starlette.requests import Request
from starlette.responses import Response

from coordinator.query.errors import QueryError
from coordinator.query.parameters import read_parameters
from coordinator.query.rendering import success
from coordinator.query.selector import parse_expression
from coordinator.query.source import EARLIEST_MS, LATEST_MS
from m3x.clock import wall_ns
from m3x.version import VERSION

__all__ = ["PROMETHEUS_VERSION", "AboutAPI"]

PROMETHEUS_VERSION = "3.0.0"
"""Of the API that is spoken: clients choose by it what they ask for (``limit``, ``match[]`` of label values)."""
_RULE_TYPES = ("", "alert", "record")


class AboutAPI:
    """The handlers; each takes a request and answers, or raises ``QueryError``."""

    async def buildinfo(self, _request: Request) -> Response:
        """``/api/v1/status/buildinfo``."""
        return _answer(
            {
                "version": PROMETHEUS_VERSION,
                "revision": VERSION,
                "branch": "m3coordinator",
                "buildUser": "",
                "buildDate": "",
                "goVersion": "",
            }
        )

    async def metadata(self, request: Request) -> Response:
        """``/api/v1/metadata``."""
        parameters = await read_parameters(request, 0)
        for name in ("limit", "limit_per_metric"):
            text = parameters.text(name)
            if text and not text.removeprefix("-").isdecimal():
                raise QueryError(f"invalid parameter {name!r}: {text!r} is not a number")
        return _answer({})

    async def rules(self, request: Request) -> Response:
        """``/api/v1/rules``."""
        kind = (await read_parameters(request, 0)).text("type").lower()
        if kind not in _RULE_TYPES:
            raise QueryError(f"invalid parameter 'type': {kind!r} is not supported; expected alert or record")
        return _answer({"groups": []})

    async def alerts(self, _request: Request) -> Response:
        """``/api/v1/alerts``."""
        return _answer({"alerts": []})

    async def exemplars(self, request: Request) -> Response:
        """``/api/v1/query_exemplars``; 204, as Prometheus answers it, of an expression that asks for no series."""
        parameters = await read_parameters(request, wall_ns() // 1_000_000)
        start_ms, end_ms = parameters.time_ms("start", EARLIEST_MS), parameters.time_ms("end", LATEST_MS)
        if end_ms < start_ms:
            raise QueryError("end timestamp must not be before start timestamp")
        if _asks_for_series(parse_expression(parameters.text("query"))):
            return _answer([])
        return Response(status_code=204)

    async def format(self, request: Request) -> Response:
        """``/api/v1/format_query``."""
        parameters = await read_parameters(request, 0)
        return _answer(parse_expression(parameters.text("query")).prettify())


def _asks_for_series(expression: promql.Expr) -> bool:
    """Whether there is a selector in it."""
    if isinstance(expression, promql.VectorSelector | promql.MatrixSelector):
        return True
    within = [getattr(expression, name, None) for name in ("expr", "lhs", "rhs", "param")]
    within += getattr(expression, "args", ())
    return any(isinstance(part, promql.Expr) and _asks_for_series(part) for part in within)


def _answer(data: object) -> Response:
    return Response(success(data), media_type="application/json")
