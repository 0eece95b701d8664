"""What a real instance says of itself to whoever looks after it: its service manager, and people who read ``/ready``."""

import asyncio
import os
import resource
import signal
import socket
from pathlib import Path

import pytest
from lab.processes import stop
from lab.waiting import until
from tests.aggregator.supervisor.instance_rig import Rig

pytestmark = pytest.mark.integration


async def test_a_process_that_dies_again_and_again_is_named_with_its_last_error_until_it_lives(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    for _ in range(3):
        victim = rig.worker(1)
        os.kill(victim, signal.SIGKILL)
        await until(lambda: rig.instance is not None and rig.instance.roles().get("worker 1", victim) != victim, 60)  # noqa: B023
    status, document = await rig.get("/ready")
    said = [reason for reason in document["reasons"] if "in a row" in reason]
    assert (status, said) == (
        503,
        [
            "worker 1 has died 3 times in a row, the last time of SIGKILL (memory may have been short: see the log of the kernel)"
        ],
    )
    await rig.until_ready()


async def test_the_service_manager_hears_of_its_life(rig: Rig, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        said: list[str] = []

        def heard(text: str) -> bool:
            while True:
                try:
                    said.extend(manager.recv(4096).decode().split("\n"))
                except BlockingIOError:
                    return any(text in line for line in said)

        await rig.start(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"})
        await until(lambda: heard("leader of shard set"), 120, what="its status")
        assert said.index("READY=1") < said.index("WATCHDOG=1")
        # A supervisor that hangs says nothing more, which is what its manager waits for.
        stop(rig.process.pid)
        heard("")
        said.clear()
        await asyncio.sleep(1)
        assert not heard("")
        os.kill(rig.process.pid, signal.SIGCONT)
        await until(lambda: heard("WATCHDOG=1"), 60)
        assert await rig.stop() == 0
        assert heard("STOPPING=1")


async def test_few_open_files_are_said_and_more_are_taken_where_they_are_allowed(rig: Rig) -> None:
    await rig.start(through=["sh", "-c", 'ulimit -Sn 512; ulimit -Hn 2048; exec "$@"', "sh"])
    await rig.until_ready()
    _, document = await rig.get("/ready")
    said = [note for note in document["notes"] if "connections may be open" in note]
    assert [note.split(":")[0] for note in said] == ["at most 2048 files and connections may be open"]
    for pid in (rig.process.pid, rig.worker(0)):
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (2048, 2048)
