"""Waiting for a condition instead of for a time; who waited in vain is told for what."""

import asyncio
import inspect
import re
import time
from collections.abc import Callable
from typing import Any

from lab.errors import LabError

__all__ = ["until", "wait_aloud", "wait_until"]


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


def wait_aloud(missing: Callable[[], list[str]], timeout_s: float, every_s: float = 0.2) -> None:
    """Returns when nothing is missing, and prints what is, each thing once. Raises ``LabError`` when the time is up."""
    deadline, said = time.monotonic() + timeout_s, ""
    while waiting := "; ".join(dict.fromkeys(missing())):
        if time.monotonic() > deadline:
            raise LabError(f"not serving after {timeout_s:g} s; still waiting for {waiting}")
        # The time left changes every second; the reason is said once.
        if (key := re.sub(r"\d+", "", waiting)) != said:
            print(f"  waiting for {waiting}", flush=True)
            said = key
        time.sleep(every_s)


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
