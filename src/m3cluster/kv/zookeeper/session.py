"""One session of ZooKeeper on the event loop: calls with a time limit, and what becomes of the connection.

kazoo's threads report everything through ``call_soon_threadsafe``, in order; all state here belongs to the loop. A call waits for a
connection before it is handed to kazoo, so that nothing queues up there, and at most ``_IN_FLIGHT`` calls are under way.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    NoAuthError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
    SessionExpiredError,
)
from kazoo.protocol.states import KazooState

from m3cluster.kv.store import KVError
from m3cluster.kv.zookeeper.client import Client, Handler
from m3cluster.kv.zookeeper.config import ZooKeeper
from m3cluster.kv.zookeeper.secure import opened
from m3x.log import logger

__all__ = ["Session", "UnreachableError"]

log = logger(__name__)

_IN_FLIGHT = 256
_CLOSE_S = 2.0
"""How long ZooKeeper may take to end a session, and the threads to end then."""
_MILLISECOND_NS = 1_000_000
Refusals = tuple[type[Exception], ...]
"""Errors of kazoo that a caller decides upon; any other becomes a ``KVError``."""


class UnreachableError(KVError):
    """No connection, or no answer on it. The call may have been carried out if it was sent."""


class Session:
    """One client of kazoo. Create it inside a running loop; use it on that loop only.

    ``credentials``: those of a session to take over. ``on_connected`` is called whenever there is a connection (anew), ``on_lost`` when
    the session is over: expired, or ended by us.
    """

    def __init__(
        self,
        config: ZooKeeper,
        timeout_s: float,
        *,
        credentials: tuple[int, bytes] | None = None,
        on_connected: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()
        self._expired = False
        self._answered = False
        """The session was ended by an answer, not by a broken connection."""
        self._connections = 0
        self._room = asyncio.Semaphore(_IN_FLIGHT)
        self._waiting: set[asyncio.Future[Any]] = set()
        self._ending: asyncio.Task[bool] | None = None
        self._dead = False
        """A thread has failed: this client does nothing any more."""
        tls = None if config.tls is None else opened(config.tls)
        self._handler = Handler(config.connect_timeout_s, lambda: self._tell(self._died), tls)
        self._client = Client(",".join(config.servers), timeout_s, self._handler, credentials)
        self._client.add_listener(self._heard)
        self._client.start_async()

    @property
    def id(self) -> int:
        """The session id as an unsigned number; 0 without a connection."""
        found = self._client.client_id
        return int(found[0]) % (1 << 64) if found else 0

    @property
    def credentials(self) -> tuple[int, bytes] | None:
        """Session id and password, with which another client could take the session over; None without a connection."""
        found: tuple[int, bytes] | None = self._client.client_id
        return found

    @property
    def asked_ns(self) -> int:
        """When the session was asked for, or asked to be continued, on ``CLOCK_BOOTTIME``."""
        return self._client.asked_ns

    @property
    def timeout_ns(self) -> int:
        """The session timeout that was granted."""
        return self._client.granted_ms * _MILLISECOND_NS

    async def connected(self) -> None:
        """Returns while there is a connection. Raises ``KVError`` if there will be none."""
        await self._up.wait()
        self._check_open()

    async def disconnected(self) -> None:
        """Returns while there is none."""
        await self._down.wait()

    # kazoo's threads enter here.

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        # A loop that has been closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _heard(self, state: str) -> None:
        self._tell(self._changed, state)

    # The loop.

    def _changed(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self._connections += 1
            self._down.clear()
            self._up.set()
            self._on_connected()
            return
        self._answered = state == KazooState.LOST and not self._down.is_set()
        self._expired = self._expired or (state == KazooState.LOST and self._ending is None)
        if not self._dead and self._ending is None:
            self._up.clear()
        self._down.set()
        if state == KazooState.LOST:
            self._on_lost()

    def _died(self) -> None:
        self._dead = True
        # Whoever waits for a connection learns that there will be none.
        self._up.set()
        self._down.set()
        self._on_lost()

    def _settle(self, future: "asyncio.Future[Any]", result: Any) -> None:
        if future.done():
            return
        if result.exception is None:
            future.set_result(result.value)
        else:
            future.set_exception(result.exception)

    async def call(
        self,
        start: Callable[[Client], Any],
        about: str,
        *,
        refusals: Refusals = (),
        timeout_s: float | None = None,
        repeatable: bool = False,
    ) -> Any:
        """The answer to what ``start`` asks kazoo for about a node.

        ``repeatable``: may be asked again if the connection breaks. Raises ``KVError`` and ``refusals``.
        """
        limit_s = self._config.request_timeout_s if timeout_s is None else timeout_s
        give_up = self._loop.time() + limit_s
        async with self._room:
            while True:
                await self._reach(min(self._config.connect_timeout_s, max(give_up - self._loop.time(), 0)))
                try:
                    rest_s = max(give_up - self._loop.time(), 0)
                    return await self._ask(start, about, refusals, rest_s, limit_s)
                except ConnectionLoss as error:
                    if not repeatable or self._loop.time() >= give_up:
                        raise UnreachableError(
                            f"zookeeper {self._config.name}: the connection broke before the answer came; "
                            "a write may or may not have been made"
                        ) from error

    async def transact(
        self, add: Callable[[Any], None], about: str, *, refusals: Refusals = (), timeout_s: float | None = None
    ) -> list[Any]:
        """Carries out the operations that ``add`` adds to a transaction, all or none; raises like ``call``."""

        def start(client: Client) -> Any:
            transaction = client.transaction()
            add(transaction)
            return transaction.commit_async()

        results: list[Any] = await self.call(start, about, timeout_s=timeout_s)
        for result in results:
            if isinstance(result, refusals):
                raise result
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, (RolledBackError, RuntimeInconsistency)):
                raise self._explained(about, result) from result
        return results

    async def _reach(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self.connected()
        except TimeoutError as error:
            raise UnreachableError(
                f"zookeeper {self._config.name}: no connection within {limit_s:.3g} s; is ZooKeeper running there, "
                "and does it have a quorum?"
            ) from error

    async def _ask(
        self, start: Callable[[Client], Any], about: str, refusals: Refusals, rest_s: float, limit_s: float
    ) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.add(future)
        connection = self._connections
        try:
            start(self._client).rawlink(lambda result: self._tell(self._settle, future, result))
            async with asyncio.timeout(rest_s):
                return await future
        except TimeoutError as error:
            if connection == self._connections:
                self._handler.drop()
            raise UnreachableError(
                f"zookeeper {self._config.name}: no answer within {limit_s:.3g} s; it takes connections but does not answer: "
                "is it stopped or overloaded? A write may or may not have been made"
            ) from error
        except (*refusals, ConnectionLoss, KVError):
            raise
        except SessionExpiredError as error:
            raise UnreachableError(f"zookeeper {self._config.name}: the session has expired") from error
        except ConnectionClosedError as error:
            self._check_open()
            raise UnreachableError(f"zookeeper {self._config.name}: the client has ended") from error
        except Exception as error:
            # Of kazoo, or what it made of an answer that makes no sense.
            raise self._explained(about, error) from error
        finally:
            self._waiting.discard(future)

    def _explained(self, about: str, error: Exception) -> KVError:
        text = f"{type(error).__name__} {error}".strip()
        if isinstance(error, NoAuthError):
            text += "; its access list does not let us in"
        elif isinstance(error, NotEmptyError):
            text += "; other programs have put nodes below it: delete them first"
        return KVError(f"zookeeper {self._config.name}: {about}: {text}")

    def _check_open(self) -> None:
        if self._ending is not None:
            raise KVError(f"the client of zookeeper {self._config.name} has been closed")
        if self._dead:
            raise UnreachableError(
                f"zookeeper {self._config.name}: the client failed, on an answer that makes no sense"
            )

    async def close(self, *, keep_session: bool = False) -> bool:
        """Ends the session, or (``keep_session``) leaves it to its timeout, as a process that dies would; returns whether it has ended.

        May be called more than once; the first call decides. Who is cancelled meanwhile waits all the same: its threads are not to outlive
        the store, and it takes seconds at most.
        """
        if self._ending is None:
            self._ending = self._loop.create_task(
                self._end(keep_session), name=f"kv zookeeper {self._config.name}: end"
            )
        try:
            return await asyncio.shield(self._ending)
        except asyncio.CancelledError:
            await asyncio.wait([self._ending])
            raise

    async def _end(self, keep_session: bool) -> bool:
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(KVError(f"the client of zookeeper {self._config.name} has been closed"))
        reached = not (self._down.is_set() or keep_session)
        self._up.set()
        if keep_session:
            self._handler.refuse()
        ended = asyncio.Event()
        threading.Thread(target=self._stop, args=(ended,), name="kv zookeeper end", daemon=True).start()
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await ended.wait()
                    break
            # It may be in the middle of connecting; after that, or once the broken connection is noticed, it ends.
            self._handler.refuse()
        else:
            log.warning("the threads of a client take long to end", zookeeper=self._config.name)
        return self._expired or (reached and self._answered)

    def _stop(self, ended: asyncio.Event) -> None:
        try:
            self._client.stop()
            self._client.close()
        except Exception as error:
            log.warning("a client could not be stopped cleanly", error=f"{type(error).__name__}: {error}")
        self._tell(ended.set)
