"""docs/storage.md: a coordinator starts with each of its configurations, and the figures that it names are shown."""

import re
from pathlib import Path

import httpx
import pytest
import yaml

from coordinator.config import load_coordinator
from coordinator.service import running

PAGE = (Path(__file__).parents[2] / "docs/storage.md").read_text()
CONFIGS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FIGURES = [
    name for line in PAGE.splitlines() if line.startswith("| `sink_") for name in re.findall(r"`(sink_\w+)", line)
]
LOOPBACK = {
    "listenAddress": "127.0.0.1:0",
    "metrics": {"prometheus": {"listenAddress": "127.0.0.1:0"}},
    "ingest": {"m3msg": {"server": {"listenAddress": "127.0.0.1:0"}}},
}


def test_there_is_a_configuration_for_each_kind_of_store() -> None:
    assert len(CONFIGS) == 4
    assert len(FIGURES) == 18


@pytest.mark.parametrize("text", CONFIGS, ids=lambda text: text.splitlines()[0])
async def test_a_coordinator_starts_with_it(text: str, tmp_path: Path) -> None:
    whole, overlay = tmp_path / "whole.yml", tmp_path / "overlay.yml"
    whole.write_text(text.replace("/var/log/m3", str(tmp_path)).replace("/var/lib/m3kv", str(tmp_path)))
    overlay.write_text(yaml.safe_dump(LOOPBACK))
    config = load_coordinator([whole, overlay]).value
    assert config.unsupported() == []
    async with running(config, tmp_path) as coordinator:
        names = {sink.called for sink in config.sinks}
        if config.prometheus_remote_backend is not None:
            names |= {endpoint.name for endpoint in config.prometheus_remote_backend.endpoints}
        if config.store == "m3db":
            names.add("m3db")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{coordinator.ports['http']}") as client:
            document = (await client.get("/api/v1/sinks")).json()
        assert {sink["name"] for sink in document["sinks"]} == names
        folders = {path.name for path in (tmp_path / "queues").iterdir()} if names else set()
        assert folders == names


def test_its_figures_are_those_of_the_code() -> None:
    source = "".join(path.read_text() for path in (Path(__file__).parents[2] / "src/coordinator/sinks").rglob("*.py"))
    counted = set(re.findall(r'\.(?:count|gauge)\("(\w+)"', source))
    assert {f"sink_{name}" for name in counted} == set(FIGURES)
