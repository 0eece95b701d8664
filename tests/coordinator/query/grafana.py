"""What Grafana sends to a Prometheus data source, and what a Prometheus answers: written down by hand, and compared with a real one.

``SERIES`` are what there is, at seconds relative to a base time; ``calls`` are the requests, by the part of Grafana that sends them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SERIES", "Call", "calls"]

STEP_S = 15
SERIES: list[tuple[dict[str, str], list[tuple[int, float]]]] = [
    ({"__name__": "up", "instance": "a:9100", "job": "node"}, [(-60 + STEP_S * k, 1.0) for k in range(5)]),
    ({"__name__": "up", "instance": "b:9100", "job": "node"}, [(-60 + STEP_S * k, 0.0) for k in range(5)]),
    ({"__name__": "requests_total", "code": "200", "job": "api"}, [(-60 + STEP_S * k, 10.0 * k) for k in range(5)]),
    ({"__name__": "requests_total", "code": "503", "job": "api"}, [(-60 + STEP_S * k, k / 2) for k in range(5)]),
]
UP_A, UP_B, OK, FAILED = (tags for tags, _ in SERIES)
_CUT = ["results truncated due to limit"]


@dataclass(frozen=True)
class Call:
    """A request and its answer."""

    who: str
    """The part of Grafana."""
    method: str
    path: str
    """Below the data source's address."""
    params: Sequence[tuple[str, Any]] = ()
    """In the URL of a GET, in the form of a POST."""
    data: Any = None
    status: int = 200
    error_type: str = ""
    warnings: list[str] = field(default_factory=list)
    recent: bool = False
    """Whether only Prometheus 3 answers so."""


def calls(base_s: int) -> list[Call]:
    """All requests, for a base time."""
    span = (("start", base_s - 60), ("end", base_s))
    limited = (*span, ("limit", 40_000))
    return [*_save_and_test(), *_editors(span, limited), *_data(base_s), *_constants(base_s), *_mistakes(base_s)]


def _save_and_test() -> list[Call]:
    return [
        Call("health check", "POST", "/api/v1/query", [("query", "1+1"), ("time", 4)], _value("scalar", 4, "2")),
        Call("health check", "GET", "/api/v1/query", [("query", "1+1"), ("time", 4)], _value("scalar", 4, "2")),
        Call("heuristics", "GET", "/api/v1/status/buildinfo"),
        Call("alerting", "GET", "/api/v1/rules", [], {"groups": []}),
        Call("alerting", "GET", "/api/v1/rules", [("type", "record")], {"groups": []}),
        Call("alerting", "GET", "/api/v1/alerts", [], {"alerts": []}),
    ]


