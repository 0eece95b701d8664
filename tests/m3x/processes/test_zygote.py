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


async def with_spare(zygote: Zygote) -> int:
    """The pid of the spare one, once it is there."""
    await until(lambda: zygote.spare_pid, what="a spare zygote")
    return zygote.spare_pid


async def spawned(zygote: Zygote, file: Path) -> Running:
    """A child that has begun to run."""
    running = await zygote.spawn(CHILD, [str(file), "stay"])
    await told(file)
    return running


async def ended(*children: Running) -> None:
    for running in children:
        running.signal(signal.SIGKILL)
        assert await running.wait() == -signal.SIGKILL


async def test_a_zygote_that_dies_has_a_successor_at_once_that_has_everything_loaded(
    zygote: Zygote, tmp_path: Path
) -> None:
    first, loader = await spawned(zygote, tmp_path / "first"), zygote.pid
    for turn in range(3):
        before, spare = zygote.pid, await with_spare(zygote)
        os.kill(before, signal.SIGKILL)
        await after_death(zygote, before)
        assert zygote.pid == spare
        second = await spawned(zygote, tmp_path / f"{turn}")
        found = await told(tmp_path / f"{turn}")
        assert (found["loaded_by"], found["parent"]) == (loader, os.getpid())
        assert list(found["files"]) == ["0", "1", "2", "3", "4"]
        await ended(second)
    assert alive(first.pid)
    await ended(first)


async def test_a_spare_one_that_dies_is_replaced(zygote: Zygote, tmp_path: Path) -> None:
    before = await with_spare(zygote)
    os.kill(before, signal.SIGKILL)
    await until(lambda: zygote.spare_pid not in (0, before), what="another spare one")
    await ended(await spawned(zygote, tmp_path / "it"))
    assert not alive(before)


async def test_where_both_die_the_next_one_loads_everything_anew(zygote: Zygote, tmp_path: Path) -> None:
    first, before, spare = await spawned(zygote, tmp_path / "first"), zygote.pid, await with_spare(zygote)
    for pid in (spare, before):
        os.kill(pid, signal.SIGKILL)
    await until(lambda: zygote.pid not in (before, spare, 0), what="the next zygote")
    second = await spawned(zygote, tmp_path / "second")
    assert (await told(tmp_path / "second"))["loaded_by"] == zygote.pid
    await ended(first, second)
    await with_spare(zygote)


async def test_zygote_and_child_at_once(zygote: Zygote, tmp_path: Path) -> None:
    running, before = await spawned(zygote, tmp_path / "it"), zygote.pid
    os.kill(running.pid, signal.SIGKILL)
    os.kill(before, signal.SIGKILL)
    assert await running.wait() == -signal.SIGKILL
    await after_death(zygote, before)
    await ended(await spawned(zygote, tmp_path / "next"))


@pytest.mark.parametrize("spare", [True, False])
async def test_orders_of_a_zygote_that_dies_over_them_are_carried_out_by_the_next_one(
    zygote: Zygote, tmp_path: Path, spare: bool
) -> None:
    before = zygote.pid
    await (await zygote.spawn(CHILD, [str(tmp_path / "it"), "end:0"])).wait()
    if spare:
        await with_spare(zygote)
    await asyncio.to_thread(stop, before)
    orders = [asyncio.create_task(zygote.spawn(CHILD, [str(tmp_path / f"{i}"), f"end:{i}"])) for i in range(3)]
    await asyncio.sleep(0)
    os.kill(before, signal.SIGKILL)
    orders.append(asyncio.create_task(zygote.spawn(CHILD, [str(tmp_path / "3"), "end:3"])))
    assert [await running.wait() for running in await asyncio.gather(*orders)] == [0, 1, 2, 3]
    assert zygote.pid != before


@pytest.mark.parametrize("spare", [True, False])
async def test_a_zygote_killed_at_any_moment_leaves_no_process_that_nobody_knows_of(
    zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: bool
) -> None:
    """Whatever the zygote was doing, an order has one child, and it is known; or it is said to have failed."""
    monkeypatch.setattr("m3x.processes.restarts._STEADY_NS", -1)
    monkeypatch.setattr("m3x.processes.zygote._SPARE_S", 0 if spare else 3600)
    known: list[Running] = []
    strangers = set(descendants(os.getpid())) - {zygote.pid}
    for turn in range(12 if spare else 4):
        if spare:
            await with_spare(zygote)
        before = zygote.pid
        orders = [asyncio.create_task(zygote.spawn(CHILD, [str(tmp_path / f"{turn}-{i}"), "stay"])) for i in range(4)]
        await asyncio.sleep(0.001 * turn)
        os.kill(before, signal.SIGKILL)
        known += [one for one in await asyncio.gather(*orders, return_exceptions=True) if isinstance(one, Running)]
        await after_death(zygote, before)
    assert len(known) > 8
    strangers |= {one.pid for one in known}
    await until(lambda: set(descendants(os.getpid())) - {zygote.spare_pid} == strangers | {zygote.pid})
    await ended(*known)


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
    await with_spare(zygote)


