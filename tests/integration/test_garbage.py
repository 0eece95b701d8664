"""Garbage to every port: a clear answer or a closed connection for whoever sent it, and nothing else disturbed."""

import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cramjam
import pytest
from lab import http
from lab.prometheus import EQUAL, remote_read, remote_write

from m3msg.frames import Message, Metadata, encode_message


def m3msg_garbage() -> dict[str, bytes]:
    """What may arrive on an m3msg port, by name."""
    noise = random.Random(5)
    good = encode_message(Message(Metadata(1, 2, 3), b"value"))
    return {
        "random bytes": noise.randbytes(4096),
        "zeros": bytes(4096),
        "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "a truncated frame": good[:-2],
        "an oversized length": struct.pack(">I", (4 << 20) + 1) + b"x" * 64,
        "the largest length": b"\xff\xff\xff\xff" + b"x" * 64,
        "a frame that is not a message": struct.pack(">I", 4) + b"\xff\xff\xff\xff",
        "metadata of the wrong type": struct.pack(">I", 3) + b"\x08\x01\x00",
        "a value that is not a metric": encode_message(Message(Metadata(1, 2, 3), noise.randbytes(200))),
        "an empty value": encode_message(Message(Metadata(1, 2, 3), b"")),
        "a metric without payload": encode_message(Message(Metadata(1, 2, 3), b"\x08\x03")),
        "an unknown metric type": encode_message(Message(Metadata(1, 2, 3), b"\x08\x63")),
        "a long varint": encode_message(Message(Metadata(1, 2, 3), b"\xff" * 30)),
    }


def throw(address: str, data: bytes) -> None:
    """Sends the bytes and hangs up; a server that closes first is right to do so."""
    host, port = address.rsplit(":", 1)
    with (
        contextlib.suppress(ConnectionError, socket.timeout),
        socket.create_connection((host, int(port)), timeout=5) as connection,
    ):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(2)
        while connection.recv(65536):
            pass


