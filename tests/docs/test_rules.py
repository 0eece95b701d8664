"""docs/rules.md: each example says what the coordinator says. ``python -m tests.docs.test_rules`` writes the answers anew."""

import re
import textwrap
import time
from pathlib import Path

import pytest

from coordinator.config import load_coordinator
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.downsample.explain import explain, parse_metric, render
from coordinator.downsample.rule_file import DEFAULT_NAMESPACE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/rules.md"
_BLOCK = re.compile(r"```(yaml|text)\n(.*?)```\n", re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """Rules, and what stands below them."""
    found, rules = [], ""
    for kind, text in _BLOCK.findall(PAGE.read_text()):
        if kind == "yaml":
            rules = text
        else:
            found.append((rules, text))
    return found


def said(rules: str, metric: str, folder: Path) -> str:
    """What the coordinator says of a metric."""
    # The local file has rules of its own, which others take the place of.
    kinds = "".join(f"{kind}: []\n" for kind in ("mappingRules", "rollupRules") if kind not in rules)
    overlay = folder / "rules.yml"
    overlay.write_text("downsample:\n  rules:\n" + textwrap.indent(rules + kinds, "    "))
    config = load_coordinator([ROOT / "configs/local/m3coordinator.yml", overlay]).value
    assert config.downsample is not None
    assert config.downsample.rules is not None
    now_ns = time.time_ns()
    in_effect = RulesInEffect()
    in_effect.put(DEFAULT_NAMESPACE, rule_set_of(config.downsample.rules, now_ns))
    return render(explain(Downsampler.of(config, in_effect, now_ns), parse_metric(metric)))


@pytest.mark.parametrize(("rules", "text"), examples(), ids=lambda text: text.splitlines()[0])
def test_an_example_is_what_the_coordinator_says(rules: str, text: str, tmp_path: Path) -> None:
    assert text == said(rules, text.splitlines()[0], tmp_path)


def _write(folder: Path) -> None:
    rules = ""

    def renew(match: re.Match[str]) -> str:
        nonlocal rules
        if match[1] == "yaml":
            rules = match[2]
            return match[0]
        return f"```text\n{said(rules, match[2].splitlines()[0], folder)}```\n"

    PAGE.write_text(_BLOCK.sub(renew, PAGE.read_text()))


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        _write(Path(made))
