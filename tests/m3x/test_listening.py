"""Sockets that listen, and those that do not yet."""

import errno
import socket

import pytest

from m3x.listening import bound, name_of


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_it_listens_when_it_is_told_to(host: str, shown: str) -> None:
    with bound(host, 0) as listener:
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
            bound("127.0.0.1", port)
    assert found.value.errno == errno.EADDRINUSE
