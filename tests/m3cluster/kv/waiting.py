"""Waiting for servers, processes and watches: what the tests of all backends share."""

import asyncio
import inspect

from m3cluster.kv import KVError

LONG_S = 60


async def next_of(watch):
    """The next value that a watch gives."""
    async with asyncio.timeout(LONG_S):
        return await anext(watch)


async def until(condition):
    """Asks a function, or a coroutine function, until what it returns is true; returns that."""
    async with asyncio.timeout(LONG_S):
        while True:
            result = condition()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            await asyncio.sleep(0.02)


async def value_is(watch, data):
    """Reads until the watch gives ``data``."""
    async with asyncio.timeout(LONG_S):
        async for value in watch:
            if (value and value.data) == data:
                return value


async def insist(call, *arguments):
    """Repeats a call until the server is there."""

    async def attempt():
        try:
            return (await call(*arguments),)
        except KVError:
            return None

    return (await until(attempt))[0]
