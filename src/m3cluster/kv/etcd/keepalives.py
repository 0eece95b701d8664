"""The keepalives of all leases of one client, on one stream to one endpoint.

A stream for each keepalive would cost both ends as much again as the keepalive. Answers come in the order of the questions; so a stream is
given up with the first question that has no answer in time, or whose asker is gone: a late answer must never be taken for one to a later
question, whose deadline would count from a moment at which etcd had heard nothing. Who else waits then for an answer learns whether the
endpoint has failed, or whether only the stream is not wanted any more (``GivenUp``): that says nothing of the endpoint.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from m3cluster.kv.etcd.channel import Channel, RPCError
from m3cluster.kv.store import KVError

__all__ = ["GivenUp", "KeepAlives"]


class GivenUp(RPCError):
    """The stream was ended on this side, though the endpoint may be well: ask again on another one."""

    def __init__(self, address: str, method: str, details: str) -> None:
        super().__init__(address, method, "CANCELLED", details)


class KeepAlives:
    """An open stream. ``read`` makes an answer of bytes: the lease, and the seconds granted; it may raise ``KVError``."""

    def __init__(self, channel: Channel, method: str, read: Callable[[bytes], tuple[int, int]]) -> None:
        self.channel = channel
        self._method = method
        self._read = read
        self._stream = channel.stream(method)
        self._asked: deque[tuple[int, asyncio.Future[int]]] = deque()
        self._sending = asyncio.Lock()
        """gRPC takes one message of a stream at a time."""
        self._error: KVError | None = None
        self._reader = asyncio.get_running_loop().create_task(
            self._take(), name=f"kv etcd {channel.address}: keepalives"
        )

    @property
    def usable(self) -> bool:
        """Whether it is open, and of the connection that the channel has now."""
        return self._error is None and not self._stream.outdated

    async def ask(self, lease: int, request: bytes, timeout_s: float) -> int:
        """One keepalive; returns the seconds granted, 0 or less if the lease is over. Raises ``KVError``, and the stream is at its end;
        ``GivenUp`` if someone else ended it."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                async with self._sending:
                    if self._error is not None:
                        raise self._error
                    # Before it is sent: the answer may be read before sending returns.
                    self._asked.append((lease, answer))
                    await self._stream.write(request)
                return await answer
        except TimeoutError:
            details = f"no answer within {timeout_s:.3g} s"
            error = RPCError(self.channel.address, self._method, "DEADLINE_EXCEEDED", details)
            self._fail(error)
            raise error from None
        except KVError as error:
            self._fail(error)
            # What has ended the stream, where sending has only met its end.
            raise self._error or error from None
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                self._fail(GivenUp(self.channel.address, self._method, "whoever asked before has gone"))
                raise
            # A stream that ends cancels what is being sent, for gRPC.
            ended = RPCError(self.channel.address, self._method, "CANCELLED", "the stream has ended")
            self._fail(ended)
            raise self._error or ended from None

    def end(self) -> None:
        """Ends it; whoever waits for an answer is told so."""
        self._fail(GivenUp(self.channel.address, self._method, "the stream was closed"))

    async def close(self) -> None:
        """Ends it and waits until nothing of it runs any more."""
        self.end()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _take(self) -> None:
        try:
            while True:
                lease, ttl_s = self._read(await self._stream.read())
                asked, answer = self._asked[0] if self._asked else (0, None)
                if lease != asked or answer is None:
                    raise KVError(f"etcd {self.channel.address}: answered for lease {lease:x}, asked for {asked:x}")
                self._asked.popleft()
                if not answer.done():
                    answer.set_result(ttl_s)
        except KVError as error:
            self._fail(error)

    def _fail(self, error: KVError) -> None:
        if self._error is not None:
            return
        self._error = error
        for _, answer in self._asked:
            if not answer.done():
                answer.set_exception(error)
                # Of one whose question could not even be sent nobody asks.
                answer.exception()
        self._asked.clear()
        self._stream.cancel()
        if self._reader is not asyncio.current_task():
            self._reader.cancel()
