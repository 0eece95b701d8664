"""The methods of a socket over TLS: what is left of records, writes that end in the middle, and the end."""

import random
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.strangers import Certificates, trusting

from m3x.secure_socket import RECORD_BYTES, SecureSocket
from m3x.tls import ServerTLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@contextmanager
def pair(certificates: Certificates) -> Iterator[tuple[SecureSocket, SecureSocket]]:
    """A server and a client after their handshake, with small buffers of the system."""
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    server = SecureSocket(ours, ServerTLS(certificates.config()).context())
    client = SecureSocket(theirs, trusting(certificates.authority), "localhost")
    while not (client.shaken and server.shaken):
        for one in (client, server):
            if not one.shaken:
                one.shake()
    try:
        yield server, client
    finally:
        server.close()
        client.close()


def test_before_the_end_of_the_handshake_there_is_nothing(certificates: Certificates) -> None:
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setblocking(False)
    server = SecureSocket(ours, ServerTLS(certificates.config()).context())
    client = SecureSocket(theirs, trusting(certificates.authority), "localhost")
    with pytest.raises(BlockingIOError):
        server.recv_into(memoryview(bytearray(100)))
    assert client.shake() == select.EPOLLIN
    assert not server.shaken
    assert not server.pending
    server.close()
    client.close()


def test_whole_records_are_taken_while_there_is_room_for_one(certificates: Certificates) -> None:
    with pair(certificates) as (server, client):
        for size in (3000, 3000, 100):
            assert client.send(b"x" * size) == size
        with memoryview(bytearray(2 * RECORD_BYTES)) as room:
            assert server.recv_into(room) == 6100
            with pytest.raises(BlockingIOError):
                server.recv_into(room)
        # Into less room than a record has, one goes, and the rest waits where no descriptor tells of it.
        client.send(b"y" * 5000)
        assert server.recv(2000) == b"y" * 2000
        assert server.pending
        assert select.select([server], [], [], 0)[0] == []
        assert server.recv(RECORD_BYTES) == b"y" * 3000
        assert not server.pending


def test_writes_that_were_refused_are_gone_on_with(certificates: Certificates) -> None:
    chance = random.Random(3)
    data = chance.randbytes(3_000_000)
    with pair(certificates) as (server, client):
        got = bytearray()

        def read() -> None:
            while len(got) < len(data):
                select.select([client], [], [])
                try:
                    got.extend(client.recv(chance.choice([1000, 20_000, 100_000])))
                    while client.pending:
                        got.extend(client.recv(5000))
                except BlockingIOError:
                    pass

        reader = threading.Thread(target=read)
        reader.start()
        refused, at = 0, 0
        while at < len(data):
            # What is offered again begins as before, and may have grown.
            offered = [memoryview(data)[at : at + 30_000], memoryview(data)[at + 30_000 : at + 30_000 + refused % 1000]]
            try:
                at += server.sendmsg(offered)
            except BlockingIOError:
                refused += 1
                select.select([], [server], [])
        reader.join()
    assert refused > 10
    assert bytes(got) == data


def test_the_end_is_told(certificates: Certificates) -> None:
    with pair(certificates) as (server, client):
        client.send(b"last")
        client.close()
        assert server.recv(RECORD_BYTES * 2) == b"last"
        assert server.recv(100) == b""


def test_a_client_that_is_cut_off_has_ended_and_a_server_has_not(certificates: Certificates) -> None:
    with pair(certificates) as (server, client):
        client._sock.close()
        assert server.recv(100) == b""
    with pair(certificates) as (server, client):
        server._sock.close()
        with pytest.raises(ssl.SSLEOFError):
            client.recv(100)
