"""What names a ZooKeeper ensemble and how to talk to it. Needs no kazoo."""

from dataclasses import dataclass

from m3x.tls import ClientTLSConfig

__all__ = ["DEFAULT_PORT", "ZooKeeper"]

DEFAULT_PORT = 2181
_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class ZooKeeper:
    """A ZooKeeper ensemble (3.5 or newer). All times are in seconds.

    ``servers`` are ``host:port`` or ``host`` (port 2181), asked in random order. All nodes are below ``chroot`` (empty: the root).
    ``session_timeout_s`` is that of the session which reads, writes and watches; every lease has a session and a timeout of its own.
    ``connect_timeout_s`` is how long a call waits for a connection, and the client for one server: to take the connection, and then to
    answer the request for a session. ``request_timeout_s`` is how long a call waits for an answer. Watched keys are read again every
    ``watch_silence_s``, whatever ZooKeeper reports, and a connection on which that takes as long again is replaced. ``max_value_bytes``
    goes with the servers' ``jute.maxbuffer`` (1 MiB unless set), which a request must fit into with its path and header.
    """

    servers: tuple[str, ...]
    chroot: str = "/m3"
    session_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 10.0
    watch_silence_s: float = 3.0
    max_value_bytes: int = 1_000_000
    tls: ClientTLSConfig | None = None
    """Of all connections; None: plain text."""

    def __post_init__(self) -> None:
        if not self.servers or not all(server.strip() for server in self.servers):
            raise ValueError(
                "zookeeper needs at least one server, and none may be empty; write host:port, such as zk01:2181"
            )
        for server in self.servers:
            _check_server(server)
        if self.chroot and (not self.chroot.startswith("/") or self.chroot.endswith("/") or "//" in self.chroot):
            raise ValueError(f"zookeeper chroot must be a path such as /m3, or empty, not {self.chroot!r}")
        for name in ("session_timeout_s", "connect_timeout_s", "request_timeout_s", "watch_silence_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"zookeeper {name} must be above 0, not {getattr(self, name)}")
        if self.max_value_bytes < 1:
            raise ValueError(f"zookeeper max_value_bytes must be above 0, not {self.max_value_bytes}")

    @property
    def name(self) -> str:
        """The servers as error messages name them."""
        return ", ".join(self.servers)


def _check_server(server: str) -> None:
    host, separator, port = server.rpartition(":")
    if not separator or server.endswith("]"):
        host, port = server, str(DEFAULT_PORT)
    plain = not any(character in host for character in "/,@ ")
    if not host or not plain or not port.isdecimal() or not 0 < int(port) <= _HIGHEST_PORT:
        raise ValueError(f"zookeeper server {server!r} is not host:port; write it such as zk01:2181")