async def test_a_zygote_that_does_nothing_is_replaced(
    zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_spare(zygote)
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
    pauses: list[float] = []

    def died_twice() -> bool:
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
        pauses.extend(line["pause_s"] for line in lines if "the zygote died" in line["msg"])
        return len(pauses) > 1

    async with Zygote(PRELOADED) as zygote:
        order = asyncio.create_task(zygote.spawn(CHILD, [str(tmp_path / "it"), "end:0"]))
        await until(died_twice)
        reason.unlink()
        assert await (await order).wait() == 0
    assert pauses[:2] == [0.0, 0.5]


async def test_the_end_of_the_context_leaves_children_alone_and_no_zygote(importable: None, tmp_path: Path) -> None:
    async with Zygote(PRELOADED) as zygote:
        running, pids = await spawned(zygote, tmp_path / "it"), {zygote.pid, await with_spare(zygote)}
    assert not any(map(alive, pids))
    assert not pids & set(descendants(os.getpid()))
    assert alive(running.pid)
    await ended(running)


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


def zygotes_of(service: Process) -> list[int]:
    """The one that takes orders and the spare one, once both are there; the older one first."""

    def both() -> list[int]:
        found = [pid for pid, command in children(service.pid).items() if "m3x.processes" in command]
        return found if len(found) == 2 else []

    pids: list[int] = wait_until("two zygotes", both)
    return pids


def test_forked_from_the_service_it_shares_the_memory_of_the_service(service: Process, tmp_path: Path) -> None:
    a = found(tmp_path, "a-1")
    assert a["loaded_by"] == service.pid
    assert a["own_bytes"] < 32 << 20, "so much is loaded"
    for zygote in zygotes_of(service):
        assert len(os.listdir(f"/proc/{zygote}/task")) == 1
        # What it has handed on it closes a moment later.
        wait_until("the link alone", lambda of=zygote: len(os.listdir(f"/proc/{of}/fd")) == 4)
    assert list(a["files"]) == ["0", "1", "2", "3", "4"]
    assert {a["parent"], found(tmp_path, "b-1")["parent"]} == {service.pid}


def test_the_death_of_the_service_ends_all(service: Process) -> None:
    pids = [*zygotes_of(service), *children(service.pid)]
    os.kill(service.pid, signal.SIGKILL)
    service.wait()
    wait_until("the end of all", lambda: not any(map(alive, pids)))


def test_the_service_ends_all_in_order(service: Process) -> None:
    pids = [*zygotes_of(service), *children(service.pid)]
    assert service.stop() == 0, service.tail()
    wait_until("the end of all", lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("second", ["a", "b", "zygote", "service"])
@pytest.mark.parametrize("first", ["a", "b", "zygote"])
def test_deaths_in_every_order(service: Process, tmp_path: Path, first: str, second: str) -> None:
    """After two deaths, one right after the other, all that should run runs, and nothing that should not."""
    epochs = {"a": 1, "b": 1}
    zygotes = zygotes_of(service)
    everyone = set(children(service.pid))

    def kill(name: str) -> None:
        pids = {"zygote": zygotes[0], "service": service.pid}
        pid = pids[name] if name in pids else found(tmp_path, f"{name}-{epochs[name]}")["pid"]
        os.kill(pid, signal.SIGKILL)
        if name == "service":
            service.wait()
        elif name in epochs:
            epochs[name] += 1
        else:
            zygotes.pop(0)
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
    zygotes_of(service)
    assert len(children(service.pid)) == 4
    everyone.update(children(service.pid))
    assert service.stop() == 0, service.tail()
    wait_until("the end of all", lambda: not any(map(alive, everyone)))


def test_a_service_with_threads_is_not_forked(tmp_path: Path) -> None:
    service = start(tmp_path, "thread")
    try:
        assert "this process has threads already" in service.tail()
        assert found(tmp_path, "a-1")["loaded_by"] == zygotes_of(service)[0]
    finally:
        service.kill()