def _editors(span: Sequence[tuple[str, Any]], limited: Sequence[tuple[str, Any]]) -> list[Call]:
    """Metrics browser, query builder, variable editor."""
    all_names, names = ["__name__", "code", "instance", "job"], ["requests_total", "up"]
    one_name = (("limit", 1), *span)
    return [
        Call("metrics browser", "GET", "/api/v1/label/__name__/values", limited, names),
        Call("metrics browser", "POST", "/api/v1/labels", limited, all_names),
        Call("metrics browser", "GET", "/api/v1/labels", limited, all_names),
        Call("metrics browser", "POST", "/api/v1/labels", one_name, ["__name__"], warnings=_CUT, recent=True),
        Call("metrics browser", "GET", "/api/v1/label/__name__/values", one_name, names[:1], warnings=_CUT, recent=True),
        Call("metrics browser", "POST", "/api/v1/series", [*limited, ("match[]", '{__name__!=""}')], [OK, FAILED, UP_A, UP_B]),
        Call("metrics browser", "GET", "/api/v1/label/__name__/values", [("start", 1), ("end", 2)], []),
        Call("metrics browser", "POST", "/api/v1/labels", [("start", 1), ("end", 2)], []),
        Call("query builder", "POST", "/api/v1/labels", [*limited, ("match[]", "up")], ["__name__", "instance", "job"]),
        Call("query builder", "GET", "/api/v1/label/code/values", [*limited, ("match[]", '{job="api"}')], ["200", "503"]),
        Call("query builder", "GET", "/api/v1/label/job/values", [*limited, ("match[]", 'up{instance="a:9100"}')], ["node"]),
        Call("query builder", "GET", "/api/v1/label/U__job/values", limited, ["api", "node"], recent=True),
        Call("query builder", "GET", "/api/v1/label/U__http_2e_status/values", limited, [], recent=True),
        Call("query builder", "GET", "/api/v1/metadata", [("limit", 40_000)], {}),
        Call("query builder", "GET", "/api/v1/metadata", [("metric", "up")], {}),
        Call("code editor", "GET", "/api/v1/format_query", [("query", "sum(rate(up[5m]))by(job)")], "sum by (job) (rate(up[5m]))"),
        Call("code editor", "POST", "/api/v1/format_query", [("query", "foo/bar")], "foo / bar"),
        Call("variable: label_names()", "POST", "/api/v1/labels", span, all_names),
        Call("variable: label_values(job)", "GET", "/api/v1/label/job/values", span, ["api", "node"]),
        Call("variable: label_values(up, job)", "GET", "/api/v1/label/job/values", [*span, ("match[]", "up")], ["node"]),
        Call("variable: label_values(nothing, job)", "GET", "/api/v1/label/job/values", [*span, ("match[]", "nothing")], []),
        Call("variable: series", "POST", "/api/v1/series", [*span, ("match[]", "up"), ("match[]", '{code="503"}')], [FAILED, UP_A, UP_B]),
        Call("variable: label_names(up)", "POST", "/api/v1/series", [*span, ("match[]", '{__name__=~".*up.*"}')], [UP_A, UP_B]),
        Call("variable: series", "GET", "/api/v1/series", [*span, ("match[]", "nothing")], []),
    ]  # fmt: skip


def _data(base_s: int) -> list[Call]:
    """Explore, panels, annotations, exemplars."""
    now, span = ("time", f"{base_s}.25"), (("start", base_s - 30), ("end", base_s), ("step", 15))
    at = base_s + 0.25
    ups = [_row(UP_A, value=[at, "1"]), _row(UP_B, value=[at, "0"])]
    one = _result("vector", ups[0])
    failures = _row(FAILED, values=[[base_s - 30, "1"], [base_s - 15, "1.5"], [base_s, "2"]])
    return [
        Call("explore", "POST", "/api/v1/query", [("query", "up"), now], _result("vector", *ups)),
        Call("explore", "GET", "/api/v1/query", [("query", "up"), now], _result("vector", *ups)),
        Call("explore", "POST", "/api/v1/query", [("query", "nothing"), now], _result("vector")),
        Call("explore", "POST", "/api/v1/query", [("query", 'requests_total{code=~"5.."}[40s]'), now], _result("matrix", failures)),
        Call("explore", "POST", "/api/v1/query", [("query", "up"), now, ("limit", 1)], one, warnings=_CUT, recent=True),
        Call("variable: query_result(up)", "POST", "/api/v1/query", [("query", "up"), now, ("timeout", "30s")], _result("vector", *ups)),
        Call("panel", "POST", "/api/v1/query_range", [("query", 'requests_total{code="503"}'), *span], _result("matrix", failures)),
        Call("panel", "GET", "/api/v1/query_range", [("query", 'requests_total{code="503"}'), *span], _result("matrix", failures)),
        Call("panel", "POST", "/api/v1/query_range", [("query", "nothing"), *span], _result("matrix")),
        Call("panel", "POST", "/api/v1/query_range", [("query", "nothing"), ("start", 0), ("end", 11_000), ("step", 1)], _result("matrix")),
        Call("annotation", "POST", "/api/v1/query_range", [("query", 'up{job="none"}'), *span[:2], ("step", 60)], _result("matrix")),
        Call("start-up", "GET", "/api/v1/query_exemplars", [("query", "test"), ("start", base_s - 1800), ("end", base_s)], []),
        Call("exemplars", "POST", "/api/v1/query_exemplars", [("query", "up"), *span[:2]], []),
        Call("exemplars", "GET", "/api/v1/query_exemplars", [("query", "sum(rate(up[5m]))"), *span[:2]], []),
        Call("exemplars", "GET", "/api/v1/query_exemplars", [("query", "1+1"), *span[:2]], status=204),
    ]  # fmt: skip


