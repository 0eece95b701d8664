"""An instance with everything around it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.aggregator.supervisor.instance_rig import Recorder, Rig

from m3cluster.kv import Embedded, open_store
from m3msg.consumer import ConsumerServer


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    store = await open_store(Embedded(tmp_path / "kv.sqlite"))
    recorder = Recorder()
    async with ConsumerServer("127.0.0.1:0", recorder.take) as server:
        made = Rig(tmp_path, store, recorder, server.port)
        await made.write_cluster()
        client = asyncio.create_task(made.client.run())
        try:
            yield made
        finally:
            client.cancel()
            await asyncio.wait([client])
            await made.close()
            await store.close()
            print(made.log())
