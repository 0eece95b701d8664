"""What a forked child has and has not, how it ends, and which processes are whose parent."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest
from lab.waiting import until
from tests.m3x.processes.conftest import CHILD, alive, descendants, told

from m3x.processes import Zygote


async def test_a_child_is_as_if_it_had_been_started_alone(zygote: Zygote, tmp_path: Path) -> None:
    running = await zygote.spawn(CHILD, [str(tmp_path / "it"), "end:0"])
    found = await told(tmp_path / "it")
    assert (found["pid"], found["parent"], found["session"]) == (running.pid, os.getpid(), running.pid)
    assert found["threads"] == 1
    assert found["terminates"]
    assert found["arguments"] == [str(tmp_path / "it"), "end:0"]
    assert found["command"][1:] == ["-m", CHILD, str(tmp_path / "it"), "end:0"]
    assert found["loaded_by"] == zygote.pid
    assert await running.wait() == 0


async def test_a_child_has_no_descriptors_but_those_that_it_is_given_its_channel_and_its_stacks(
    zygote: Zygote, tmp_path: Path
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "open").open("w") as other:
        given = [theirs.fileno(), other.fileno()]
        names = [os.readlink(f"/proc/self/fd/{number}") for number in given]
        running = await zygote.spawn(CHILD, [str(tmp_path / "it"), "stay"], given)
        found = await told(tmp_path / "it")
        assert list(found["files"]) == ["0", "1", "2", "3", "4", "5", "6"]
        assert [found["files"][number] for number in "034"] == ["/dev/null", *names]
        # For its stacks.
        assert found["files"]["6"].startswith("/memfd:m3-stacks")
    running.signal(signal.SIGKILL)
    assert await running.wait() == -signal.SIGKILL


async def test_nobody_but_the_child_holds_what_it_is_given(zygote: Zygote, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            running = await zygote.spawn(CHILD, [str(tmp_path / "it"), "stay"], [theirs.fileno()])
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        running.signal(signal.SIGKILL)
        await running.wait()

        def hung_up() -> bool:
            """The zygote closes its copies a moment after it has forked, which a child may not live to see."""
            try:
                return ours.recv(1) == b""
            except BlockingIOError:
                return False

        await until(hung_up)


@pytest.mark.parametrize(
    ("order", "code"), [("end:0", 0), ("end:3", 3), ("say:goodbye", 1), ("fail", 1), ("fall off the end", 0)]
)
async def test_exit_codes_come_back(zygote: Zygote, tmp_path: Path, order: str, code: int) -> None:
    assert await (await zygote.spawn(CHILD, [str(tmp_path / "it"), order])).wait() == code


async def test_a_module_that_is_not_there_is_a_process_that_fails(zygote: Zygote) -> None:
    assert await (await zygote.spawn("tests.m3x.processes.missing", [])).wait() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_signals_end_a_child_and_are_told(zygote: Zygote, tmp_path: Path, number: int) -> None:
    running = await zygote.spawn(CHILD, [str(tmp_path / "it"), "stay"])
    await told(tmp_path / "it")
    running.signal(number)
    assert await running.wait() == -number
    running.signal(number)


async def test_a_zygote_has_one_thread_one_socket_and_ends_by_no_polite_signal(zygote: Zygote, tmp_path: Path) -> None:
    running = await zygote.spawn(CHILD, [str(tmp_path / "it"), "stay"])
    pid = zygote.pid
    assert len(os.listdir(f"/proc/{pid}/task")) == 1

    def only_the_link() -> bool:
        """Its copies of what the child was given are closed a moment later."""
        return sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2", "3"]

    await until(only_the_link)
    assert os.readlink(f"/proc/{pid}/fd/3").startswith("socket:")
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
    second = await zygote.spawn(CHILD, [str(tmp_path / "second"), "end:0"])
    assert await second.wait() == 0
    assert (zygote.pid, alive(running.pid)) == (pid, True)
    assert set(descendants(os.getpid())) >= {pid, running.pid}
    running.signal(signal.SIGKILL)
    await running.wait()


async def test_many_at_once(zygote: Zygote, tmp_path: Path) -> None:
    async def one(number: int) -> int:
        return await (await zygote.spawn(CHILD, [str(tmp_path / str(number)), f"end:{number}"])).wait()

    assert await asyncio.gather(*map(one, range(30))) == list(range(30))

    def nothing_left() -> bool:
        """A child may end before the zygote has heard of the end of its go-between."""
        return descendants(zygote.pid) == []

    await until(nothing_left)
