"""Carbon rules as namespaces come and go."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.config import CoordinatorConfig, Namespace, load_coordinator
from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.write.carbon import CarbonIngester
from coordinator.write.carbon_follow import CarbonRules
from coordinator.write.series_cache import SeriesCache
from m3x.config import Places
from m3x.instrument import Registry

SECOND = 10**9
TEN, MINUTE = Namespace("ten", 10 * SECOND, 21600 * SECOND), Namespace("minute", 60 * SECOND, 172800 * SECOND)
CONFIG = """
clusters: [{client: {config: {service: {env: e, zone: z, service: m3db}}}}]
downsample:
  remoteAggregator: {client: {type: m3msg, m3msg: {producer: {writer: {topicName: t, topicServiceOverride: {zone: z, environment: e}}}}}}
carbon: {ingester: {rules: RULES}}
"""
NAMED = "[{pattern: '.*', policies: [{resolution: 10s, retention: 6h}]}]"


class Scene:
    def __init__(self, folder: Path, sink: Any, rules: str) -> None:
        file = folder / "coordinator.yml"
        file.write_text(CONFIG.replace("{rules: RULES}", f"{{rules: {rules}}}" if rules else "{}"))
        self.config: CoordinatorConfig = load_coordinator([file]).value
        self.sink = sink
        self.downsampler = Downsampler.of(self.config, RulesInEffect(), 0)
        cache, scope = SeriesCache(4096, 8 << 20), Registry().scope("carbon")
        self.core = CarbonIngester(None, self.downsampler, cache, sink, scope)
        self.rules = CarbonRules(self.config, Places(), self.core, None)

    def put(self, *namespaces: Namespace) -> None:
        self.downsampler.set_namespaces(namespaces)
        self.rules.put(namespaces)

    async def policies(self) -> set[str]:
        """Where a line goes."""
        del self.sink.metrics[:]
        assert await self.core.ingest(np.frombuffer(bytearray(b"a.b 1 1700000000\n"), np.uint8)) > 0
        return {
            str(policy)
            for metric in self.sink.metrics
            for pipeline in metric.metadatas[0].pipelines
            for policy in pipeline.storage_policies
        }


async def test_lines_wait_until_the_namespaces_of_their_rules_are_there(tmp_path: Path, sink: Any) -> None:
    scene = Scene(tmp_path, sink, NAMED)
    assert scene.rules.problems() == ["carbon: the namespaces are not known yet; lines wait"]
    line = asyncio.create_task(scene.policies())
    scene.put(MINUTE)
    (problem,) = scene.rules.problems()
    assert problem.startswith(
        "carbon: carbon.ingester.rules[0].policies[0]: there is no aggregated namespace 10s:6h; there are: 1m:2d"
    )
    assert problem.endswith("; lines wait")
    await asyncio.sleep(0)
    assert not line.done()
    scene.put(TEN)
    assert await line == {"10s:6h"}
    assert scene.rules.problems() == []


async def test_rules_that_do_not_go_with_the_namespaces_stay_as_they_were(tmp_path: Path, sink: Any) -> None:
    scene = Scene(tmp_path, sink, NAMED)
    scene.put(TEN)
    scene.put(MINUTE)
    (problem,) = scene.rules.problems()
    assert problem.endswith("; the rules stay as they were for the namespaces before")
    assert await scene.policies() == {"10s:6h"}


async def test_rules_that_name_no_policies_mean_all_that_there_are(tmp_path: Path, sink: Any) -> None:
    scene = Scene(tmp_path, sink, "")
    scene.put(TEN)
    assert await scene.policies() == {"10s:6h"}
    scene.put(TEN, MINUTE)
    assert await scene.policies() == {"10s:6h", "1m@1s:2d"}
