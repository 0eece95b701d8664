"""``/rules``: what changed rules would make of the series that the coordinator has met, before they are in effect."""

import asyncio
import tempfile
import time
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request

from coordinator.config.rules import RulesConfig
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.downsample.dry_run import MOST_LINES, DryRun
from coordinator.downsample.rule_file import DEFAULT_NAMESPACE
from coordinator.explain_rules import ExplainError, cutovers, rule_set_in
from coordinator.pages.shown import Shown
from coordinator.write.remembered import series_of
from m3metrics.errors import MetricsError
from m3x.clock import wall_ns
from m3x.config import ConfigError, load
from m3x.pages import amount, frame, table

__all__ = ["PATH", "RulesPage"]

PATH = "/rules"
_LINKS = {"the way of the data": ".", "explain a metric": "explain", "rule sets in the KV": "api/v1/rules/sets"}
_MOST_BYTES = 1 << 20
_LONGEST_S = 5.0
"""So long series are looked at."""
_PLACEHOLDER = """mappingRules:
  - name: requests by the minute
    filter: "__name__:http_requests_total"
    aggregations: [Sum]
    storagePolicies: [{resolution: 1m, retention: 40d}]"""


class RulesPage:
    """The page; one dry run at a time."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._busy = asyncio.Lock()

    async def render(self, request: Request) -> tuple[int, str]:
        """Status and page: the form, and with a body what its ``rules`` would change."""
        text, status, found = "", 200, ""
        if request.method == "POST":
            try:
                text = await _rules_of(request)
                async with self._busy:
                    found = await self._dry_run(text)
            except ExplainError as error:
                lines = "".join(f"<li>{escape(line)}</li>" for line in str(error).splitlines())
                status, found = 400, f'<ul class="trouble" role="alert">{lines}</ul>'
        line = "What changed rules would add and remove. Nothing is changed: the rules in effect stay as they are."
        return status, frame(
            "Try rules – m3coordinator", "Try rules", "", line, _form(text) + found, _LINKS, looks=False
        )

    async def _dry_run(self, text: str) -> str:
        """What it says, as HTML. Raises ``ExplainError``."""
        shown = self._shown
        if shown.remembered is None:
            raise ExplainError("this coordinator takes no samples: it has met no series")
        now_ns = wall_ns()
        shown.downsampler.advance(now_ns)
        rules, now_ns = await asyncio.to_thread(_changed, shown.downsampler.rules, text, now_ns)
        run, seen = DryRun(Downsampler.of(shown.config, rules, now_ns)), set()
        until_s, after, whole = time.monotonic() + _LONGEST_S, 0, True
        while True:
            page = await shown.remembered(after)
            for document in page.series:
                series, before = series_of(document)
                known = (*series.tags, series.metric_type, series.prom_type)
                if known not in seen:
                    seen.add(known)
                    _take(run, document, before)
            if page.next is None:
                break
            after = page.next
            if time.monotonic() > until_s:
                whole = False
                break
            await asyncio.sleep(0)
        return _document(run, whole)


def _take(run: DryRun, document: dict[str, object], before: Iterable[str]) -> None:
    try:
        run.take(series_of(document)[0], before)
    except MetricsError:
        return


async def _rules_of(request: Request) -> str:
    """What the form has sent. Raises ``ExplainError``."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise ExplainError(f"more than {_MOST_BYTES >> 20} MiB of rules")
    except ClientDisconnect:
        raise ExplainError("the request ended early") from None
    try:
        text = parse_qs(body.decode(), max_num_fields=4).get("rules", [""])[0].replace("\r\n", "\n")
    except ValueError as error:
        raise ExplainError(f"this is no form: {error}") from error
    if not text.strip():
        raise ExplainError("no rules: what would change if there were none is seen with rollupRules: []")
    return text


def _changed(current: RulesInEffect, text: str, now_ns: int) -> tuple[RulesInEffect, int]:
    """The rules in effect with the changed ones in their place, and the time when these are in effect. Raises ``ExplainError``."""
    if text.lstrip().startswith("{"):
        rule_set = rule_set_in(text, "the rules")
        return current.changed(rule_set.namespace, rule_set), max(now_ns, *cutovers(rule_set))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rules"
        file.write_text(text)
        try:
            # Nothing of our environment is put into them.
            config = load([file], RulesConfig, {}).value
        except ConfigError as error:
            raise ExplainError(
                "\n".join(one.replace(f"{file}", "line ").replace("line :", "line ") for one in error.problems)
            ) from error
    try:
        return current.changed(DEFAULT_NAMESPACE, rule_set_of(config, now_ns)), now_ns
    except MetricsError as error:
        raise ExplainError(str(error)) from error


def _form(text: str) -> str:
    return (
        f'<form action="rules" method="post"><label class="long">rules: what stands below downsample.rules of the file, or a rule set of '
        f'the KV as JSON<textarea name="rules" rows="14" required spellcheck="false" placeholder="{escape(_PLACEHOLDER)}">{escape(text)}'
        "</textarea></label><button>try</button></form>"
    )


def _document(run: DryRun, whole: bool) -> str:
    added, removed = run.changes.added, run.changes.removed
    of = (
        "all series"
        if whole
        else f"the first series ({_LONGEST_S:.0f} seconds of looking; m3coordinator --explain-rules looks at all)"
    )
    rows = [
        (
            escape(name),
            kind,
            amount(matched) if matched else '<span class="trouble">none</span>',
            amount(made) if kind == "rollup" else "",
        )
        for kind, name, matched, made in run.rules()
    ]
    listed = (
        table(("rule", "kind", "series that match", "series it makes"), rows, (0, 1))
        if rows
        else "<p>There are no rules.</p>"
    )
    return (
        f"<h2>Of {amount(run.series)} series</h2><p>{of.capitalize()} of the last minutes over HTTP; carbon has "
        f"rules of its own.</p>{listed}{_lines('Added', added)}{_lines('Removed', removed)}"
    )


def _lines(title: str, lines: dict[str, int]) -> str:
    if not lines:
        return f"<h2>{title}: nothing</h2>"
    ordered = sorted(lines.items(), key=lambda item: (-item[1], item[0]))
    rows = [(f"<code>{escape(line)}</code>", amount(count)) for line, count in ordered[:MOST_LINES]]
    more = f"<p>And {len(ordered) - MOST_LINES:,} more.</p>" if len(ordered) > MOST_LINES else ""
    return f"<h2>{title}: {len(ordered):,}</h2>{table(('what is sent: id, aggregations, policy', 'of series'), rows)}{more}"
