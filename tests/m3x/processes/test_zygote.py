"""Zygote, children and service die in every order; nothing is left behind, and nothing dies that need not."""

import asyncio
import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.processes import Process, children, module_command, stop
from lab.waiting import until, wait_until
from tests.m3x.processes.conftest import CHILD, PRELOADED, ROOT, alive, descendants, no_more_files, told

from m3x.processes import SpawnError, Zygote
from m3x.processes.running import Running

SERVICE = "tests.m3x.processes.a_service"


async def after_death(zygote: Zygote, before: int) -> None:
    await until(lambda: zygote.pid not in (0, before), what="the next zygote")


async def spawned(zygote: Zygote, file: Path) -> Running:
    """A child that has begun to run."""
    running = await zygote.spawn(CHILD, [str(file), "stay"])
    await told(file)
    return running


async def test_the_death_of_a_zygote_ends_nobody_and_the_next_one_forks(zygote: Zygote, tmp_path: Path) -> None:
    first, before = await spawned(zygote, tmp_path / "first"), zygote.pid
    os.kill(before, signal.SIGKILL)
    await after_death(zygote, before)
    second = await spawned(zygote, tmp_path / "second")
    assert (await told(tmp_path / "second"))["loaded_by"] == zygote.pid
    assert alive(first.pid)
    for running in (first, second):
        running.signal(signal.SIGTERM)
        assert await running.wait() == -signal.SIGTERM
    assert not alive(before)


async def test_zygote_and_child_at_once(zygote: Zygote, tmp_path: Path) -> None:
    running, before = await spawned(zygote, tmp_path / "it"), zygote.pid
    os.kill(running.pid, signal.SIGKILL)
    os.kill(before, signal.SIGKILL)
    assert await running.wait() == -signal.SIGKILL
    await after_death(zygote, before)
    running = await spawned(zygote, tmp_path / "next")
    running.signal(signal.SIGKILL)
    await running.wait()


async def test_orders_of_a_zygote_that_dies_over_them_are_carried_out_by_the_next_one(
    zygote: Zygote, tmp_path: Path
) -> None:
    before = zygote.pid
    await (await zygote.spawn(CHILD, [str(tmp_path / "it"), "end:0"])).wait()
    await asyncio.to_thread(stop, before)
    orders = [asyncio.create_task(zygote.spawn(CHILD, [str(tmp_path / f"{i}"), f"end:{i}"])) for i in range(3)]
    await asyncio.sleep(0)
    os.kill(before, signal.SIGKILL)
    orders.append(asyncio.create_task(zygote.spawn(CHILD, [str(tmp_path / "3"), "end:3"])))
    assert [await running.wait() for running in await asyncio.gather(*orders)] == [0, 1, 2, 3]
    assert (await told(tmp_path / "0"))["loaded_by"] == zygote.pid != before


