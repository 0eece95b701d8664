"""Following a key of the KV: what is good in it counts until something better is there, and a watch that fails is begun again."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from m3cluster.kv import KVError, Store, Value
from m3x.log import logger
from m3x.retry import Backoff

__all__ = ["follow"]

log = logger(__name__)
T = TypeVar("T")

_RETRY = Backoff(0.5, 2.0, 10.0)


async def follow(
    store: Store,
    key: str,
    decode: Callable[[Value], T],
    changed: Callable[[T | None], None],
    unusable: Callable[[Value, ValueError], None] | None = None,
    failed: Callable[[], None] = lambda: None,
) -> None:
    """Calls ``changed`` with every value of a key as ``decode`` reads it (None: the key was deleted), until cancelled.

    A value that ``decode`` refuses with a ``ValueError`` changes nothing: it is said in the log, or to ``unusable``, and the last good
    one counts. A watch that ends is begun again; the value that has been told already is not told again.
    ``failed``: called where the store ended it.
    """
    refuse = unusable or partial(_refused, key)
    told, attempt = 0, 0
    while True:
        try:
            watch = store.watch(key)
            try:
                async for value in watch:
                    attempt = 0
                    revision = value.mod_revision if value is not None else 0
                    if value is None:
                        changed(None)
                    elif revision != told:
                        _tell(value, decode, changed, refuse)
                    told = revision
            finally:
                await watch.close()
        except KVError as error:
            failed()
            log.warning_limited("a watch failed and is begun again", key=key, reason=str(error))
        attempt += 1
        await asyncio.sleep(_RETRY.delay(attempt))


def _tell(
    value: Value,
    decode: Callable[[Value], T],
    changed: Callable[[T | None], None],
    refuse: Callable[[Value, ValueError], None],
) -> None:
    try:
        decoded = decode(value)
    except ValueError as error:
        refuse(value, error)
    else:
        changed(decoded)


def _refused(key: str, value: Value, error: ValueError) -> None:
    problem = str(error)
    log.error(
        "a value in the KV cannot be used; the last good one counts", key=key, version=value.version, problem=problem
    )
