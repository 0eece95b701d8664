"""The drill's own producer, consumer and thief of sessions: a drill is worth what they are."""

import contextlib
import math
import socket
import threading

import numpy as np
from lab.failover.consumer import Consumer
from lab.failover.kv import _password
from lab.failover.load import COUNTERS, GUARD_S, Load, Replica
from lab.waiting import wait_until

from m3metrics.codec import CounterWithMetadatas, decode_metric
from m3metrics.codec.aggregated import AggregatedMetric, encode_aggregated
from m3metrics.policy import StoragePolicy
from m3msg.frames import Message, Metadata, decode_ack, decode_message, encode_ack, encode_message, split

S = 1_000_000_000


def test_java_s_random_bytes() -> None:
    # new java.util.Random(0).nextBytes(…): a session with this id has seed 0.
    assert _password(0xB3415C00)[:8] == bytes([0x60, 0xB4, 0x20, 0xBB, 0x38, 0x51, 0xD9, 0xD4])


def test_a_consumer_records_acks_and_refuses() -> None:
    consumer = Consumer()
    host, port = consumer.address.split(":")
    metric = AggregatedMetric(id=b"x", time_ns=10 * S, value=2.5, storage_policy=StoragePolicy.parse("10s:2d"))
    frame = encode_message(Message(Metadata(1, 7), encode_aggregated(metric)))
    try:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(frame)
            ((ack,), _) = split(connection.recv(1000))
            assert decode_ack(ack) == [Metadata(1, 7)]
            assert [row[:3] for row in consumer.arrivals] == [(b"x", 10 * S, 2.5)]
            consumer.refuse()
            assert connection.recv(1000) == b""

        def refused() -> bool:
            try:
                socket.create_connection((host, int(port)), 1).close()
            except OSError:
                return True
            return False

        wait_until("dialling fails", refused)
        consumer.accept()
        wait_until("dialling works again", lambda: not refused())
    finally:
        consumer.close()


class Server:
    """An instance that takes messages, and acks them when told so."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.acks = False
        self.messages: dict[int, bytes] = {}
        self.repeats = 0
        self.connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self.connection, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.closing(self.connection):
                self._serve()

    def _serve(self) -> None:
        rest = b""
        while data := self._receive():
            payloads, rest = split(rest + data)
            messages = [decode_message(payload) for payload in payloads]
            for message in messages:
                self.repeats += message.metadata.id in self.messages
                self.messages[message.metadata.id] = message.value
            if self.acks and messages:
                with contextlib.suppress(OSError):
                    self.connection.sendall(encode_ack([message.metadata for message in messages]))

    def _receive(self) -> bytes:
        assert self.connection is not None
        try:
            return self.connection.recv(1 << 16)
        except OSError:
            return b""

    def hang_up(self) -> None:
        assert self.connection is not None
        self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


def test_a_producer_holds_what_is_not_acked_and_knows_what_it_sent() -> None:
    server, load = Server(), Load(2, 4)
    load.add(Replica("a", server.address))
    load.start()
    try:
        wait_until("messages come", lambda: len(server.messages) > 600)
        server.hang_up()
        server.acks = True
        wait_until("they come again", lambda: server.repeats > 600)
        assert len(load.replicas["a"].breaks) == 1
        done = max(load.expected)
        wait_until("the next window is done", lambda: max(load.expected) > done)
        last = max(load.replicas["a"].unacked, default=0)
        wait_until("it is acked", lambda: min(list(load.replicas["a"].unacked), default=last + 1) > last)
    finally:
        load.stop()
        server.close()
    sums = np.zeros(COUNTERS)
    start_ns = {}
    for ident, value in server.messages.items():
        metric = decode_metric(value)
        series = load.number[metric.id]
        assert ident % len(load.ids) == series
        if not isinstance(metric, CounterWithMetadatas):
            start_ns[ident // len(load.ids)] = metric.time_ns
    for ident, value in server.messages.items():
        metric = decode_metric(value)
        if isinstance(metric, CounterWithMetadatas):
            at = start_ns[ident // len(load.ids)]
            offset = at % load.resolution_ns
            assert GUARD_S * S <= offset <= load.resolution_ns - GUARD_S * S
            if at - offset == done:
                sums[ident % len(load.ids)] += metric.value
    assert sums.tolist() == [0.0 if math.isnan(v) else v for v in load.expected[done][:COUNTERS]]
