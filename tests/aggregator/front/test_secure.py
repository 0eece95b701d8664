"""The front over TLS: frames in all sizes of records, strangers of every kind, renewed certificates, and ends."""

import contextlib
import json
import random
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.strangers import HOSTS, LISTENERS, STRANGERS, Certificates, trusting

from aggregator.front import secure
from aggregator.front.secure import FrontTLS, Handshakes
from m3x.clock import monotonic_ns
from m3x.secure_socket import SecureSocket
from m3x.tls import Refusal, ServerTLSConfig

REFUSED = "m3msg-server.upgrade-to-tls-errors{{server=m3msg,reason={}}}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def log(rig: Any, tmp_path: Path) -> Iterator[Path]:
    """The front's."""
    with (tmp_path / "front.log").open("w") as file:
        rig.log = file
        yield tmp_path / "front.log"


def start(rig: Any, config: ServerTLSConfig | None, workers: int = 1) -> None:
    rig.start(workers=workers, tls=None if config is None else FrontTLS.of(config))
    for worker in range(workers):
        rig.up(worker, 1)


@pytest.mark.parametrize(("workers", "version"), [(1, ssl.TLSVersion.TLSv1_2), (2, ssl.TLSVersion.TLSv1_3)])
def test_frames_of_all_sizes_in_records_of_all_sizes(
    rig: Any, certificates: Certificates, workers: int, version: ssl.TLSVersion
) -> None:
    """Long frames end in the middle of records, and nothing comes after the last one."""
    start(rig, certificates.config(), workers)
    context = trusting(certificates.authority)
    context.minimum_version = context.maximum_version = version
    client = rig.connect(context)
    chance = random.Random(7)
    sizes = [5, 3_000, 70_000, 9, 200_000, 65_536, 1_500_000, 12, 66_000, 100_000]
    frames = [rig.frame(b"m%d-" % n + b"x" * size, n + 1) for n, size in enumerate(sizes)]
    data = b"".join(frames)
    at = 0
    while at < len(data):
        size = chance.choice([1, 100, 5_000, 16_384, 100_000])
        client.sock.sendall(data[at : at + size])
        at += size
    assert client.acks(len(sizes)) == list(range(1, len(sizes) + 1))
    # All that is left of a record is read at once, without another byte from outside.
    client.send(rig.frame(b"a" * 100_000, 100) + b"".join(rig.frame(b"b%d" % n, 101 + n) for n in range(40)))
    assert client.acks(len(sizes) + 41)[-41:] == list(range(100, 141))


def test_acks_of_many_messages_to_a_peer_that_is_slow(rig: Any, certificates: Certificates) -> None:
    """Writes end in the middle of records and are gone on with."""
    start(rig, certificates.config())
    client = rig.connect(trusting(certificates.authority))
    count = 30_000
    block = b"".join(rig.frame(b"metric-%d" % (n % 100), n + 1) for n in range(count))
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sock.sendall(block)
    assert client.acks(count) == list(range(1, count + 1))


def test_a_permissive_front_takes_both(rig: Any, certificates: Certificates) -> None:
    start(rig, certificates.config("permissive"))
    clients = [rig.connect(), rig.connect(trusting(certificates.authority))]
    for number, client in enumerate(clients):
        client.send(rig.frame(b"a", number + 1))
        assert client.acks(1) == [number + 1]
    assert not any("upgrade-to-tls" in name for name in rig.stats().counters)


@pytest.mark.parametrize("listener", LISTENERS, ids=str)
def test_strangers_are_named_and_harm_nobody(
    rig: Any, certificates: Certificates, listener: dict[str, bool] | None, log: Path
) -> None:
    config = None if listener is None else certificates.config(**listener)
    start(rig, config)
    context = None
    if config is not None:
        context = trusting(certificates.authority, certificates.client)
        if config.cert_file == str(certificates.expired_server.cert):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    neighbour = rig.connect(context)
    counted: Counter[str] = Counter()
    for number, stranger in enumerate([one for one in STRANGERS if one.listener == listener], 1):
        before = len(_said(log))
        stranger.come(certificates, int(rig.address.rsplit(":", 1)[1]))
        counted[REFUSED.format(stranger.refusal.value)] += 1
        rig.wait_for(lambda: _refused(rig) == counted, f"{stranger.name} is counted")
        neighbour.send(rig.frame(b"a", number))
        assert neighbour.acks(number) == list(range(1, number + 1))
        said = _said(log)[before:]
        # Of one kind there is one line a second.
        assert [line["msg"] for line in said] in ([f"m3msg: connection refused: {stranger.refusal.text}"], [])
        assert said or counted[REFUSED.format(stranger.refusal.value)] > 1
        assert all(line["peer"].startswith("127.0.0.1:") for line in said)


def _said(log: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if "connection" in line["msg"]]


def _refused(rig: Any) -> Counter[str]:
    return Counter({name: n for name, n in rig.stats().counters.items() if "upgrade-to-tls" in name})


def test_a_look_whether_the_port_is_open_is_no_stranger(rig: Any, certificates: Certificates) -> None:
    start(rig, certificates.config())
    rig.connect().sock.close()
    client = rig.connect(trusting(certificates.authority))
    client.send(rig.frame(b"a", 1))
    assert client.acks(1) == [1]
    assert not any("upgrade-to-tls" in name for name in rig.stats().counters)


