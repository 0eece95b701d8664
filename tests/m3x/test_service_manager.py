"""What the manager of a service hears."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from m3x.service_manager import ServiceManager


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield heard


async def _next(manager: socket.socket) -> list[str]:
    data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(manager, 4096), 60)
    return data.decode().split("\n")


async def test_it_hears_of_the_beginning_of_changes_and_of_the_end(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3x.service_manager._STATUS_S", 0.01)
    status = "waits\nfor a placement"
    async with ServiceManager().told(lambda: status):
        assert await _next(manager) == ["READY=1", "STATUS=waits for a placement"]
        assert await _next(manager) == ["STATUS=waits for a placement"]
        status = "leader"
        assert await _next(manager) == ["STATUS=leader"]
    assert await _next(manager) == ["STOPPING=1", "STATUS=ending"]


async def test_the_watchdog_is_fed_by_the_event_loop(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    async with ServiceManager().told(lambda: "well"):
        assert await _next(manager) == ["READY=1", "STATUS=well"]
        assert await _next(manager) == ["WATCHDOG=1", "STATUS=well"]
        for _ in range(3):
            assert await _next(manager) == ["WATCHDOG=1"]
    said: list[str] = []
    while "STOPPING=1" not in said:
        said = await _next(manager)
    assert said == ["STOPPING=1", "STATUS=ending"]


async def test_a_watchdog_of_another_process_is_not_fed(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3x.service_manager._STATUS_S", 0.01)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    async with ServiceManager().told(lambda: "well"):
        await asyncio.sleep(0.1)
    said = [await _next(manager) for _ in range(3)]
    assert said == [["READY=1", "STATUS=well"], ["STATUS=well"], ["STOPPING=1", "STATUS=ending"]]


async def test_children_do_not_speak(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    ServiceManager()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


async def test_without_a_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    def asked() -> str:
        raise AssertionError("nobody wants to know")

    async with ServiceManager().told(asked):
        await asyncio.sleep(0)


async def test_a_manager_that_has_gone_ends_nobody(
    manager: socket.socket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notify").unlink()
    async with ServiceManager().told(lambda: "well"):
        pass
    assert "the service manager could not be told" in capsys.readouterr().err


async def test_a_socket_without_a_file_is_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"m3-{os.getpid()}-notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{name}")
        heard.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        async with ServiceManager().told(lambda: "well"):
            assert await _next(heard) == ["READY=1", "STATUS=well"]
