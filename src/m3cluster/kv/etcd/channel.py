"""gRPC as the store needs it: bytes to and from one endpoint. The only module that touches grpcio; import it when etcd is used.

Messages cross as bytes, so that an answer that is no message is an error of ours and not of gRPC's. ``ready`` is apart from ``unary``: what
fails before a call is sent has certainly not happened, what fails afterwards may have.
"""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]

from m3cluster.kv.etcd.config import Etcd, EtcdTLS
from m3cluster.kv.store import KVError

__all__ = ["Channel", "RPCError", "Stream", "credentials", "open_channel"]

_MAX_MESSAGE_BYTES = 32 << 20
_RECONNECT_MS = 100
_MAX_RECONNECT_MS = 1000
_MAX_ATTEMPT_S = 5.0
"""One attempt to connect is not waited for longer: after a network failure a new one succeeds sooner than TCP's own repetitions."""
_RENEW_S = 5.0
"""A connection that does not answer is replaced at most this often."""
_ENDED = (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.InternalError)
"""What gRPC raises, besides its own errors with a status, for a call that ended a moment ago."""
_REQUIRE_LEADER = (("hasleader", "true"),)
"""A member cut off from its cluster then refuses a call instead of answering from the past."""


class RPCError(KVError):
    """A call that failed. ``code`` is gRPC's name of the status, ``sent`` whether the server may have carried it out."""

    def __init__(self, address: str, method: str, code: str, details: str, *, sent: bool = True) -> None:
        name = method.rpartition("/")[2] or "connecting"
        self.advice = _advice(code, details)
        super().__init__(f"etcd {address}: {name} failed: {details or 'no details'} ({code}){self.advice}")
        self.code = code
        self.details = details
        self.sent = sent

    @property
    def unreachable(self) -> bool:
        """Whether another endpoint, or the same one later, may well answer."""
        return self.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def _advice(code: str, details: str) -> str:
    if "space exceeded" in details:
        return "; etcd's database is full: compact and defragment it, then disarm the alarm"
    if "too large" in details or code == "RESOURCE_EXHAUSTED":
        return "; the message is larger than etcd accepts: see its --max-request-bytes"
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return "; etcd asks for a user, which M3's configuration cannot name: use client certificates instead"
    if code in ("UNIMPLEMENTED", "UNKNOWN", "INTERNAL"):
        return "; is this the client port of an etcd 3.4 or newer?"
    if code == "UNAVAILABLE":
        return "; is etcd running, with a leader, and are host, port and TLS of the endpoint right?"
    if code == "DEADLINE_EXCEEDED":
        return "; etcd takes connections but does not answer: look at its load, disk and quorum"
    return ""


def credentials(tls: EtcdTLS) -> grpc.ChannelCredentials:
    """Reads the PEM files. Raises ``KVError`` naming the file that cannot be read."""
    return grpc.ssl_channel_credentials(
        root_certificates=_pem(tls.ca_path, "CA"),
        private_key=_pem(tls.key_path, "key"),
        certificate_chain=_pem(tls.cert_path, "certificate"),
    )


def _pem(path: str | Path, what: str) -> bytes | None:
    if not str(path):
        return None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise KVError(f"cannot read etcd's TLS {what} file {path}: {error.strerror or error}") from error
    if b"-----BEGIN" not in data:
        raise KVError(f"etcd's TLS {what} file {path} is not PEM: expected a line '-----BEGIN …'")
    return data


