"""``scripts/bench tls``: what TLS costs an aggregator, a message and a connection.

    scripts/bench tls [--series 20000] [--turns 2] [--seconds 4]

Two instances of one worker, one with plain text and one with TLS (mutual), get the same messages over two connections, as fast as they
acknowledge them; told is the CPU of the front and of all processes a message. Then connections are made and closed, one after the other.
"""

import argparse
import json
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lab.certificates import Authority
from lab.ports import free_port
from lab.processes import module_command

from bench.acks import ENTRY_SIZE
from bench.ingest import SinkProcess
from bench.instance import Aggregator
from bench.loading import machine_ms
from bench.messages import build
from m3x.secure_socket import SecureSocket
from m3x.tls import ClientTLS, ClientTLSConfig

__all__ = ["main"]

_CONNECTIONS = 2
_HANDSHAKES = 300
_READ_BYTES = 1 << 18


def main(values: list[str]) -> int:
    """Runs the benchmark, or one of its loads."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench tls", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=2, help="of each")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn; one before it does not count")
    parser.add_argument("--load", nargs=3, metavar=("TARGET", "CERTIFICATES", "HANDSHAKES"), help=argparse.SUPPRESS)
    options = parser.parse_args(values)
    if min(options.series, options.turns, options.seconds) <= 0:
        parser.error("all numbers must be positive")
    if options.load:
        return _load(*options.load, options.series, options.seconds)
    folder = Path(tempfile.mkdtemp(prefix="m3tls-"))
    authority = Authority(folder)
    server, _ = authority.sign("server", "IP:127.0.0.1"), authority.sign("client")
    tls = {
        "mode": "enforced", "certFile": str(server.cert), "keyFile": str(server.key),
        "clientCAFile": str(authority.cert), "mTLSEnabled": True,
    }  # fmt: skip
    print(f"gauges, {options.series} series; machine: {machine_ms():.1f} ms", flush=True)
    sink = SinkProcess()
    try:
        for name, section, certificates in (("plain text", {}, ""), ("TLS", {"tls": tls}, str(folder))):
            address = f"127.0.0.1:{free_port()}"
            overlay = {"m3msg": {"server": {"listenAddress": address, **section}}}
            with Aggregator(1, sink.address, overlay, address) as aggregator:
                _measure(options, name, aggregator, certificates)
    finally:
        sink.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _measure(options: argparse.Namespace, name: str, aggregator: Aggregator, certificates: str) -> None:
    def loaded(handshakes: int) -> tuple[dict[str, Any], dict[str, float]]:
        load = [aggregator.address, certificates, str(handshakes)]
        command = ["tls", "--series", str(options.series), "--seconds", str(options.seconds), "--load", *load]
        with subprocess.Popen(module_command("bench", *command), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            # Building the messages is not measured.
            process.stdout.readline()
            before = aggregator.cpu()
            result = json.loads(process.stdout.readline())
            after = aggregator.cpu()
        return result, {part: after[part] - before[part] for part in after}

    loaded(0)
    turns = [loaded(0) for _ in range(options.turns)]
    fronts = [cpu["front"] / result["acked"] * 1e6 for result, cpu in turns]
    whole = [sum(cpu.values()) / result["acked"] * 1e6 for result, cpu in turns]
    rate = statistics.median(result["acked"] / result["seconds"] for result, _ in turns)
    result, cpu = loaded(_HANDSHAKES)
    print(
        f"  {name:10}: front {statistics.median(fronts):.3f} us a message of {result['message_bytes']} bytes, all processes "
        f"{statistics.median(whole):.3f}; {rate / 1e3:.0f} k a second; a connection {cpu['front'] / _HANDSHAKES * 1e3:.2f} ms of the front",
        flush=True,
    )


class _Client:
    """One connection, plain or not, that does not block."""

    def __init__(self, target: str, tls: ClientTLS | None) -> None:
        host, port = target.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)))
        plain.setblocking(False)
        self.sock: socket.socket | SecureSocket = plain
        if tls is not None:
            self.sock = secure = SecureSocket(plain, tls.context(), host)
            while events := secure.shake():
                select.select(
                    [secure] if events == select.EPOLLIN else [], [secure] if events != select.EPOLLIN else [], []
                )
        self.rest = memoryview(b"")
        self.sent = self.acked = 0
        self._partial = b""

    def take(self, data: bytes) -> None:
        """Counts what is acknowledged."""
        data, at = self._partial + data, 0
        while len(data) - at >= 4 and len(data) - at - 4 >= (size := int.from_bytes(data[at : at + 4], "big")):
            self.acked += size // ENTRY_SIZE
            at += 4 + size
        self._partial = data[at:]


def _load(target: str, certificates: str, handshakes: str, series: int, seconds: float) -> int:
    """Sends to ``target``, or only makes connections; prints what came of it."""
    tls = None
    if certificates:
        folder = Path(certificates)
        ca, cert, key = (str(folder / name) for name in ("authority.pem", "client.pem", "client.key"))
        tls = ClientTLS(ClientTLSConfig(ca_file=ca, cert_file=cert, key_file=key))
    frames = build("gauge", series, series, 10)
    print("built", flush=True)
    began = time.monotonic()
    clients: list[_Client] = []
    if int(handshakes):
        for _ in range(int(handshakes)):
            _Client(target, tls).sock.close()
    else:
        clients = [_Client(target, tls) for _ in range(_CONNECTIONS)]
        frames.stamp(time.time_ns())
        _send(clients, memoryview(frames.matrix.tobytes()), len(frames.matrix), began + seconds)
    acked = sum(client.acked for client in clients)
    size = frames.matrix.shape[1]
    print(json.dumps({"acked": acked, "seconds": time.monotonic() - began, "message_bytes": size}), flush=True)
    for client in clients:
        client.sock.close()
    return 0


def _send(clients: list[_Client], data: memoryview, count: int, until: float) -> None:
    """The same messages again and again, until the time and then the acks are there."""
    by_fd = {client.sock.fileno(): client for client in clients}
    poll = select.epoll()
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN | select.EPOLLOUT)
    while time.monotonic() < until or any(client.rest or client.acked < client.sent for client in clients):
        for fd, events in poll.poll(0.1):
            client = by_fd[fd]
            try:
                if events & select.EPOLLIN:
                    client.take(client.sock.recv(_READ_BYTES))
                if not client.rest and time.monotonic() < until:
                    client.rest, client.sent = data, client.sent + count
                if client.rest:
                    client.rest = client.rest[client.sock.send(client.rest) :]
                elif time.monotonic() >= until:
                    poll.modify(fd, select.EPOLLIN)
            except BlockingIOError:
                pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