def request(
    url: str, body: bytes | None, method: str = "POST", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Status and text of the answer."""
    status, answer = http.request(method, url, body, headers)
    return status, answer.decode(errors="replace")


class Stack:
    """A serving stack and the proof that it still serves."""

    def __init__(self, deployment, aggregator, address: str) -> None:
        self.deployment, self.aggregator, self.address = deployment, aggregator, address
        self.probes = 0

    def probe(self) -> tuple[str, float, int]:
        """Writes a sample of a new series; what must come back later."""
        self.probes += 1
        name, now = f"probe_{self.probes}", int(time.time())
        remote_write(self.deployment.base, [((("__name__", name),), self.probes + 0.5, now * 1000)])
        return name, self.probes + 0.5, now

    def arrived(self, probe: tuple[str, float, int]) -> bool:
        """Whether the probe's window reached storage with the right value."""
        name, value, now = probe
        points = remote_read(self.deployment.base, [("__name__", EQUAL, name)], (now - 10) * 1000, (now + 60) * 1000)
        return [v for one in points.values() for v in one.values()] == [value]


@pytest.fixture(scope="module")
def stack(module_deployment) -> Iterator[Stack]:
    """One stack for all tests of this file."""
    deployment = module_deployment
    aggregator = deployment.start_local()
    yield Stack(deployment, aggregator, aggregator.address)
    assert deployment.stop() == {"coordinator": 0, "aggregator": 0}


def test_garbage_to_m3msg_ports(stack: Stack, wait) -> None:
    probes = []
    for name, data in m3msg_garbage().items():
        probes.append(stack.probe())
        throw(stack.address, data)
        throw(f"127.0.0.1:{stack.deployment.ingest}", data)
        throw(stack.address, encode_message(Message(Metadata(1, 1, 1), b"\x08\x03")) + data)
        # A host whose connections end may be waited for.
        wait(f"it is ready after {name}", stack.aggregator.ready, 30)

    def log() -> str:
        processes = stack.aggregator.process, stack.deployment.processes["coordinator"]
        return "".join(process.log_file.read_text() for process in processes)

    wait("too long a frame is said", lambda: "longest" in log() or "longer than" in log())
    assert "Traceback" not in log()
    for probe in probes:
        wait("the samples written meanwhile are stored", lambda p=probe: stack.arrived(p), 60)


def test_garbage_to_carbon(stack: Stack, wait) -> None:
    with socket.create_connection(("127.0.0.1", stack.deployment.carbon)) as connection:
        now = int(time.time())
        for line in (
            b"\xff\xfe\x00",
            b"no value",
            b"a.b x 1",
            b"a.b 1 y",
            b" a.b 1 2",
            b"a.b 1 2 3",
            b"a..b 1 2",
            b"x" * 300_000,
        ):
            connection.sendall(line + b"\n")
        connection.sendall(f"demo.last.after-garbage 4.25 {now}\n".encode())
    with socket.create_connection(("127.0.0.1", stack.deployment.carbon)) as connection:
        connection.sendall(f"demo.last.another-connection 4.25 {now}\n".encode())
    for name in ("after-garbage", "another-connection"):
        wait(
            "good lines are stored",
            lambda n=name: remote_read(
                stack.deployment.base, [("__g2__", EQUAL, n)], (now - 10) * 1000, (now + 60) * 1000
            ),
            60,
        )


@pytest.mark.parametrize(
    ("name", "body", "answer"),
    [
        ("an empty body", b"", 400),
        ("not snappy", b"hello, this is not snappy", 400),
        ("snappy of noise", bytes(cramjam.snappy.compress_raw(random.Random(6).randbytes(500))), 400),
        ("a huge claimed length", b"\xff\xff\xff\xff\x0f" + b"x" * 20, 413),
        ("a label without name", bytes(cramjam.snappy.compress_raw(b"\x0a\x07\x0a\x05\x0a\x00\x12\x01x")), 400),
    ],
)
def test_bad_remote_writes_are_refused_with_a_reason(stack: Stack, name: str, body: bytes, answer: int) -> None:
    status, text = request(f"{stack.deployment.base}/api/v1/prom/remote/write", body)
    assert status == answer, (name, status, text)
    assert json.loads(text)["status"] == "error"
    assert json.loads(text)["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"text"', b'{"num_shards": 1.5}', b'{"instances": 3}', b"\xff\xfe", b"{" * 5000]
)
@pytest.mark.parametrize(
    "path", ["/api/v1/services/m3aggregator/placement/init", "/api/v1/topic/init", "/api/v1/topic"]
)
def test_bad_json_to_the_admin_api(stack: Stack, path: str, body: bytes) -> None:
    status, text = request(stack.deployment.base + path, body, headers={"Cluster-Environment-Name": "garbage"})
    assert 400 <= status <= 500, (status, text)
    assert json.loads(text)["error"]


def test_bad_queries(stack: Stack) -> None:
    base = stack.deployment.base
    for path in (
        "/api/v1/query", "/api/v1/query?query=", "/api/v1/query?query=up{", "/api/v1/query?query=up&time=noon",
        "/api/v1/query?query=%7Ba%3D~%22(%22%7D",
        "/api/v1/query_range?query=up&start=1&end=0&step=1", "/api/v1/query_range?query=up&start=0&end=10&step=0", "/api/v1/series",
    ):  # fmt: skip
        status, text = request(base + path, None, "GET")
        assert status == 400, (path, status, text)
        assert json.loads(text)["status"] == "error"
    status, text = request(f"{base}/api/v1/query?query=rate(up%5B1m%5D)", None, "GET")
    assert status >= 400
    assert "/api/v1/prom/remote/read" in text
    assert request(f"{base}/api/v1/prom/remote/read", b"noise")[0] == 400


def test_noise_to_http_ports(stack: Stack, wait) -> None:
    ports = [stack.deployment.http, stack.deployment.coordinator_metrics]
    ports += [int(url.split(":")[2].split("/")[0]) for url in (stack.aggregator.http, stack.aggregator.metrics_url)]
    for port in ports:
        for data in (
            random.Random(port).randbytes(2000),
            b"GET\r\n\r\n",
            b"POST / HTTP/9.9\r\nContent-Length: -1\r\n\r\n",
        ):
            throw(f"127.0.0.1:{port}", data)
    wait("it is ready", stack.aggregator.ready, 30)
    assert request(f"{stack.deployment.base}/health", None, "GET")[0] == 200
    assert request(stack.aggregator.metrics_url, None, "GET")[0] == 200


BAD_YAML = ["a: [", "nonsense: 1\n", "- 1\n", "http: {listenAddress: 5}\nlistenAddress: {}\n", "\x00"]


@pytest.mark.parametrize(
    # An empty file is a coordinator with all defaults; an aggregator must be told where the cluster state is.
    ("module", "text"),
    [(module, text) for module in ("aggregator", "coordinator") for text in BAD_YAML] + [("aggregator", "")],
)
def test_bad_yaml_is_one_line_per_problem(tmp_path: Path, module: str, text: str) -> None:
    path = tmp_path / "bad.yml"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", module, "-f", str(path), "--check-config"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