def _constants(base_s: int) -> list[Call]:
    now, span = ("time", base_s), (("start", base_s - 30), ("end", base_s), ("step", 15))
    times = [base_s - 30, base_s - 15, base_s]
    answers = {
        "1": _value("scalar", base_s, "1"), "-0": _value("scalar", base_s, "-0"), "1/0": _value("scalar", base_s, "+Inf"),
        "0/0": _value("scalar", base_s, "NaN"), "10^-3": _value("scalar", base_s, "0.001"), "5 % -3": _value("scalar", base_s, "2"),
        "2^3^2 > bool 5": _value("scalar", base_s, "1"), "time()": _value("scalar", base_s, str(base_s)),
        "pi()": _value("scalar", base_s, "3.141592653589793"), '"text"': _value("string", base_s, "text"),
        "vector(1)": _result("vector", _row({}, value=[base_s, "1"])), "vector(1) == 2": _result("vector"),
        "1 < vector(2)": _result("vector", _row({}, value=[base_s, "2"])),
        "vector(1) == 2 or vector(0)": _result("vector", _row({}, value=[base_s, "0"])),
    }  # fmt: skip
    ranges = {
        "1+1": _result("matrix", _row({}, values=[[time, "2"] for time in times])),
        "vector(0)": _result("matrix", _row({}, values=[[time, "0"] for time in times])),
        "time()": _result("matrix", _row({}, values=[[time, str(time)] for time in times])),
        "vector(1) == 2": _result("matrix"),
    }
    return [
        *(Call("constant", "POST", "/api/v1/query", [("query", text), now], data) for text, data in answers.items()),
        *(
            Call("constant", "POST", "/api/v1/query_range", [("query", text), *span], data)
            for text, data in ranges.items()
        ),
    ]


def _mistakes(base_s: int) -> list[Call]:
    span = (("start", base_s - 30), ("end", base_s), ("step", 15))
    bad: list[tuple[str, Sequence[tuple[str, Any]]]] = [
        ("query", []),
        ("query", [("query", "sum(up")]),
        ("query", [("query", "up"), ("time", "x")]),
        ("query", [("query", "up"), ("timeout", "x")]),
        ("query", [("query", "1 == 1")]),
        ("query", [("query", '"a" + 1')]),
        ("query", [("query", "vector(up)")]),
        ("query_range", [("query", "up[1m]"), *span]),
        ("query_range", [("query", '"text"'), *span]),
        ("query_range", [("query", "up")]),
        ("query_range", [("query", "up"), *span[:2], ("step", 0)]),
        ("query_range", [("query", "up"), ("start", 0), ("end", 11_001), ("step", 1)]),
        ("series", []),
        ("series", [("match[]", "{}")]),
        ("series", [("match[]", "up[1m]")]),
        ("series", [("match[]", "up"), ("match[]", "1")]),
        ("labels", [("match[]", "{")]),
        ("labels", [("match[]", "up offset 5m")]),
        ("labels", [("start", "x")]),
        ("label/job/values", [("match[]", "sum(up)")]),
        ("query_exemplars", []),
        ("query_exemplars", [("query", "up"), ("start", 2), ("end", 1)]),
        ("format_query", []),
        ("format_query", [("query", "sum(")]),
        ("metadata", [("limit", "x")]),
        ("rules", [("type", "x")]),
    ]
    return [
        Call("mistake", "GET", f"/api/v1/{path}", params, status=400, error_type="bad_data") for path, params in bad
    ]


def _value(kind: str, time: float, text: str) -> dict[str, Any]:
    return {"resultType": kind, "result": [time, text]}


def _result(kind: str, *rows: dict[str, Any]) -> dict[str, Any]:
    return {"resultType": kind, "result": list(rows)}


def _row(metric: dict[str, str], **points: Any) -> dict[str, Any]:
    return {"metric": metric, **points}