async def test_a_zygote_killed_at_any_moment_leaves_no_process_that_nobody_knows_of(
    zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the zygote was doing, an order has one child, and it is known; or it is said to have failed."""
    monkeypatch.setattr("m3x.processes.restarts._STEADY_NS", -1)
    known: list[Running] = []
    for turn in range(8):
        before = zygote.pid
        orders = [asyncio.create_task(zygote.spawn(CHILD, [str(tmp_path / f"{turn}-{i}"), "stay"])) for i in range(4)]
        await asyncio.sleep(0.001 * turn)
        os.kill(before, signal.SIGKILL)
        known += [one for one in await asyncio.gather(*orders, return_exceptions=True) if isinstance(one, Running)]
        await after_death(zygote, before)
    assert len(known) > 16
    await until(lambda: set(descendants(os.getpid())) == {zygote.pid} | {one.pid for one in known})
    for running in known:
        running.signal(signal.SIGKILL)
        await running.wait()


async def test_a_process_that_there_is_no_room_for(zygote: Zygote, tmp_path: Path) -> None:
    """The zygote may open no descriptor for what it is sent."""
    await (await zygote.spawn(CHILD, [str(tmp_path / "it"), "end:0"])).wait()
    before = zygote.pid
    limits = no_more_files(before)
    try:
        with pytest.raises(SpawnError, match="no room"):
            await zygote.spawn(CHILD, [str(tmp_path / "never"), "stay"])
    finally:
        resource.prlimit(before, resource.RLIMIT_NOFILE, limits)
    assert zygote.pid == before


async def test_a_zygote_that_does_nothing_is_replaced(
    zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await zygote.spawn(CHILD, [str(tmp_path / "it"), "end:0"])).wait()
    before = zygote.pid
    await asyncio.to_thread(stop, before)
    monkeypatch.setattr("m3x.processes.zygote._PATIENCE_S", 0.1)
    order = asyncio.create_task(zygote.spawn(CHILD, [str(tmp_path / "second"), "end:0"]))
    await after_death(zygote, before)
    monkeypatch.setattr("m3x.processes.zygote._PATIENCE_S", 60)
    assert await (await order).wait() == 0


async def test_a_zygote_that_cannot_load_is_started_ever_more_slowly(
    importable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = tmp_path / "reason"
    reason.touch()
    monkeypatch.setenv("PRELOAD_FAILS", str(reason))
    async with Zygote(PRELOADED) as zygote:
        order = asyncio.create_task(zygote.spawn(CHILD, [str(tmp_path / "it"), "end:0"]))
        await until(lambda: zygote.pid == 0, what="a pause")
        reason.unlink()
        assert await (await order).wait() == 0
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert [line["pause_s"] for line in said if "the zygote died" in line["msg"]][:2] == [0.0, 0.5]


async def test_the_end_of_the_context_leaves_children_alone_and_no_zygote(importable: None, tmp_path: Path) -> None:
    async with Zygote(PRELOADED) as zygote:
        running, pid = await spawned(zygote, tmp_path / "it"), zygote.pid
    assert not alive(pid)
    assert pid not in descendants(os.getpid())
    assert alive(running.pid)
    running.signal(signal.SIGKILL)
    await running.wait()


# --- a service that its zygote is forked from


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Process]:
    process = start(tmp_path)
    yield process
    process.kill()


def start(folder: Path, *arguments: str) -> Process:
    process = Process("service", module_command(SERVICE, str(folder), *arguments), folder / "log", cwd=ROOT)
    try:
        wait_until("both children", lambda: (folder / "a-1").exists() and (folder / "b-1").exists())
    except TimeoutError:
        process.kill()
        pytest.fail(process.tail())
    return process


def found(folder: Path, name: str) -> dict:
    """What a child said of itself, once it has."""
    wait_until(name, (folder / name).exists)
    return json.loads((folder / name).read_text())


def zygote_of(service: Process) -> int:
    """0: there is none at the moment."""
    return next((pid for pid, command in children(service.pid).items() if "m3x.processes" in command), 0)


def test_forked_from_the_service_it_shares_the_memory_of_the_service(service: Process, tmp_path: Path) -> None:
    a, zygote = found(tmp_path, "a-1"), zygote_of(service)
    assert a["loaded_by"] == service.pid
    assert a["own_bytes"] < 32 << 20, "so much is loaded"
    assert len(os.listdir(f"/proc/{zygote}/task")) == 1
    assert sorted(os.listdir(f"/proc/{zygote}/fd"))[:3] == ["0", "1", "2"]
    assert len(os.listdir(f"/proc/{zygote}/fd")) == 4
    assert list(a["files"]) == ["0", "1", "2"]
    assert {a["parent"], found(tmp_path, "b-1")["parent"]} == {service.pid}


def test_the_death_of_the_service_ends_all(service: Process) -> None:
    pids = list(children(service.pid))
    assert len(pids) == 3
    os.kill(service.pid, signal.SIGKILL)
    service.wait()
    wait_until("the end of all", lambda: not any(map(alive, pids)))


def test_the_service_ends_all_in_order(service: Process) -> None:
    pids = list(children(service.pid))
    assert service.stop() == 0, service.tail()
    wait_until("the end of all", lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("second", ["a", "b", "zygote", "service"])
@pytest.mark.parametrize("first", ["a", "b", "zygote"])
def test_deaths_in_every_order(service: Process, tmp_path: Path, first: str, second: str) -> None:
    """After two deaths, one right after the other, all that should run runs, and nothing that should not."""
    epochs = {"a": 1, "b": 1}
    everyone = set(children(service.pid))

    def kill(name: str) -> None:
        pids = {"zygote": zygote_of(service), "service": service.pid}
        pid = pids[name] if name in pids else found(tmp_path, f"{name}-{epochs[name]}")["pid"]
        os.kill(pid, signal.SIGKILL)
        if name == "service":
            service.wait()
        elif name in epochs:
            epochs[name] += 1
        if name == "zygote":
            wait_until("the next zygote", lambda: zygote_of(service) not in (0, pid))
        everyone.update(children(service.pid))

    kill(first)
    kill(second)
    if second == "service":
        wait_until("the end of all", lambda: not any(map(alive, everyone)))
        return
    for name, epoch in epochs.items():
        now = found(tmp_path, f"{name}-{epoch}")
        assert alive(now["pid"])
        assert now["parent"] == service.pid
    assert len(children(service.pid)) == 3
    everyone.update(children(service.pid))
    assert service.stop() == 0, service.tail()
    wait_until("the end of all", lambda: not any(map(alive, everyone)))


def test_a_service_with_threads_is_not_forked(tmp_path: Path) -> None:
    service = start(tmp_path, "thread")
    try:
        assert "this process has threads already" in service.tail()
        assert found(tmp_path, "a-1")["loaded_by"] == zygote_of(service)
    finally:
        service.kill()
