"""Alerts, recording rules, dashboards and runbook: valid, complete, and about what is served."""

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.m3_dashboard_names import own, rows
from tests.real_servers import require_binary

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy/prometheus", ROOT / "deploy/grafana"
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
DASHBOARDS = sorted(path.stem for path in GRAFANA.glob("*.json"))
_NAME = re.compile(r"\b(?:m3aggregator|coordinator|process)_\w+|\bm3:[\w:]+")
_PATTERN = re.compile(r'__name__=~"([^"]*)"')


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((PROMETHEUS / name).read_text())["groups"] for rule in group["rules"]]


ALERTS, RECORDS = rules("alerts.yml"), rules("rules.yml")


def dashboard(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((GRAFANA / f"{name}.json").read_text())
    return document


def expressions() -> Iterator[tuple[str, str]]:
    """Where an expression is, and the expression."""
    for rule in (*ALERTS, *RECORDS):
        yield rule.get("alert", rule.get("record")), rule["expr"]
    for name in DASHBOARDS:
        for panel in dashboard(name)["panels"]:
            for target in panel.get("targets", ()):
                yield f"{name}: {panel['title']}", target["expr"]


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [require_binary("promtool"), *arguments],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_alerts_and_rules() -> None:
    said = promtool("check", "rules", "alerts.yml", "rules.yml")
    assert f"{len(ALERTS)} rules found" in said
    assert f"{len(RECORDS)} rules found" in said


def test_every_alert_is_silent_then_fires() -> None:
    promtool("test", "rules", "alerts_test.yml")
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fires = {case["alertname"]: bool(case.get("exp_alerts")) for test in cases for case in test["alert_rule_test"]}
    assert fires == dict.fromkeys((rule["alert"] for rule in ALERTS), True)
    assert all(not test["alert_rule_test"][0].get("exp_alerts") for test in cases)


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    assert list(sections) == [rule["alert"] for rule in ALERTS]
    for name, text in sections.items():
        assert all(part in text for part in ("**Meaning.**", "**Look.**", "**Do.**")), name
    for rule in ALERTS:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_expressions_ask_for_what_is_served(where: str, expression: str) -> None:
    served = {*own(), *(row.name for row in rows() if row.served), *(rule["record"] for rule in RECORDS)}
    patterns = _PATTERN.findall(expression)
    for pattern in patterns:
        assert any(re.fullmatch(pattern, name) for name in served), (where, pattern)
    asked = _NAME.findall(re.sub(r'"[^"]*"', '""', expression))
    assert asked or patterns or re.search(r"\bup\b", expression), where
    assert set(asked) <= served, where


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_are_what_their_tables_say(name: str) -> None:
    spec = importlib.util.spec_from_file_location("make_dashboards", GRAFANA / "make.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert sorted(made.DASHBOARDS) == DASHBOARDS
    assert (GRAFANA / f"{name}.json").read_text() == made.text_of(name)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_are_documents_that_grafana_takes(name: str) -> None:
    document = dashboard(name)
    assert document["uid"] == f"m3-{name}"
    assert document["schemaVersion"] >= 36
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in document["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"labels"}
    assert used <= variables
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own_cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & own_cells, panel["title"]
        cells |= own_cells
        if panel["type"] != "row":
            assert panel["type"] == "timeseries"
            assert panel["targets"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
