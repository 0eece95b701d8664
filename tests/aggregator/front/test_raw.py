"""Raw TCP at a front: records in, the same batches out as of m3msg; no acks; strangers and nonsense end one connection only."""

import random
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.aggregator.front.test_records import record, values_of
from tests.fuzz.rows_metrics import METRICS
from tests.strangers import Certificates, trusting

from aggregator import ipc
from aggregator.front.secure import FrontTLS
from m3metrics.codec import decode_records, encode_record

DECODE_ERROR = "rawtcp-server.decode-errors{{server=rawtcp,handler=rawtcp,reason={}}}"
COUNTER = bytes.fromhex("080112170a070a03666f6f1005120c0a0a1a080a060a001a003200")


def bodies_at(worker: Any) -> list[bytes]:
    """Messages that came to a worker, in order."""
    batches = [payload for message, payload in worker.seen() if isinstance(message, ipc.Batch)]
    return [value for _, value in values_of(b"".join(batches))]


def everything_at(ends: list[Any]) -> list[bytes]:
    """The same of several."""
    return [body for end in ends for body in bodies_at(end)]


def start(rig: Any, workers: int = 1, raw: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    rig.start(workers=workers, raw=raw or {}, **options)
    ends = [rig.up(worker, 1) for worker in range(workers)]
    rig.wait_for(lambda: rig.heard(ipc.Listening), "the front to listen")
    return ends


def named(name: bytes) -> bytes:
    """A counter."""
    counter = b"\x0a" + bytes([len(name)]) + name + b"\x10\x01"
    payload = b"\x0a" + bytes([len(counter)]) + counter + COUNTER[-14:]
    return b"\x08\x01\x12" + bytes([len(payload)]) + payload


@pytest.mark.parametrize("workers", [1, 2])
def test_every_payload_cut_at_every_byte(rig: Any, workers: int) -> None:
    """The records of all kinds, one connection for each place where they are cut in two."""
    ends = start(rig, workers)
    bodies = METRICS()
    stream = b"".join(map(record, bodies))
    assert [encode_record(metric) for metric in decode_records(stream)], "our own reader takes them"
    clients = [rig.dial(raw=True) for _ in range(0, len(stream), 3)]
    for cut, client in enumerate(clients):
        client.send(stream[: 3 * cut])
    for cut, client in enumerate(clients):
        client.send(stream[3 * cut :])
    expected = sorted(bodies * len(clients))
    rig.wait_for(lambda: sorted(everything_at(ends)) == expected, "all records at the workers")
    assert rig.stats().counters["rawtcp-server.message-received{server=rawtcp}"] == len(expected)
    numbers = [one for end in ends for message, payload in end.seen() if isinstance(message, ipc.Batch)
               for one, _ in values_of(payload)]  # fmt: skip
    assert len(set(numbers)) == len(numbers), "each has an id of its own"
    assert not any(client.poll() for client in clients), "there are no acks"


@pytest.mark.parametrize("workers", [1, 2])
def test_records_go_to_the_worker_of_their_shard_in_order(rig: Any, workers: int) -> None:
    ends = start(rig, workers, batch_bytes=4096, read_bytes=1500)
    names = [rig.names(worker, 400) for worker in range(workers)]
    both = [name for pair in zip(*names, strict=True) for name in pair]
    client = rig.dial(raw=True)
    data = b"".join(record(named(name)) for name in both)
    chance, at = random.Random(3), 0
    while at < len(data):
        size = chance.randint(1, 700)
        client.send(data[at : at + size])
        at += size
    for worker, end in enumerate(ends):
        expected = [named(name) for name in names[worker]]
        rig.wait_for(lambda end=end, expected=expected: bodies_at(end) == expected, "its records in their order")


@pytest.mark.parametrize("workers", [1, 2])
def test_long_records(rig: Any, workers: int) -> None:
    """They have buffers of their own; one that is no metric ends its connection, those before it stay."""
    ends = start(rig, workers, raw={"max_record_bytes": 5_000_000}, max_frame_bytes=100)
    sizes = [5, 65_400, 65_500, 65_536, 3, 1_100_000, 4_000_000, 8]
    # Field 9, which nobody knows, makes a metric as long as one likes.
    bodies = [COUNTER + b"\x4a" + _varint(size) + b"x" * size for size in sizes]
    client = rig.dial(raw=True)
    client.send(*map(record, bodies))
    rig.wait_for(lambda: sorted(everything_at(ends)) == sorted(bodies), "all records")
    client.send(record(b"\x4a" + _varint(100_000) + b"x" * 100_000))
    assert client.closed()
    assert rig.stats().counters[DECODE_ERROR.format("malformed-record")] == 1


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


NONSENSE = [
    (_varint(1001 << 1) + b"x", "record-too-large"),
    (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", "record-too-large"),
    (b"\x00abc", "malformed-size"),
    (b"\x01abc", "malformed-size"),
    (b"\xff" * 9 + b"\x02", "malformed-size"),
    (b"GET / HTTP/1.1\r\n\r\n", "malformed-size"),
    (len(COUNTER).to_bytes(4, "big") + COUNTER, "malformed-size"),
    (record(b"\x08\x09" + COUNTER[2:]), "malformed-record"),
    (record(b"\x08\x01"), "malformed-record"),
    (record(b"\xff\xff\xff"), "malformed-record"),
]


@pytest.mark.parametrize("workers", [1, 2])
def test_nonsense_ends_its_connection(rig: Any, workers: int) -> None:
    ends = start(rig, workers, raw={"max_record_bytes": 1000})
    neighbour, counted = rig.dial(raw=True), Counter(reason for _, reason in NONSENSE)
    for nonsense, _ in NONSENSE:
        client = rig.dial(raw=True)
        client.send(record(COUNTER), record(COUNTER), nonsense, record(COUNTER))
        assert client.closed()
        neighbour.send(record(COUNTER))
    expected = [COUNTER] * 3 * len(NONSENSE)
    rig.wait_for(lambda: everything_at(ends) == expected, "what came before, and the neighbour's")
    figures = rig.stats()
    assert {reason: figures.counters[DECODE_ERROR.format(reason)] for reason in counted} == counted
    assert {r: figures.counters[f"front.connections-closed{{reason={r}}}"] for r in counted} == counted
    assert figures.gauges["rawtcp-server.open-connections{server=rawtcp}"] == 1


def test_an_end_in_the_middle_of_a_record_is_counted(rig: Any) -> None:
    ends = start(rig)
    client = rig.dial(raw=True)
    client.send(record(COUNTER), record(COUNTER)[:-1])
    client.sock.shutdown(socket.SHUT_WR)
    assert client.closed()
    assert rig.stats().counters[DECODE_ERROR.format("truncated")] == 1
    assert bodies_at(ends[0]) == [COUNTER]


def test_both_protocols_beside_each_other(rig: Any) -> None:
    """m3msg gets its acks, raw TCP none, and who ends without acks is not told as cut off."""
    ends = start(rig)
    raw, client = rig.dial(raw=True), rig.connect()
    raw.send(record(COUNTER))
    client.send(rig.frame(b"a", 7))
    assert client.acks(1) == [7]
    rig.wait_for(lambda: len(bodies_at(ends[0])) == 2, "both")
    figures = rig.stats()
    assert figures.counters["m3msg-server.ack-sent{server=m3msg}"] == 1
    assert {peer.host: peer.used for peer in figures.peers} == {"127.0.0.1": 1, f"{ipc.ONE_WAY}127.0.0.1": 1}
    raw.sock.close()
    rig.wait_for(lambda: rig.stats().gauges["rawtcp-server.open-connections{server=rawtcp}"] == 0, "the end of it")
    assert not any(isinstance(message, ipc.Cut) for message, _ in ends[0].seen())


def test_reading_stops_while_the_worker_is_behind(rig: Any) -> None:
    """Its peer is held back by TCP, and nothing is lost."""
    rig.start(raw={}, credit_bytes=1 << 16, waiting_bytes=1 << 16, stall_ns=600_000_000_000)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.dial(raw=True)
    one = record(COUNTER + b"\x4a\xc8\x01" + b"x" * 200)
    count = 150_000
    sending = threading.Thread(target=client.send, args=(one * count,))
    sending.start()
    rig.wait_for(lambda: rig.stats().gauges["front.paused"] == 1.0, "reading to pause")
    assert sending.is_alive(), "more is sent than a front and the systems' buffers take"
    got = 0
    while got < count:
        message, _ = worker.receive()
        if isinstance(message, ipc.Batch):
            got += sum(message.counts)
            worker.ack(message)
    sending.join()
    assert got == count


@pytest.mark.parametrize("workers", [1, 2])
def test_tls(rig: Any, tmp_path: Path, workers: int) -> None:
    certificates = Certificates(tmp_path)
    ends = start(rig, workers, raw={"tls": FrontTLS.of(certificates.config())})
    client = rig.dial(trusting(certificates.authority), raw=True)
    bodies = [COUNTER + b"\x4a" + _varint(size) + b"x" * size for size in (5, 70_000, 9, 200_000, 7)] + METRICS()
    client.send(*map(record, bodies))
    rig.wait_for(lambda: sorted(everything_at(ends)) == sorted(bodies), "all records")
    plain = rig.dial(raw=True)
    plain.send(record(COUNTER))
    assert plain.closed()
    refused = "rawtcp-server.upgrade-to-tls-errors{server=rawtcp,reason=plain-text}"
    assert rig.stats().counters[refused] == 1
    assert rig.connect().sock.fileno() > 0, "m3msg is as plain as before"
