"""Waiting for a condition instead of for a time; who waited in vain is told for what."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

__all__ = ["until", "wait_until"]


def wait_until(what: str, condition: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.05) -> Any:
    """The first true result of ``condition``; errors of connections count as not yet.

    Raises ``TimeoutError`` with ``what`` and the last result.
    """
    deadline, last = time.monotonic() + timeout_s, None
    while time.monotonic() < deadline:
        try:
            last = condition()
        except OSError as error:
            last = error
        else:
            if last:
                return last
        time.sleep(every_s)
    raise TimeoutError(f"{what}: not within {timeout_s:g} s (last: {last!r})")


async def until(condition: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.01, what: str = "") -> Any:
    """The first true result of a function, or of a coroutine function, while other tasks go on.

    Raises ``TimeoutError`` with ``what`` (default: where ``condition`` is written) and the last result.
    """
    last: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                last = condition()
                if inspect.isawaitable(last):
                    last = await last
                if last:
                    return last
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise TimeoutError(f"{what or _place(condition)}: not within {timeout_s:g} s (last: {last!r})") from None


def _place(condition: Callable[[], Any]) -> str:
    code = getattr(condition, "__code__", None)
    return f"the condition of {code.co_filename}:{code.co_firstlineno}" if code is not None else repr(condition)
