"""Waiting for servers, processes and watches: what the tests of all backends share."""

import asyncio

from lab.waiting import until

from m3cluster.kv import KVError

LONG_S = 60


async def next_of(watch):
    """The next value that a watch gives."""
    async with asyncio.timeout(LONG_S):
        return await anext(watch)


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
