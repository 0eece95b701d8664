"""A configuration that is read again: what is taken, what needs a restart, and what changes nothing."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from lab.waiting import until
from starlette.applications import Starlette

from m3x.config import Loaded, Section, load
from m3x.config.changes import changes, covers, taking
from m3x.instrument import Registry
from m3x.live_config import NeedsRestartError, Part, Reloaded, Reloads, lifecycle_routes
from m3x.reloading import Reloading
from m3x.service_manager import ServiceManager


class Limits(Section, frozen=True, kw_only=True):
    per_second: int = 0
    per_day: int = 0

    def __post_init__(self) -> None:
        if self.per_day and self.per_second > self.per_day:
            raise ValueError("perSecond is more than perDay")


class Config(Section, frozen=True, kw_only=True):
    level: str = "info"
    address: str = "here"
    limits: Limits = Limits()
    more: Limits | None = None
    names: list[str] = []


def test_keys_that_differ_are_named_as_the_file_has_them() -> None:
    before = Config(names=["a", "b"])
    after = Config(level="debug", limits=Limits(per_second=1), more=Limits(), names=["a", "c"])
    assert list(changes(before, after)) == ["level", "limits.perSecond", "more", "names"]
    assert list(changes(after, after)) == []
    assert list(changes(Config(more=Limits()), Config(more=Limits(per_day=2)))) == ["more.perDay"]


def test_some_of_them_are_taken() -> None:
    before, after = Config(), Config(level="debug", address="there", limits=Limits(per_second=1, per_day=5))
    assert taking(before, after, ["level", "limits.perDay"]) == Config(level="debug", limits=Limits(per_day=5))
    assert taking(before, after, ["limits"]) == Config(limits=Limits(per_second=1, per_day=5))
    assert covers(["limits"], "limits.perDay")
    assert not covers(["limit"], "limits.perDay")
    with pytest.raises(ValueError, match="more than"):
        taking(Config(limits=Limits(per_day=1)), Config(limits=Limits(per_second=2)), ["limits.perSecond"])


class Service:
    """What has taken which configuration."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.registry = Registry()
        self.taken: list[Config] = []
        self.reloads = Reloads(
            Config(),
            lambda: load([file], Config),
            [
                Part(("level", "limits"), lambda loaded: self.taken.append(loaded.value)),
                Part(("more",), self.refuse),
                Part(("names",), self.later),
            ],
            self.registry.scope("config-reload"),
            ServiceManager(),
        )

    async def later(self, loaded: Loaded[Config]) -> None:
        await asyncio.sleep(0)
        if "wrong" in loaded.value.names:
            raise ValueError("that is no name")
        self.taken.append(loaded.value)

    def refuse(self, loaded: Loaded[Config]) -> None:
        raise NeedsRestartError("more is for another process")

    async def reload(self, text: str) -> Reloaded:
        self.file.write_text(text)
        return await self.reloads.reload()


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path / "service.yml")


async def test_parts_take_what_is_theirs_and_the_rest_needs_a_restart(service: Service) -> None:
    found = await service.reload("{level: debug, address: there, names: [a], more: {}}")
    assert found == Reloaded(True, ["level", "names"], ["address", "more"])
    assert service.taken == [Config(level="debug"), Config(level="debug", names=["a"])]
    assert service.reloads.config == Config(level="debug", names=["a"])
    assert service.reloads.needs_restart == ["address", "more"]
    # What needs a restart is said again, as it is not in effect; what is as it was before is not.
    assert await service.reload("{level: debug, address: there, names: [a]}") == Reloaded(True, [], ["address"])
    assert await service.reload("{}") == Reloaded(True, ["level", "names"], [])
    assert service.reloads.needs_restart == []


async def test_files_with_problems_change_nothing(service: Service) -> None:
    await service.reload("{level: debug}")
    found = await service.reload("{level: warn, limit: 1, names: nobody}")
    assert not found.ok
    assert [problem.split(": ")[1] for problem in found.problems] == ["limit", "names"]
    assert service.reloads.config == Config(level="debug")
    service.file.unlink()
    assert not (await service.reloads.reload()).ok
    assert len(service.taken) == 1


async def test_what_a_part_refuses_stays_as_it_was(service: Service) -> None:
    found = await service.reload("{level: debug, names: [wrong]}")
    assert found == Reloaded(False, ["level"], [], ["names: that is no name"])
    assert service.reloads.config == Config(level="debug")
    assert (await service.reload("{level: debug, names: [right]}")).applied == ["names"]


async def test_figures_say_how_it_went(service: Service) -> None:
    await service.reload("{address: there}")
    await service.reload("{wrong: 1}")
    page = service.registry.render().decode()
    for line in ("success 1.0", "failure 1.0", "last_successful 0.0", "needs_restart 0.0"):
        assert f"config_reload_{line}" in page


async def test_a_signal_reloads(service: Service) -> None:
    service.file.write_text("{level: debug}")
    with service.reloads.hearing():
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: service.taken)
        assert service.reloads.config.level == "debug"
    # One that comes too late ends nobody.
    os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


async def test_files_of_certificates_are_looked_at(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    made = Reloading(file.read_text, [str(file)], what="tokens", failures=OSError, every_s=3600)
    file.write_text("another")
    assert made.get() == "one"
    await service.reload("{}")
    assert made.get() == "another"


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_over_http(service: Service, method: str) -> None:
    missing: list[str] = []
    async with client(lifecycle_routes_of(service, lambda: missing)) as http:
        assert (await http.get("/-/healthy")).status_code == 200
        assert (await http.get("/-/ready")).status_code == 200
        missing.append("there is no placement")
        answer = await http.get("/-/ready")
        assert (answer.status_code, answer.text) == (503, "there is no placement\n")
        service.file.write_text("{level: debug, address: there}")
        answer = await http.request(method, "/-/reload")
        assert answer.status_code == 200
        assert answer.json() == {"ok": True, "applied": ["level"], "needsRestart": ["address"], "problems": []}
        service.file.write_text("{level: [}")
        answer = await http.request(method, "/-/reload")
        assert answer.status_code == 500
        assert "not valid YAML" in answer.json()["problems"][0]
        assert (await http.get("/-/reload")).status_code == 405


async def test_a_service_without_files_has_no_reload() -> None:
    async with client(Starlette(routes=lifecycle_routes("x", None, list))) as http:
        assert (await http.post("/-/reload")).status_code == 404


def lifecycle_routes_of(service: Service, reasons: Callable[[], list[str]]) -> Starlette:
    return Starlette(routes=lifecycle_routes("service", service.reloads.reload, reasons))


def client(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
