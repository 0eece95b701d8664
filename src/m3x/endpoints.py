"""Where services listen and are reached: TCP, ``host:port``, or a socket in the file system of one machine, ``unix:PATH``.

The rest of the house handles endpoints as texts; what is different about the second kind is here. A socket in the file system is for
processes that belong together: who may use it is a matter of the directory that it is in.
"""

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any

from m3x.config import parse_address

__all__ = ["UNIX", "accepted_from", "bound", "check_endpoint", "configure", "connect", "is_unix", "name_of"]

UNIX = "unix:"
LONGEST_PATH = 107
"""Bytes of a path that Linux takes for a socket."""


def is_unix(endpoint: str) -> bool:
    """Whether it names a socket in the file system."""
    return endpoint.startswith(UNIX)


def _path(endpoint: str) -> str:
    return endpoint.removeprefix(UNIX)


def check_endpoint(endpoint: str) -> None:
    """Raises ``ValueError`` for what is none."""
    if not is_unix(endpoint):
        parse_address(endpoint)
        return
    path = _path(endpoint)
    if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > LONGEST_PATH:
        raise ValueError(
            f"{endpoint!r} is not an address; expected unix: and an absolute path of at most {LONGEST_PATH} bytes"
        )


def bound(endpoint: str) -> socket.socket:
    """A socket on this endpoint that does not listen yet; a port may be 0. One in the file system takes the place of an earlier one.

    Raises ``OSError`` naming the endpoint, and ``ValueError`` for what is none.
    """
    check_endpoint(endpoint)
    if is_unix(endpoint):
        path = _path(endpoint)
        _remove_socket(Path(path))
        return _bound(socket.AF_UNIX, path, endpoint)
    host, port = parse_address(endpoint)
    return _bound(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port), f"{host}:{port}")


def _bound(family: int, address: str | tuple[str, int], shown: str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"cannot listen on {shown}: {error.strerror}") from error
    return made


def _remove_socket(path: Path) -> None:
    """What a process that is gone has left."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


def name_of(listener: socket.socket) -> str:
    """Its endpoint."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{name}"
    return f"[{name[0]}]:{name[1]}" if listener.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def accepted_from(address: object) -> str:
    """The peer of an accepted connection, for logs; those of sockets in the file system have no names."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix"


def configure(connection: socket.socket, keep_alive_s: int = 0) -> None:
    """Sends small messages at once, and after ``keep_alive_s`` without traffic asks whether the peer is there (0: never)."""
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keep_alive_s > 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keep_alive_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keep_alive_s)


async def connect(endpoint: str) -> socket.socket:
    """A connection that does not block, to the first address of the host that takes it.

    Raises ``OSError``, and ``ValueError`` for what is no endpoint.
    """
    check_endpoint(endpoint)
    loop = asyncio.get_running_loop()
    if is_unix(endpoint):
        return await _connected(socket.AF_UNIX, _path(endpoint))
    host, port = parse_address(endpoint)
    problem: OSError = OSError(f"{host} has no address")
    for family, _, _, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return await _connected(family, address)
        except OSError as error:
            problem = error
    raise problem


async def _connected(family: int, address: Any) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made
