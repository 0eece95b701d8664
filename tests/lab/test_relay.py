"""The relay that stands between the drill's instances and their KV."""

import socket
import threading

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


def test_bytes_come_in_pieces() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = RelayThread(f"127.0.0.1:{server.getsockname()[1]}")
        relay.split(3, 0.05)
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            inner, _ = server.accept()
            with inner:
                client.sendall(b"in pieces")
                assert inner.recv(100) == b"in "
                found = b""
                while len(found) < 6:
                    found += inner.recv(100)
                assert found == b"pieces"
        relay.close()


def test_a_half_open_connection_ends_for_the_target_and_for_its_maker_when_it_is_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = RelayThread(f"127.0.0.1:{server.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            inner, _ = server.accept()
            with inner:
                client.sendall(b"before")
                assert inner.recv(100) == b"before"
                relay.half_open()
                inner.settimeout(10)
                with pytest.raises(ConnectionResetError):
                    inner.recv(100)
            client.sendall(b"lost")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(100)
            relay.reset()
            client.settimeout(10)
            with pytest.raises(ConnectionResetError):
                client.recv(100)
        with socket.create_connection(("127.0.0.1", relay.port)) as client:
            inner, _ = server.accept()
            with inner:
                client.sendall(b"anew")
                assert inner.recv(100) == b"anew"
        relay.close()


def test_a_flood_says_how_many_of_its_connections_were_ended() -> None:
    def serve(server: socket.socket) -> None:
        for _ in range(5):
            made, _ = server.accept()
            made.recv(100)
            made.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        relay = RelayThread(f"127.0.0.1:{server.getsockname()[1]}")
        assert relay.flood(5, b"noise") == 5
        thread.join(10)
        relay.close()
