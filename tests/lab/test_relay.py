"""The relay that stands between the drill's instances and their KV."""

import socket

import pytest
from lab.relay import RelayThread


def test_a_relay_that_is_held_keeps_connections_and_what_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = RelayThread(f"127.0.0.1:{server.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            inner, _ = server.accept()
            with inner:
                client.sendall(b"before")
                assert inner.recv(100) == b"before"
                relay.hold_all()
                client.sendall(b"while held")
                inner.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    inner.recv(100)
                relay.release()
                inner.settimeout(10)
                assert inner.recv(100) == b"while held"
                inner.sendall(b"back")
                assert client.recv(100) == b"back"
        relay.close()


def test_connections_made_while_everything_is_held_are_served_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = RelayThread(f"127.0.0.1:{server.getsockname()[1]}")
        relay.hold_all()
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            client.sendall(b"early")
            server.settimeout(0.3)
            with pytest.raises(TimeoutError):
                server.accept()
            relay.release()
            server.settimeout(10)
            inner, _ = server.accept()
            with inner:
                inner.settimeout(10)
                assert inner.recv(100) == b"early"
        relay.close()


def test_a_closed_relay_closes_its_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = RelayThread(f"127.0.0.1:{server.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            inner, _ = server.accept()
            with inner:
                relay.hold_all()
                relay.close()
                client.settimeout(10)
                assert client.recv(100) == b""
