"""Calls to an etcd cluster: messages to bytes and back, and which endpoint is asked.

One endpoint is asked for as long as it answers; what fails moves on to the next one. A read is repeated there. A write is repeated only if
it has certainly not been sent: it may have been carried out even though its answer was lost, and a second one could not be told from
someone else's.
"""

import asyncio
from dataclasses import dataclass
from functools import partial

from m3cluster.kv.contact import Contact
from m3cluster.kv.etcd import messages
from m3cluster.kv.etcd.channel import Channel, RPCError, credentials, open_channel
from m3cluster.kv.etcd.config import Etcd
from m3cluster.kv.etcd.keepalives import GivenUp, KeepAlives
from m3cluster.kv.store import KVError
from m3cluster.proto import DecodeError, Message, MessageValue, decode, encode

__all__ = [
    "DELETE_RANGE",
    "LEASE_GRANT",
    "LEASE_KEEP_ALIVE",
    "LEASE_REVOKE",
    "PUT",
    "RANGE",
    "RPC",
    "TXN",
    "WATCH",
    "Connection",
    "connect",
    "read_answer",
]


@dataclass(frozen=True, slots=True)
class RPC:
    """A method and its messages."""

    method: str
    request: Message
    response: Message


RANGE = RPC("/etcdserverpb.KV/Range", messages.RANGE_REQUEST, messages.RANGE_RESPONSE)
PUT = RPC("/etcdserverpb.KV/Put", messages.PUT_REQUEST, messages.PUT_RESPONSE)
DELETE_RANGE = RPC("/etcdserverpb.KV/DeleteRange", messages.DELETE_RANGE_REQUEST, messages.DELETE_RANGE_RESPONSE)
TXN = RPC("/etcdserverpb.KV/Txn", messages.TXN_REQUEST, messages.TXN_RESPONSE)
WATCH = RPC("/etcdserverpb.Watch/Watch", messages.WATCH_REQUEST, messages.WATCH_RESPONSE)
LEASE_GRANT = RPC("/etcdserverpb.Lease/LeaseGrant", messages.LEASE_GRANT_REQUEST, messages.LEASE_GRANT_RESPONSE)
LEASE_REVOKE = RPC("/etcdserverpb.Lease/LeaseRevoke", messages.LEASE_REVOKE_REQUEST, messages.LEASE_REVOKE_RESPONSE)
LEASE_KEEP_ALIVE = RPC(
    "/etcdserverpb.Lease/LeaseKeepAlive", messages.LEASE_KEEP_ALIVE_REQUEST, messages.LEASE_KEEP_ALIVE_RESPONSE
)


def read_answer(address: str, rpc: RPC, data: bytes) -> MessageValue:
    """The answer of ``rpc`` with a header in place. Raises ``KVError`` naming the endpoint."""
    try:
        answer = decode(rpc.response, data)
    except DecodeError as error:
        raise KVError(f"etcd {address}: {error}; is this the client port of an etcd 3.4 or newer?") from error
    if answer["header"] is None:
        answer["header"] = {"revision": 0}
    return answer


def _granted(address: str, data: bytes) -> tuple[int, int]:
    answer = read_answer(address, LEASE_KEEP_ALIVE, data)
    return answer["id"], answer["ttl"]


def connect(config: Etcd) -> "Connection":
    """Channels to all endpoints; nothing is sent yet. Raises ``KVError`` for TLS files that cannot be used."""
    given = credentials(config.tls) if config.tls is not None else None
    try:
        channels = [open_channel(config, endpoint, given) for endpoint in config.endpoints]
    except ValueError as error:
        raise KVError(f"etcd {', '.join(config.endpoints)}: {error}; look at its TLS files") from error
    return Connection(config, channels)


class Connection:
    """The endpoints of one cluster and which of them is in use."""

    def __init__(self, config: Etcd, channels: list[Channel]) -> None:
        self._config = config
        self._channels = channels
        self.contact = Contact(f"etcd {', '.join(channel.address for channel in channels)}")
        self._current = 0
        self._keeps: KeepAlives | None = None
        """Where keepalives go; None: none has gone yet."""
        self._closed = False

    @property
    def name(self) -> str:
        """All endpoints, for messages."""
        return ", ".join(channel.address for channel in self._channels)

    @property
    def current(self) -> Channel:
        """The endpoint in use."""
        return self._channels[self._current]

    def move_on(self, failed: Channel) -> None:
        """``failed`` did not answer: the next one is in use from now on, unless someone has moved on already."""
        if self.current is failed:
            self._current = (self._current + 1) % len(self._channels)

    async def call(self, rpc: RPC, request: MessageValue, *, repeatable: bool = False) -> MessageValue:
        """Asks the endpoints in turn, within the request timeout in total. Raises ``RPCError``, or ``KVError`` for an unreadable answer."""
        body = encode(rpc.request, request)
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._config.request_timeout_s
        for others in reversed(range(len(self._channels))):
            channel = self.current
            try:
                share_s = (give_up - loop.time()) / (others + 1)
                await channel.ready(max(min(share_s, self._config.dial_timeout_s), 0.001))
                left_s = give_up - loop.time()
                timeout_s = max(left_s / (others + 1) if repeatable else left_s, 0.001)
                answer = read_answer(channel.address, rpc, await channel.unary(rpc.method, body, timeout_s))
                self.contact.answered()
                return answer
            except RPCError as error:
                if not error.unreachable:
                    raise
                self.move_on(channel)
                if not others:
                    self.contact.failed(f"{error.details} ({error.code}){error.advice}")
                if error.sent and not repeatable:
                    details = f"{error.details}; the write may have been carried out"
                    raise RPCError(channel.address, rpc.method, error.code, details) from error
                if not others:
                    raise RPCError(self.name, rpc.method, error.code, error.details, sent=error.sent) from error
        raise AssertionError("a configuration has at least one endpoint")

    async def keep_alive(self, lease: int, timeout_s: float) -> int:
        """One keepalive; returns the seconds granted, 0 or less if the lease is over. Raises ``KVError``: the next one asks the next
        endpoint, whatever the other calls of the client are waiting for."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + min(timeout_s, self._config.request_timeout_s)
        while True:
            channel = self.current
            try:
                await channel.ready(max(min(give_up - loop.time(), self._config.dial_timeout_s), 0.001))
                stream = self._keep_alives(channel)
                left_s = max(give_up - loop.time(), 0.001)
                return await stream.ask(lease, encode(LEASE_KEEP_ALIVE.request, {"id": lease}), left_s)
            except GivenUp:
                # For another lease's sake: the endpoint has not failed, and there is another stream to it.
                if self._closed or loop.time() >= give_up:
                    raise
            except KVError as error:
                self.move_on(channel)
                if isinstance(error, RPCError) and error.code == "DEADLINE_EXCEEDED":
                    channel.renew()
                raise

    def _keep_alives(self, channel: Channel) -> KeepAlives:
        """The stream on the connection that ``channel`` has now."""
        stream = self._keeps
        if stream is None or not stream.usable or stream.channel is not channel:
            if stream is not None:
                stream.end()
            stream = self._keeps = KeepAlives(channel, LEASE_KEEP_ALIVE.method, partial(_granted, channel.address))
        return stream

    async def close(self) -> None:
        """Ends all calls and connections."""
        self._closed = True
        if self._keeps is not None:
            await self._keeps.close()
        for channel in self._channels:
            await channel.close()
