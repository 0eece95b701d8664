"""Ports of loopback for servers that are started later."""

import random
import socket

__all__ = ["free_port", "free_ports"]

PORTS = range(10_000, 32_000)
"""Below the ports that the system gives to outgoing connections (net.ipv4.ip_local_port_range)."""


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection is given either before the server takes it."""
    source = random.SystemRandom()
    while True:
        port = source.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def free_ports(count: int) -> list[int]:
    """As many different ones."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)
