"""Sockets that listen, and those that do not yet; TCP and the file system."""

import asyncio
import errno
import socket
from pathlib import Path

import pytest

from m3x.endpoints import accepted_from, bound, check_endpoint, configure, connect, is_unix, name_of


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_it_listens_when_it_is_told_to(host: str, shown: str) -> None:
    with bound(f"{shown}:0") as listener:
        port = listener.getsockname()[1]
        assert name_of(listener) == f"{shown}:{port}"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port))
        listener.listen()
        socket.create_connection((host, port)).close()


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use") as found:
            bound(f"127.0.0.1:{port}")
    assert found.value.errno == errno.EADDRINUSE


async def test_a_socket_in_the_file_system_is_reached_by_its_name(tmp_path: Path) -> None:
    endpoint = f"unix:{tmp_path / 's'}"
    assert is_unix(endpoint)
    with bound(endpoint) as listener:
        assert name_of(listener) == endpoint
        with pytest.raises(ConnectionRefusedError):
            await connect(endpoint)
        listener.listen()
        with await connect(endpoint) as made:
            accepted, address = listener.accept()
            configure(accepted, 10)
            configure(made)
            accepted.send(b"x")
            assert await asyncio.get_running_loop().sock_recv(made, 10) == b"x"
            assert accepted_from(address) == "unix"
            accepted.close()


def test_a_socket_that_a_dead_process_left_is_replaced_and_no_other_file(tmp_path: Path) -> None:
    endpoint = f"unix:{tmp_path / 's'}"
    bound(endpoint).close()
    bound(endpoint).close()
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(OSError, match="cannot listen on unix:"):
        bound(f"unix:{file}")
    assert file.read_text() == "kept"


async def test_a_connection_over_tcp_goes_to_the_address_that_takes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with await connect(f"localhost:{port}") as made:
            configure(made, 7)
            assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
            accepted, address = server.accept()
            accepted.close()
            assert accepted_from(address).startswith("127.0.0.1:")
    with pytest.raises(ConnectionRefusedError):
        await connect(f"127.0.0.1:{port}")


@pytest.mark.parametrize("text", ["", "host", "host:x", "unix:", "unix:relative", "unix:/" + 107 * "x", "unix:/a\0b"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        check_endpoint(text)
