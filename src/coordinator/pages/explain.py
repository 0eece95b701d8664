"""``/explain``: a metric typed in, and what becomes of it: rules that match and why the others do not, what is sent, where it goes."""

from collections.abc import Mapping
from html import escape
from typing import Any

from coordinator.downsample.explain import MetricTextError, explain, parse_metric, pipeline_line
from coordinator.matchers import Matcher, MatchOp
from coordinator.pages.leaders import Leaders, owners
from coordinator.pages.overview import aggregators
from coordinator.pages.shown import Shown
from coordinator.query import QueryError
from m3metrics.errors import MetricsError
from m3metrics.ids import decode_tags
from m3metrics.metric import PROM_TYPES, MetricType, parse_metric_type
from m3x.clock import wall_ns
from m3x.pages import frame, table

__all__ = ["render"]

_LINKS = {"the way of the data": ".", "stored series": "graph", "try rules": "rules", "as JSON": "api/v1/rules/match"}
_LAST_MS = 3_600_000
"""So far back the last value is looked for."""


async def render(shown: Shown, leaders: Leaders, asked: Mapping[str, str]) -> tuple[int, str]:
    """Status and page. ``asked``: ``metric``, ``type``, ``promType``, as ``/api/v1/rules/match`` has them."""
    text, kind, prom = (
        asked.get(name, default) for name, default in (("metric", ""), ("type", "gauge"), ("promType", "unknown"))
    )
    status, found = 200, ""
    if text.strip():
        try:
            if prom not in PROM_TYPES:
                raise MetricTextError(f"promType={prom!r} is not one of {', '.join(PROM_TYPES)}")
            shown.downsampler.advance(wall_ns())
            document = explain(shown.downsampler, parse_metric(text), parse_metric_type(kind), prom)
            found = await _document(shown, leaders, document)
        except (MetricTextError, MetricsError) as error:
            status, found = 400, f'<p class="trouble" role="alert">{escape(str(error))}</p>'
    body = _form(text, kind, prom) + found
    line = "Which rules match a metric, and why the others do not; what is sent to the aggregators, and who has it."
    return status, frame("Explain a metric – m3coordinator", "Explain a metric", "", line, body, _LINKS)


def _form(text: str, kind: str, prom: str) -> str:
    kinds = [one.name.lower() for one in MetricType if one.name.lower() in ("counter", "gauge", "timer")]
    return (
        f'<form action="explain"><label class="long">metric<input name="metric" value="{escape(text)}" required '
        f'placeholder=\'requests_total{{host="a",code="200"}}\'></label>'
        f'<label>type<select name="type">{_options(kinds, kind)}</select></label>'
        f'<label>Prometheus type<select name="promType">{_options(PROM_TYPES, prom)}</select></label><button>explain</button></form>'
    )


def _options(names: Any, chosen: str) -> str:
    return "".join(f"<option{' selected' if name == chosen else ''}>{escape(name)}</option>" for name in names)


async def _document(shown: Shown, leaders: Leaders, document: dict[str, Any]) -> str:
    tags = table(("label", "value"), ((escape(k), escape(v)) for k, v in document["matchedBy"].items()), (0, 1))
    rules = sorted(document["rules"], key=lambda rule: not rule["matches"])
    matching = sum(rule["matches"] for rule in rules)
    listed = (
        table(("rule", "kind", "filter", "matches", "what it asks for, or why not"), map(_rule, rules), range(5))
        if rules
        else "<p>There are no rules.</p>"
    )
    sent = "".join([await _sent(shown, leaders, one) for one in document["sent"]])
    unsent = (
        f'<p class="trouble">Nothing is sent to the aggregators: {escape(document["unsent"])}.</p>'
        if document["unsent"]
        else ""
    )
    version = f", version {document['ruleSetVersion']}" if document["ruleSetVersion"] else ""
    without = "<p>Samples are sent without their timestamps.</p>" if document["withoutTimestamp"] else ""
    return (
        f"<h2>What rules are matched against</h2>{tags}"
        f"<h2>Rules: {matching} of {len(rules)} match</h2><p>Namespace {escape(document['namespace'])}{escape(version)}; "
        f"{escape(document['drop'])}.</p>{listed}<h2>What is sent</h2>{without}{unsent}{sent}"
    )


def _rule(rule: dict[str, Any]) -> tuple[str, ...]:
    if rule["matches"]:
        parts = [rule["asks"]] if "asks" in rule else rule["targets"]
        lines = [pipeline_line(part) for part in parts] + ([f"ignored: {rule['ignored']}"] if "ignored" in rule else [])
    else:
        lines = rule["because"]
    return (
        escape(rule["name"]),
        rule["kind"],
        f"<code>{escape(rule['filter'])}</code>",
        "yes" if rule["matches"] else "no",
        "<br>".join(map(escape, lines)),
    )


async def _sent(shown: Shown, leaders: Leaders, sent: dict[str, Any]) -> str:
    ident = bytes.fromhex(sent["id"])
    rows = [(escape(pipeline_line(one)),) for one in sent["pipelines"]]
    where = await _where(shown, leaders, ident)
    rolled = " (rolled up)" if sent["rolledUp"] else ""
    return (
        f"<h3><code>{escape(sent['metric'])}</code>{rolled}</h3>{table(('aggregations and storage policies',), rows)}"
        f"<p>{escape(where)} {await _last_value(shown, ident)}</p>"
    )


async def _where(shown: Shown, leaders: Leaders, ident: bytes) -> str:
    found = aggregators(shown)
    if found is None:
        return "No placement of aggregators is known."
    service, placement = found
    shard, instances = owners(placement, ident)
    leading = await leaders.of(service, {number for _, number in instances})
    named = [f"{name} (leads)" if leading.get(number) == name else name for name, number in instances]
    return f"Shard {shard}, held by {', '.join(named) or 'nobody'}."


async def _last_value(shown: Shown, ident: bytes) -> str:
    """The newest stored values of series with these labels, as HTML."""
    if shown.source is None:
        return "Stored values cannot be read here."
    try:
        tags = decode_tags(ident)
        matchers = [Matcher(MatchOp.EQUAL, name, value) for name, value in tags]
        now_ms = wall_ns() // 10**6
        found = await shown.source.select(matchers, now_ms - _LAST_MS, now_ms, shown.read_options)
    except (QueryError, MetricsError, ValueError) as error:
        return f"Stored values cannot be read: {escape(str(error))}"
    if not len(found):
        return "Nothing is stored with these labels in the last hour."
    newest = int(found.offsets[1]) - 1
    age_s = (wall_ns() // 10**6 - int(found.time_ms[newest])) / 1000
    return f"Last stored value: {found.values[newest]:g}, {age_s:.0f} s ago ({len(found)} series with these labels)."
