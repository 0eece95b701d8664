"""Channels and child processes with real sockets and processes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq
from lab.waiting import until

from aggregator.supervisor.processes.channels import Channel
from m3x.processes.child import Child


@pytest.fixture
async def context() -> AsyncIterator["zmq.Context[zmq.Socket[bytes]]"]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


async def test_messages_go_both_ways_whoever_comes_first(context, tmp_path: Path) -> None:
    address, got = f"ipc://{tmp_path}/a", []
    channel = Channel(context, address, lambda frames: got.append([f.bytes for f in frames]), lambda: None)
    for i in range(2500):
        channel.send(b"%d" % i)
    assert channel.waiting > 0
    peer = context.socket(zmq.PAIR)
    peer.connect(address)
    peer.send_multipart([b"head", b"body"])
    received = []

    def drain() -> bool:
        while peer.poll(0):
            received.append(int(peer.recv()))
        return len(received) == 2500

    await until(drain)
    assert received == list(range(2500))
    for i in range(1000):
        peer.send(b"%d" % i)
    await until(lambda: len(got) == 1001)
    assert got[0] == [b"head", b"body"]
    assert channel.waiting == 0
    channel.close()
    peer.close(linger=0)
    channel.send(b"after the end")
    channel.close()


async def test_a_peer_that_never_reads_is_reported_and_memory_stays_bounded(context, tmp_path: Path) -> None:
    stuck = []
    channel = Channel(context, f"ipc://{tmp_path}/b", lambda frames: None, lambda: stuck.append(1))
    for _ in range(10_005):
        channel.send(b"x")
    assert (channel.waiting, len(stuck)) == (10_000, 5)
    channel.close()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_child.py").write_text(
        "import pathlib, sys, time\nwhere = pathlib.Path(sys.argv[2])\n"
        "mode = where.read_text()\nif mode == 'end':\n    sys.exit(3)\ntime.sleep(3600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert sys.executable
    return "a_child"


async def test_a_killed_process_comes_back_at_once_with_a_new_epoch(module: str, tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("stay")
    gone: list[tuple[int, int]] = []
    child = Child("it", lambda epoch: (module, tmp_path / "mode"), lambda *end: gone.append(end))
    task = asyncio.create_task(child.run())
    await until(lambda: child.pid)
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.pid not in (0, first))
    assert (gone, child.epoch, child.restarts) == ([(1, -signal.SIGKILL)], 2, 1)
    second = child.pid
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


async def test_an_expected_end_is_the_end(module: str, tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("stay")
    child = Child("it", lambda epoch: (module, tmp_path / "mode"), lambda *end: None)
    async with asyncio.TaskGroup() as group:
        group.create_task(child.run())
        await until(lambda: child.pid)
        assert not await child.ended(0.05)
        child.terminate()
        assert await child.ended(10)
    assert child.epoch == 1


async def test_a_process_that_dies_again_and_again_is_started_ever_more_slowly(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mode").write_text("end")
    pauses: list[float] = []
    stopped = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            child.stop()
            stopped.set()

    child = Child("it", lambda epoch: (module, tmp_path / "mode"), lambda *end: None, sleep=pause)
    await asyncio.wait_for(child.run(), 60)
    assert stopped.is_set()
    assert pauses == [0.0, 0.5, 1.0, 2.0]
