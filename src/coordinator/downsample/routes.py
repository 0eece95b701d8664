"""``GET /api/v1/rules/match``: which rules a metric matches, and why. ``GET /api/v1/rules/sets``: the rule sets in KV. Not calls of M3."""

import json
import time
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from coordinator.downsample.appender import Downsampler
from coordinator.downsample.explain import MetricTextError, explain, parse_metric, render
from m3cluster.proto import decode, render_json
from m3cluster.proto.rules import RULE_SET
from m3metrics.errors import MetricsError
from m3metrics.metric import PROM_TYPES, parse_metric_type

PATH = "/api/v1/rules/match"
SETS_PATH = "/api/v1/rules/sets"


def rules_routes(downsampler: Downsampler) -> list[Route]:
    """The route. Query: ``metric`` (``name{label="value"}``), ``type`` (gauge), ``promType`` (unknown), ``format`` (json, text)."""

    async def match(request: Request) -> Response:
        query = request.query_params
        if "metric" not in query:
            return _bad('metric is missing; ask like ?metric=requests_total{host="a"}&format=text')
        prom_type, form = query.get("promType", "unknown"), query.get("format", "json")
        if prom_type not in PROM_TYPES:
            return _bad(f"promType={prom_type!r} is not one of {', '.join(PROM_TYPES)}")
        if form not in ("json", "text"):
            return _bad(f"format={form!r} is not json or text")
        downsampler.advance(time.time_ns())
        try:
            metric_type = parse_metric_type(query.get("type", "gauge"))
            document = explain(downsampler, parse_metric(query["metric"]), metric_type, prom_type)
        except (MetricTextError, MetricsError) as error:
            return _bad(str(error))
        return PlainTextResponse(render(document)) if form == "text" else JSONResponse(document)

    return [Route(PATH, match, methods=["GET"])]


def rule_sets_route(stored: Callable[[], Mapping[str, tuple[int, bytes]]] | None) -> Route:
    """``{"source": "kv", "ruleSets": [{"version": …, "ruleSet": …}]}``: what is in effect, by namespace, as M3 writes it in JSON.

    ``stored``: version and value of each; None: rules come from the file, and nothing is listed.
    """

    async def sets(_: Request) -> Response:
        found = [
            {"version": version, "ruleSet": json.loads(render_json(RULE_SET, decode(RULE_SET, data)))}
            for _, (version, data) in sorted(stored().items() if stored is not None else ())
        ]
        return JSONResponse({"source": "file" if stored is None else "kv", "ruleSets": found})

    return Route(SETS_PATH, sets, methods=["GET"])


def _bad(text: str) -> Response:
    return JSONResponse({"status": "error", "error": text}, 400)
