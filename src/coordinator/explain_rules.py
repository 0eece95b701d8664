"""``m3coordinator --explain-rules``: what changed rules would make of what a running coordinator has met in the last minutes.

The changed rules are those of the file, or rule sets as KV holds them: those of files (``--rule-set``) in the place of the running
coordinator's, which stay as they are otherwise. The file's carbon rules are compared as well.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coordinator.asking import Proofs, ProofsError, Running, UnreadableError
from coordinator.config import CoordinatorConfig
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.downsample.dry_run import DryRun
from coordinator.downsample.routes import SETS_PATH
from coordinator.downsample.rule_file import DEFAULT_NAMESPACE
from coordinator.write.carbon_dry_run import CarbonDryRun
from coordinator.write.carbon_rules import CarbonRulesError, rules_in
from coordinator.write.remembered import PATH as SERIES_PATH
from coordinator.write.remembered import series_of
from m3cluster.proto import JSONError, parse_json
from m3cluster.proto.rules import RULE_SET
from m3metrics.errors import MetricsError
from m3metrics.rules import RuleSet, rule_set_from
from m3x.config import parse_address

__all__ = ["ExplainError", "UnreadableError", "cutovers", "explain_rules", "rule_set_in"]


class ExplainError(Exception):
    """The changed rules cannot be used; the text says why."""


def explain_rules(config: CoordinatorConfig, rule_sets: Sequence[Path], url: str, proofs: Proofs) -> str:
    """What is to be printed. ``url``: of the running coordinator; empty: the one at the file's address. ``proofs``: what it is shown.

    Raises ``ExplainError``, ``UnreadableError``.
    """
    host, port = parse_address(config.listen_address)
    if "@" in urlsplit(url).netloc:
        raise ExplainError("an URL with a user or a password in it is not asked; leave them out")
    scheme = "https" if config.security.tls.mode == "enforced" else "http"
    url = url.rstrip("/") or f"{scheme}://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
    try:
        running = Running(url, proofs)
    except ProofsError as error:
        raise ExplainError(str(error)) from error
    ingester = config.carbon.ingester
    try:
        carbon = CarbonDryRun(ingester, rules_in(config))
    except CarbonRulesError as error:
        raise ExplainError(str(error)) from error
    rules, now_ns = _changed(config, rule_sets, running)
    run, seen = DryRun(Downsampler.of(config, rules, now_ns)), set()
    for page in _pages(running):
        try:
            for document in page["series"]:
                series, before = series_of(document)
                known = (*series.tags, series.metric_type, series.prom_type)
                if known not in seen:
                    seen.add(known)
                    run.take(series, before)
            for document in page.get("paths", ()):
                if document["path"] not in seen:
                    seen.add(document["path"])
                    carbon.take(document["path"].encode(), list(document["kept"]))
        except (ValueError, KeyError, TypeError, MetricsError) as error:
            raise UnreadableError(f"{url}{SERIES_PATH} cannot be read: {error or type(error).__name__}") from error
    return run.text() + carbon.text()


def _changed(config: CoordinatorConfig, files: Sequence[Path], running: Running) -> tuple[RulesInEffect, int]:
    """The changed rules, and the time when all of them are in effect."""
    rules, now_ns = RulesInEffect(), time.time_ns()
    section = config.downsample
    if section is not None and section.rules is not None:
        if files:
            raise ExplainError(
                "the file has downsample.rules, which win over rule sets in KV: leave out one of the two"
            )
        rules.put(DEFAULT_NAMESPACE, rule_set_of(section.rules, now_ns))
        return rules, now_ns
    # What is in KV, with the changed ones in their places.
    for document in running.get(SETS_PATH)["ruleSets"]:
        rule_set = rule_set_in(json.dumps(document["ruleSet"]), f"{running.url}{SETS_PATH}")
        rules.put(rule_set.namespace, rule_set)
    for file in files:
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ExplainError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        rule_set = rule_set_in(text, str(file))
        rules.put(rule_set.namespace, rule_set)
        now_ns = max(now_ns, *cutovers(rule_set))
    return rules, now_ns


def rule_set_in(text: str, where: str) -> RuleSet:
    """A rule set in JSON, as M3 writes it. Raises ``ExplainError``."""
    try:
        rule_set = rule_set_from(parse_json(RULE_SET, text))
    except (JSONError, MetricsError) as error:
        raise ExplainError(f"{where}: this is no rule set that would be loaded: {error}") from error
    if not rule_set.namespace:
        raise ExplainError(f"{where}: the rule set does not say whose it is: it needs a namespace")
    return rule_set


def cutovers(rule_set: RuleSet) -> Iterator[int]:
    """When its parts come into effect."""
    yield rule_set.cutover_ns
    yield from (snapshot.cutover_ns for mapping in rule_set.mapping_rules for snapshot in mapping.snapshots)
    yield from (snapshot.cutover_ns for rollup in rule_set.rollup_rules for snapshot in rollup.snapshots)


def _pages(running: Running) -> Iterator[dict[str, Any]]:
    after = 0
    while after is not None:
        page = running.get(f"{SERIES_PATH}?after={after}")
        yield page
        after = page["next"]
