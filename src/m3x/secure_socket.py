"""A TLS connection for a loop that reads and writes its sockets itself: the methods and errors of a socket that does not block.

Encrypted are records of at most 16 KiB. OpenSSL holds a record that it has decrypted until all of it is taken, and a descriptor says
nothing of that; so ``recv_into`` leaves nothing behind wherever it has room for a record. What a write did not get rid of has to be
written again as it was, as this record is encrypted already.
"""

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import Sequence

__all__ = ["RECORD_BYTES", "SecureSocket", "ready"]

RECORD_BYTES = 16384
"""The most that a record holds."""

Buffer = bytes | memoryview


class SecureSocket:
    """Takes over ``sock``, which is connected and does not block. ``server_name``: of the peer; None: the peer is a client."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str | None = None) -> None:
        self.shaken = False
        """Whether the handshake has ended."""
        serves = server_name is None
        # A server that ends without saying so has not accepted us, or has died; of a client it is nothing remarkable.
        self._sock = context.wrap_socket(
            sock,
            server_side=serves,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=serves,
            server_hostname=server_name,
        )

    @property
    def family(self) -> int:
        """Of the socket."""
        return self._sock.family

    def fileno(self) -> int:
        """Of the socket."""
        return self._sock.fileno()

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Of the socket."""
        return self._sock.getsockopt(level, option, size)

    def shake(self) -> int:
        """Goes on with the handshake; what of the socket has to be awaited first (``select.EPOLLIN``, ``EPOLLOUT``), 0: it has ended.

        Raises ``OSError``.
        """
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            return select.EPOLLIN
        except ssl.SSLWantWriteError:
            return select.EPOLLOUT
        self.shaken = True
        return 0

    @property
    def pending(self) -> bool:
        """Whether a part of a record was left behind, of which the descriptor says nothing."""
        return self.shaken and self._sock.pending() > 0

    def recv_into(self, target: memoryview) -> int:
        """Reads records as long as there is room for a whole one, or one into less room; 0: the peer has finished.

        So less than all but ``RECORD_BYTES`` means that nothing more is there. Raises ``BlockingIOError`` where there is nothing, or the
        handshake has not ended; other ``OSError`` where the connection is of no use.
        """
        if not self.shaken and self.shake():
            raise BlockingIOError
        room, got = len(target), 0
        try:
            while got == 0 or room - got >= RECORD_BYTES:
                nbytes = self._sock.recv_into(target[got:])
                if nbytes == 0:
                    break
                got += nbytes
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not got:
                raise BlockingIOError from None
        return got

    def recv(self, nbytes: int) -> bytes:
        """As ``recv_into``."""
        buffer = bytearray(nbytes)
        with memoryview(buffer) as view:
            got = self.recv_into(view)
        return bytes(buffer[:got])

    def send(self, data: Buffer) -> int:
        """Writes at most one record. Raises as ``recv_into``."""
        try:
            return self._sock.send(data[:RECORD_BYTES])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def sendmsg(self, parts: Sequence[Buffer]) -> int:
        """Writes as many records as the socket takes. Raises as ``recv_into``."""
        data = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        sent = 0
        try:
            while sent < len(data):
                sent += self.send(data[sent:])
        except BlockingIOError:
            if not sent:
                raise
        return sent

    def close(self) -> None:
        """Tells the peer, if that is possible at once, and closes."""
        if self.shaken:
            with contextlib.suppress(OSError, ValueError):
                self._sock.unwrap()
        self._sock.close()


async def ready(sock: "socket.socket | SecureSocket", events: int) -> None:
    """Waits for what ``shake`` says, on the running loop."""
    loop = asyncio.get_running_loop()
    come: asyncio.Future[None] = loop.create_future()

    def is_ready() -> None:
        if not come.done():
            come.set_result(None)

    add, remove = (
        (loop.add_writer, loop.remove_writer) if events == select.EPOLLOUT else (loop.add_reader, loop.remove_reader)
    )
    add(sock, is_ready)
    try:
        await come
    finally:
        remove(sock)
