"""Ports of loopback for servers that are started later."""

import random
import socket
from collections.abc import Sequence

from lab.errors import LabError

__all__ = ["free_port", "free_ports", "require_free_ports"]

LOOPBACK = "127.0.0.1"
PORTS = range(10_000, 32_000)
"""Below the ports that the system gives to outgoing connections (net.ipv4.ip_local_port_range)."""
_TRIES = 1000


def free_port(hosts: Sequence[str] = (LOOPBACK,)) -> int:
    """A port that nobody listens on at any of ``hosts``, and that no outgoing connection is given before the server takes it.

    Raises ``LabError`` if none is found.
    """
    source = random.SystemRandom()
    for _ in range(_TRIES):
        port = source.choice(PORTS)
        if all(_is_free(host, port) for host in hosts):
            return port
    raise LabError(f"no port that is free on {', '.join(hosts)} was found")


def free_ports(count: int, hosts: Sequence[str] = (LOOPBACK,)) -> list[int]:
    """As many different ones. Raises as ``free_port``."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port(hosts))
    return list(ports)


def require_free_ports(ports: Sequence[int], host: str = LOOPBACK) -> None:
    """Raises ``LabError`` naming the ports of ``host`` that something else listens on."""
    taken = [port for port in ports if not _is_free(host, port, in_time_wait=True)]
    if taken:
        raise LabError(
            f"ports {', '.join(map(str, taken))} of {host} are in use: is another stack running? "
            "Stop it, or free the ports (ss -ltnp shows who listens)"
        )


def _is_free(host: str, port: int, *, in_time_wait: bool = False) -> bool:
    """``in_time_wait``: also if connections of an earlier server are not forgotten yet."""
    with socket.socket() as probe:
        if in_time_wait:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
