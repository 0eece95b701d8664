"""The calls of docs/cluster.md and docs/setting_up.md, as they stand there but for the address, against a coordinator."""

import asyncio
from pathlib import Path

import pytest
import yaml
from tests.docs.blocks import ROOT, RUN, run_commands
from tests.docs.test_storage import LOOPBACK

from coordinator.config import load_coordinator
from coordinator.service import running
from m3cluster.keys import placement_key
from m3cluster.kv import open_store

ENVIRONMENT = "namespace/m3db-cluster-name"
GROWING = "m3aggregator03"
"""In the call that has to come two minutes after the others: tests/configs/test_cluster_configs.py makes it with a clock of its own."""
PAGES = [page for page, test in RUN.items() if test == str(Path(__file__).relative_to(ROOT))]


@pytest.mark.parametrize("page", PAGES)
async def test_the_calls_of_a_page_are_answered_well(page: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yml"
    overlay.write_text(yaml.safe_dump({**LOOPBACK, "carbon": {"ingester": {"listenAddress": "127.0.0.1:0"}}}))
    config = load_coordinator([ROOT / "configs/local/m3coordinator.yml", overlay]).value
    async with running(config, tmp_path) as coordinator:
        base = f"http://127.0.0.1:{coordinator.ports['http']}"
        await asyncio.to_thread(run_commands, page, {"http://m3coordinator01:7201": base}, but=GROWING)
        store = await open_store(config.cluster_state.store(tmp_path))
        try:
            for service in ("m3aggregator", "m3coordinator"):
                assert await store.get(placement_key(ENVIRONMENT, service)) is not None
        finally:
            await store.close()