def test_a_renewed_certificate_is_shown_without_a_restart(rig: Any, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    start(rig, certificates.config())
    context = trusting(certificates.authority)
    before = rig.connect(context)
    shown = before.sock.getpeercert(binary_form=True)
    certificates.authority.sign("server", *HOSTS)
    rig.wait_for(lambda: rig.connect(context).sock.getpeercert(binary_form=True) != shown, "the new certificate")
    before.send(rig.frame(b"a", 1))
    assert before.acks(1) == [1]


def test_a_producer_that_has_finished_gets_its_acks_and_the_end(rig: Any, certificates: Certificates) -> None:
    start(rig, certificates.config())
    client = rig.connect(trusting(certificates.authority))
    client.send(rig.frame(b"a", 1))
    client.sock.settimeout(30)
    plain = client.sock.unwrap
    assert client.acks(1) == [1]
    plain()
    client.sock.close()
    rig.wait_for(lambda: rig.stats().gauges["m3msg-server.open-connections{server=m3msg}"] == 0, "it is closed")
    assert rig.stats().counters["front.connections-closed{reason=end-of-stream}"] == 1


class Silent:
    """A connection of which nothing comes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock: Any = sock
        self.slack = 0
        self.host = "127.0.0.1"


def test_handshakes_that_do_not_end_are_overdue(certificates: Certificates) -> None:
    late = secure._HANDSHAKE_NS
    for mode, begun, expected in (
        ("enforced", False, 1),
        ("enforced", True, 1),
        ("permissive", False, 0),
        ("permissive", True, 1),
    ):
        tls = FrontTLS.of(certificates.config(mode))
        assert tls is not None
        handshakes = Handshakes(tls.opened(), lambda _connection: None)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            connection = Silent(ours)
            handshakes.begin(connection, 0)
            if begun:
                theirs.send(bytes((0x16, 3, 1)))
                with pytest.raises(BlockingIOError):
                    connection.sock.recv_into(memoryview(bytearray(100)))
            assert list(handshakes.overdue(late - 1)) == []
            assert len(list(handshakes.overdue(late))) == expected
            connection.sock.close()


def test_only_so_many_handshakes_begin_and_whoever_waits_is_not_overdue(certificates: Certificates) -> None:
    tls = FrontTLS.of(certificates.config())
    assert tls is not None
    held: list[Silent] = []
    handshakes = Handshakes(tls.opened(), held.append)
    pairs = [socket.socketpair() for _ in range(30)]
    target = memoryview(bytearray(100))
    connections = []
    for ours, theirs in pairs:
        ours.setblocking(False)
        connections.append(connection := Silent(ours))
        handshakes.begin(connection, 0)
        theirs.send(bytes((0x16, 3, 1)))
        with pytest.raises(BlockingIOError):
            connection.sock.recv_into(target)
    # A machine that is slow has begun some more meanwhile.
    assert 0 < len(held) <= 20
    assert handshakes.waiting
    overdue = list(handshakes.overdue(1 << 62))
    assert not set(overdue) & set(held)
    assert len(overdue) + len(held) == len(pairs)
    # One whose peer has gone meanwhile costs no handshake.
    gone = held.pop()
    assert gone.sock.recv_into(target) == 0
    handshakes.forget(gone)
    begun = []
    for ms in range(1, 1 << 20):
        begun += handshakes.turns(monotonic_ns() + ms * 1_000_000)
        if not handshakes.waiting:
            break
    assert begun == held
    for connection in begun:
        with pytest.raises(BlockingIOError):
            connection.sock.recv_into(target)
        assert isinstance(connection.sock, SecureSocket)
    for connection, (_, theirs) in zip(connections, pairs, strict=True):
        connection.sock.close()
        theirs.close()


def test_a_flood_of_handshakes_delays_nobody_who_is_there(rig: Any, certificates: Certificates) -> None:
    """And keeps nobody away who comes afterwards."""
    start(rig, certificates.config())
    context = trusting(certificates.authority)
    neighbour = rig.connect(context)
    address = ("127.0.0.1", int(rig.address.rsplit(":", 1)[1]))
    flood = [socket.create_connection(address) for _ in range(60)]
    flooding = []
    for sock in flood:
        sock.setblocking(False)
        secure_sock = context.wrap_socket(sock, server_hostname="localhost", do_handshake_on_connect=False)
        flooding.append(secure_sock)
        with contextlib.suppress(ssl.SSLWantReadError):
            secure_sock.do_handshake()
    for number in range(1, 11):
        neighbour.send(rig.frame(b"a", number))
        assert neighbour.acks(number) == list(range(1, number + 1))
    for sock in flooding:
        sock.close()
    client = rig.connect(context)
    client.send(rig.frame(b"b", 1))
    assert client.acks(1) == [1]


def test_what_the_section_says_arrives(certificates: Certificates) -> None:
    config = certificates.config("permissive", mutual=True)
    tls = FrontTLS.of(config)
    assert tls is not None
    opened = tls.opened()
    assert opened.plain_too
    assert opened.context().verify_mode is ssl.CERT_REQUIRED
    assert FrontTLS.of(ServerTLSConfig()) is None


def test_refusals_have_reasons_of_their_own() -> None:
    assert len({refusal.text for refusal in Refusal}) == len(Refusal)
