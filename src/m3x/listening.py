"""TCP sockets that connections come to."""

import socket

__all__ = ["bound", "name_of"]


def bound(host: str, port: int) -> socket.socket:
    """A socket on this address that does not listen yet; ``port`` may be 0. Raises ``OSError`` naming the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return made


def name_of(listener: socket.socket) -> str:
    """Its address, ``host:port``."""
    name = listener.getsockname()
    return f"[{name[0]}]:{name[1]}" if listener.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