def open_channel(config: Etcd, endpoint: str, given: grpc.ChannelCredentials | None) -> "Channel":
    """A channel to one endpoint; connects when it is first used. Call it inside a running loop."""
    scheme, mark, rest = endpoint.strip().rpartition("://")
    address = (rest if mark else endpoint.strip()).rstrip("/")
    options: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
        ("grpc.min_reconnect_backoff_ms", max(1, int(min(config.dial_timeout_s, _MAX_ATTEMPT_S) * 1000))),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        # It would ask the peer for a ping's answer with whatever comes, to learn how large a window large messages are worth.
        ("grpc.http2.bdp_probe", 0),
    ]
    if config.keepalive_s > 0:
        period_s = config.keepalive_s + random.random() * config.keepalive_jitter_s
        options += [
            ("grpc.keepalive_time_ms", int(period_s * 1000)),
            ("grpc.keepalive_timeout_ms", max(1, int(config.keepalive_timeout_s * 1000))),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    target = f"dns:///{address}"
    if scheme == "https" and given is None:
        given = grpc.ssl_channel_credentials()

    def connection() -> Any:
        if given is not None:
            return grpc.aio.secure_channel(target, given, options=options)
        return grpc.aio.insecure_channel(target, options=options)

    return Channel(address, connection, config.request_timeout_s)


class Channel:
    """The connection to one endpoint; gRPC makes it anew by itself when it breaks, ``renew`` when it only hangs.

    ``make`` gives a new connection of gRPC's; calls under way on a renewed one have ``linger_s`` to end.
    """

    def __init__(self, address: str, make: Callable[[], Any], linger_s: float) -> None:
        self.address = address
        self._make = make
        self._linger_s = linger_s
        self._channel = make()
        self._renewed_s = 0.0
        self._old: dict[asyncio.Task[None], Any] = {}
        self._closed = False

    @property
    def connection(self) -> object:
        """gRPC's, that calls are made on now."""
        return self._channel

    def renew(self) -> None:
        """The connection does not answer, though it has not broken: later calls get a new one."""
        loop = asyncio.get_running_loop()
        if self._closed or loop.time() - self._renewed_s < _RENEW_S:
            return
        old, self._channel = self._channel, self._make()
        self._renewed_s = loop.time()
        task = loop.create_task(self._retire(old), name=f"kv etcd {self.address}: old connection")
        self._old[task] = old
        task.add_done_callback(self._old.pop)

    async def _retire(self, old: Any) -> None:
        await asyncio.sleep(self._linger_s)
        await old.close()

    async def ready(self, timeout_s: float) -> None:
        """Returns once connected; raises ``RPCError`` as soon as a connection attempt has failed."""
        try:
            async with asyncio.timeout(timeout_s):
                while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        raise RPCError(self.address, "", "UNAVAILABLE", "no connection", sent=False)
                    if state is grpc.ChannelConnectivity.SHUTDOWN:
                        raise RPCError(self.address, "", "CANCELLED", "the store has been closed", sent=False)
                    await self._channel.wait_for_state_change(state)
        except TimeoutError:
            details = f"no connection within {timeout_s:.3g} s"
            raise RPCError(self.address, "", "UNAVAILABLE", details, sent=False) from None
        except grpc.aio.UsageError as error:
            raise RPCError(self.address, "", "CANCELLED", str(error), sent=False) from error

    async def unary(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """One call, one answer; raises ``RPCError``."""
        call = self._channel.unary_unary(method)
        try:
            return bytes(await call(request, timeout=timeout_s, metadata=_REQUIRE_LEADER))
        except grpc.aio.AioRpcError as error:
            raise self._error(method, error) from None
        except grpc.aio.UsageError as error:
            raise RPCError(self.address, method, "CANCELLED", str(error), sent=False) from error
        except grpc.aio.InternalError as error:
            raise RPCError(self.address, method, "UNAVAILABLE", str(error)) from error
        except asyncio.CancelledError:
            self._raise_if_closed(method)
            raise

    def stream(self, method: str, timeout_s: float | None = None) -> "Stream":
        """A stream in both directions."""
        call = self._channel.stream_stream(method)(timeout=timeout_s, metadata=_REQUIRE_LEADER)
        return Stream(self, self._channel, method, call)

    def _raise_if_closed(self, method: str) -> None:
        """gRPC cancels what is under way when a channel is closed: an error for the caller, unless he was cancelled himself."""
        task = asyncio.current_task()
        if self._closed and not (task and task.cancelling()):
            raise RPCError(self.address, method, "CANCELLED", "the store has been closed") from None

    def _error(self, method: str, error: Any) -> RPCError:
        details = str(error.details() or "").partition("\n")[0][:300]
        # Kept short: gRPC's own debug string repeats the details with addresses of its objects.
        return RPCError(self.address, method, error.code().name, details)

    async def close(self) -> None:
        """Ends all calls and the connection."""
        self._closed = True
        retiring = dict(self._old)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        for channel in (self._channel, *retiring.values()):
            await channel.close()


class Stream:
    """Messages in both directions; every method raises ``RPCError`` once the stream has ended."""

    def __init__(self, channel: Channel, connection: Any, method: str, call: Any) -> None:
        self._channel = channel
        self._connection = connection
        self._method = method
        self._call = call

    @property
    def outdated(self) -> bool:
        """Whether its channel has another connection by now."""
        return self._channel.connection is not self._connection

    async def write(self, request: bytes) -> None:
        """Sends one message."""
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise self._channel._error(self._method, error) from None
        except _ENDED as error:
            raise self._ended(str(error)) from None

    async def read(self) -> bytes:
        """The next message. Cancelling it ends the stream."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._channel._error(self._method, error) from None
        except _ENDED as error:
            raise self._ended(str(error)) from None
        except asyncio.CancelledError:
            self._channel._raise_if_closed(self._method)
            raise
        if message is grpc.aio.EOF:
            raise self._ended("the server ended the stream")
        return bytes(message)

    def cancel(self) -> None:
        """Ends it; may be called more than once."""
        self._call.cancel()

    def _ended(self, details: str) -> RPCError:
        return RPCError(self._channel.address, self._method, "UNAVAILABLE", details)
