"""Following a key: good values are told, bad ones change nothing, watches that fail are begun again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from m3cluster.following import follow
from m3cluster.kv import KVError, MemoryServer, Store, Value
from m3x.retry import Backoff

KEY = "_kv/e/k"


def number(value: Value) -> int:
    return int(value.data)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def following(store: Any, *more: Any) -> AsyncIterator[list[int | None]]:
    """What is told of ``KEY``."""
    told: list[int | None] = []
    task = asyncio.create_task(follow(store, KEY, number, told.append, *more))
    try:
        yield told
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    server = MemoryServer()
    store = server.client()
    yield store
    await store.close()
    server.close()


async def test_a_bad_value_changes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    async with following(store) as told:
        await store.set(KEY, b"1")
        await until(lambda: told == [1])
        await store.set(KEY, b"?")
        await until(lambda: "the last good one counts" in (heard := capsys.readouterr().err) and KEY in heard)
        await store.set(KEY, b"3")
        await until(lambda: told == [1, 3])
        await store.delete(KEY)
        await until(lambda: told == [1, 3, None])
        await store.set(KEY, b"4")
        await until(lambda: told == [1, 3, None, 4])


async def test_who_asks_for_bad_values_says_what_is_to_be_said(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    bad: list[tuple[int, str]] = []
    async with following(store, lambda value, error: bad.append((value.version, str(error)))) as told:
        await store.set(KEY, b"1")
        await until(lambda: told)
        await store.set(KEY, b"?")
        await until(lambda: bad)
    assert [version for version, _ in bad] == [2]
    assert "invalid literal" in bad[0][1]
    assert told == [1]
    assert capsys.readouterr().err == ""


class Failing:
    """A store whose watches tell what it is given and end: with an error, where that is one."""

    def __init__(self, *watches: tuple[Value | KVError | None, ...]) -> None:
        self._watches = list(watches)
        self.opened = self.closed = 0

    def watch(self, _: str) -> "Failing":
        assert self.opened == self.closed, "two watches at a time"
        self.opened += 1
        return self

    async def __aiter__(self) -> AsyncIterator[Value | None]:
        if not self._watches:
            await asyncio.Event().wait()
        for value in self._watches.pop(0):
            if isinstance(value, KVError):
                raise value
            yield value

    async def close(self) -> None:
        self.closed += 1
        if self.closed == 1:
            raise KVError("gone already")


def value_of(revision: int, data: bytes = b"7") -> Value:
    return Value(data, 1, 1, revision)


async def test_a_watch_that_ends_is_begun_again_and_nothing_is_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3cluster.following._RETRY", Backoff(0.001))
    bad = value_of(3, b"?")
    failing = Failing(
        (KVError("no answer"),),
        (value_of(2), KVError("cut")),
        (value_of(2), bad),
        (bad, None),
        (value_of(2), value_of(4, b"9")),
    )
    refused: list[Value] = []
    async with following(failing, lambda value, _: refused.append(value)) as told:
        await until(lambda: failing.opened == 6)
    assert told == [7, None, 7, 9]
    assert refused == [bad]
    assert failing.closed == 6
