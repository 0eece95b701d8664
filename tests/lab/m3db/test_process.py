"""A played node as a process: told over its side port, and what it holds survives it where it is told to keep it."""

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest
from lab.errors import LabError
from lab.m3db.faults import Fault, Kind
from lab.m3db.namespaces import SECOND_NS, Namespace
from lab.m3db.node import Node
from lab.m3db.process import NodeProcess
from tests.lab.m3db.client import Client, Heard, batch, element

NAMESPACES = [Namespace("default"), Namespace("other", resolution_ns=SECOND_NS)]
pytestmark = pytest.mark.integration


def write_at(at_s: int, node: NodeProcess, value: float, timeout_s: float = 5.0) -> Heard:
    async def run() -> Heard:
        client = await Client.connect(Node(address=node.address))
        try:
            return await client.call(
                "writeTaggedBatchRaw", batch("other", [element([(b"a", b"b")], at_s, value)]), timeout_s
            )
        finally:
            client.close()

    return asyncio.run(run())


def held(node: NodeProcess) -> list[tuple[bytes, float]]:
    return [(series.id, point.value) for series in node.series("other") for point in series.points()]


def test_a_process_is_told_and_says_what_it_holds(tmp_path: Path) -> None:
    write = partial(write_at, int(time.time()))
    with NodeProcess("one", tmp_path, NAMESPACES, keeps=True) as node:
        assert write(node, 1.0).code == 0
        node.fault("writeTaggedBatchRaw", Fault(Kind.FRAME, code=3, times=1))
        assert (write(node, 2.0).type, write(node, 3.0).code) == (0xFF, 0)
        assert held(node) == [(b'{a="b"}', 3.0)]
        node.set_clock(-3600 * SECOND_NS)
        assert b"too far in future" in write(node, 4.0).payload
        node.set_clock(0)
        node.own([])
        assert b"not responsible for shard" in write(node, 5.0).payload
        node.own(None)
        node.take_namespaces(NAMESPACES[:1])
        assert write(node, 6.0).type == 0xFF
        assert node.take_violations() == ["namespace 'other', which there is not"]
        assert node.take_violations() == []
        node.take_namespaces(NAMESPACES)
        with pytest.raises(LabError, match="does not take fault"):
            node._tell("fault", {"method": "x", "fault": {"kind": "none"}})
        node.listen(False)
        with pytest.raises(OSError, match="Connect call failed"):
            write(node, 7.0)
        node.kill()
        node.start()
        assert held(node) == [(b'{a="b"}', 3.0)]
        assert write(node, 8.0).code == 0
        assert node.state()["calls"] == {"writeTaggedBatchRaw": 1}
