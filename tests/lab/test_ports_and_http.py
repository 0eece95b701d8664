"""Ports that somebody listens on, and answers with an error status."""

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
from lab.errors import LabError
from lab.http import get, get_json, request, try_get
from lab.ports import PORTS, free_port, free_ports, require_free_ports


def test_ports_that_are_taken_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LabError, match=f"ports {port} of 127.0.0.1 are in use"):
            require_free_ports((free_port(), port))
    require_free_ports((port,))


def test_free_ports_differ_and_are_free_on_every_host() -> None:
    hosts = ("127.0.0.1", "127.0.0.2")
    ports = free_ports(3, hosts)
    assert len(set(ports)) == 3
    for host in hosts:
        require_free_ports(ports, host)
    assert set(ports) <= set(PORTS)
    with pytest.raises(LabError, match=r"no port that is free on 192\.0\.2\.1 was found"):
        free_port(("192.0.2.1",))


class Teapot(http.server.BaseHTTPRequestHandler):
    """Answers what it was sent, with status 418."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b'{"short": true}'
        self.send_response(418)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def teapot() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Teapot)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_error_status_is_an_answer(teapot: str) -> None:
    assert request("POST", teapot, b"tea", {"X": "y"}) == (418, b"tea")
    assert get(teapot) == try_get(teapot) == (418, '{"short": true}')
    assert get_json(teapot) == {"short": True}


def test_nobody_s_answer_is_an_error_or_a_reason() -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    with pytest.raises(OSError, match="refused"):
        get(url)
    status, reason = try_get(url)
    assert status == 0
    assert "refused" in reason
