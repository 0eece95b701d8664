"""The front as a process, over real sockets: order, epochs, credits, broken input, slow readers, the end."""

import ctypes
import os
import random
import signal
import socket
import struct
import threading
import time
from typing import Any

import pytest
from lab.processes import stop
from lab.waiting import wait_until

from aggregator import ipc
from aggregator.lists import KIND_STANDARD, ListId
from m3x.process import resident_bytes

FLUSH = ipc.Flush(7, ListId(KIND_STANDARD, 10**10), True, [ipc.ShardBounds([], 10**18, 0, 2**62)])
MIB = 1 << 20


def batches(stream: list[tuple[Any, bytes]]) -> bytes:
    return b"".join(payload for header, payload in stream if isinstance(header, ipc.Batch))


@pytest.mark.parametrize("workers", [1, 3])
def test_frames_reach_the_owner_of_their_shard_and_are_acked(rig: Any, workers: int) -> None:
    rig.start(workers)
    ends = [rig.up(worker, worker + 1) for worker in range(workers)]
    client = rig.connect()
    names = [b"name-%d" % i for i in range(500)]
    frames = [rig.frame(name, number) for number, name in enumerate(names)]
    client.send(*frames)
    assert client.acks(500) == list(range(500))
    for worker, end in enumerate(ends):
        expected = b"".join(f for f, name in zip(frames, names, strict=True) if rig.owner(name) == worker)
        rig.wait_for(
            lambda end=end, expected=expected: batches(end.seen()) == expected, "the worker's frames, in order"
        )
        assert isinstance(end.seen()[0][0], ipc.Order), "shards come before any data"


def test_a_stream_in_pieces_and_long_frames(rig: Any) -> None:
    rig.start(2)
    ends = [rig.up(0, 1), rig.up(1, 2)]
    client = rig.connect()
    lengths = (1, 70_000, 5, 400_000, 2, 3_000_000, 9)
    frames = [rig.frame(b"x" * size, number) for number, size in enumerate(lengths)]
    stream = b"".join(frames)
    at = 0
    sizes = random.Random(3)
    while at < len(stream):
        step = sizes.choice((1, 3, 5000, 200_000))
        client.send(stream[at : at + step])
        at += step
    assert client.acks(len(frames)) == list(range(len(frames)))
    rig.wait_for(lambda: sum(len(batches(end.seen())) for end in ends) == len(stream), "all bytes at the workers")
    assert all(f in batches(ends[rig.owner(b"x" * n)].seen()) for f, n in zip(frames, lengths, strict=True))


def test_a_value_that_is_no_metric_goes_to_worker_0_and_its_connection_lives(rig: Any) -> None:
    rig.start(2)
    first, _ = rig.up(0, 1), rig.up(1, 2)
    client = rig.connect()
    odd = rig.frame(b"", 1, value=b"\xff\xff garbage")
    client.send(odd, rig.frame(b"", 2, value=b""))
    assert client.acks(2) == [1, 2]
    rig.wait_for(lambda: batches(first.seen()).startswith(odd), "the value at worker 0")


def test_a_command_keeps_its_place_between_batches(rig: Any) -> None:
    """Batches that wait for credit were read before the flush: it may not overtake them."""
    rig.start(1, credit_bytes=1, batch_bytes=2000, batch_delay_ns=1_000_000)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    before = [rig.frame(b"before-%04d" % i, i) for i in range(300)]
    after = [rig.frame(b"after-%04d" % i, i) for i in range(300)]
    client.send(*before)
    total = len(b"".join(before))

    def held() -> bool:
        gauges = rig.stats().gauges
        return gauges["front.waiting-bytes{worker=0}"] + gauges["front.unacked-bytes{worker=0}"] == total

    rig.wait_for(held, "everything sent before to be read")
    rig.say(ipc.Relay(0, 1, FLUSH))
    rig.wait_for(rig.stats, "the flush to be in the stream")
    client.send(*after)
    order: list[Any] = []
    payload = b""
    while len(payload) < total + len(b"".join(after)):
        header, data = worker.receive()
        order.append((header.now_ns, len(payload)))
        if isinstance(header, ipc.Batch):
            payload += data
            worker.ack(header)
        elif header.command == FLUSH:
            assert payload == b"".join(before)
            order.append("flush")
    assert "flush" in order
    stamps = [entry[0] for entry in order if entry != "flush"]
    assert stamps == sorted(stamps)


def test_commands_need_no_credit(rig: Any) -> None:
    rig.start(1, credit_bytes=1)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    client.send(rig.frame(b"a", 1))
    assert isinstance(worker.receive()[0].command, ipc.Shards)
    assert isinstance(worker.receive()[0], ipc.Batch)
    rig.say(ipc.Relay(0, 1, FLUSH))
    assert worker.receive()[0].command == FLUSH


def test_commands_of_another_epoch_come_back(rig: Any) -> None:
    rig.start(1)
    rig.up(0, 5)
    for worker, epoch in ((0, 4), (0, 6), (1, 1)):
        rig.say(ipc.Relay(worker, epoch, FLUSH))
        rig.wait_for(
            lambda w=worker, e=epoch: ipc.Stale(w, e, FLUSH) in rig.heard(ipc.Stale), "the command to come back"
        )


def test_what_a_dead_worker_had_is_given_to_its_successor(rig: Any) -> None:
    """As it was, then what waits, after the shards; queued commands come back."""
    rig.start(1, credit_bytes=1, batch_bytes=100, batch_delay_ns=1_000_000)
    old = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    old.receive()
    client.send(rig.frame(b"had", 1))
    had, _ = old.receive()
    assert isinstance(had, ipc.Batch)
    client.send(rig.frame(b"kept", 2))
    rig.wait_for(lambda: rig.stats().gauges["front.waiting-bytes{worker=0}"] > 0, "a batch to wait")
    rig.say(ipc.Relay(0, 1, FLUSH))
    rig.say(ipc.WorkerDown(0, 1))
    rig.wait_for(lambda: ipc.Stale(0, 1, FLUSH) in rig.heard(ipc.Stale), "the queued flush to come back")
    client.send(rig.frame(b"new", 3))
    fresh = rig.up(0, 2, by_hand=True)
    shards, _ = fresh.receive()
    assert isinstance(shards.command, ipc.Shards)
    again, payload = fresh.receive()
    assert (again, payload) == (had, rig.frame(b"had", 1))
    assert shards.now_ns <= again.now_ns
    fresh.ack(again)
    payload, seq = b"", again.seq
    while len(payload) < len(rig.frame(b"kept", 2) + rig.frame(b"new", 3)):
        header, data = fresh.receive()
        assert header.now_ns >= again.now_ns
        assert (header.front, header.seq) == (again.front, seq + 1)
        seq += 1
        payload += data
        fresh.ack(header)
    assert payload == rig.frame(b"kept", 2) + rig.frame(b"new", 3)
    old.out.send(ipc.encode(ipc.Acked(seq + 1, 10, [4], memoryview(bytes(4)))))
    client.send(rig.frame(b"later", 4))
    assert fresh.receive()[1] == rig.frame(b"later", 4)


def test_a_batch_that_no_worker_survives_is_dropped(rig: Any) -> None:
    rig.start(1)
    for epoch in (1, 2, 3):
        worker = rig.up(0, epoch, by_hand=True)
        if epoch == 1:
            client = rig.connect()
            client.send(rig.frame(b"poison", 1))
        while not isinstance(worker.receive()[0], ipc.Batch):
            pass
        rig.say(ipc.WorkerDown(0, epoch))
    rig.wait_for(lambda: rig.stats().counters.get("front.dropped-unacked{worker=0}") == 1, "it to be dropped")
    worker = rig.up(0, 4, by_hand=True)
    client.send(rig.frame(b"good", 2))
    while not isinstance((found := worker.receive())[0], ipc.Batch):
        pass
    assert found[1] == rig.frame(b"good", 2)


def test_batches_are_settled_when_their_acks_have_arrived(rig: Any) -> None:
    rig.start(1, settle_ns=100_000_000)
    worker, client = rig.up(0, 1, by_hand=True), rig.connect()
    worker.receive()
    client.send(rig.frame(b"one", 1))
    first, _ = worker.receive()
    assert (first.settled, first.counts) == (-1, [1])
    worker.ack(first, [b"\0\0\0\1x"])

    def settled() -> bool:
        client.send(rig.frame(b"more", 2))
        header, _ = worker.receive()
        worker.ack(header, [b"\0\0\0\1x"])
        return header.settled >= first.seq

    wait_until("the first batch to be settled", settled, every_s=0.05)


@pytest.mark.parametrize("read", [False, True])
def test_a_connection_that_ends_without_its_acks_is_told_to_the_worker(rig: Any, read: bool) -> None:
    """Or perhaps without: what its system has taken a moment ago it need not have read."""
    rig.start(1)
    worker, client = rig.up(0, 1, by_hand=True), rig.connect()
    worker.receive()
    client.send(rig.frame(b"one", 1))
    first, _ = worker.receive()
    if read:
        worker.ack(first, [b"\0\0\0\1x"])
        assert client.sock.recv(5) == b"\0\0\0\1x"
    client.sock.close()
    if not read:
        worker.ack(first, [b"\0\0\0\1x"])
    found = worker.receive()[0]
    assert isinstance(found, ipc.Cut)
    assert list(found.connections) == first.connections
    other = rig.connect()
    for number in range(20):
        other.send(rig.frame(b"more", number))
        header, _ = worker.receive()
        worker.ack(header)
        assert header.settled < first.seq
        time.sleep(0.05)


def test_of_a_connection_that_hung_up_only_what_was_acked_just_before_may_come_again(rig: Any) -> None:
    """Acks that were there for a while when its peer finished sending were read, or the connection would have been reset."""
    rig.start(1, clean_settle_ns=100_000_000)
    worker, client = rig.up(0, 1, by_hand=True), rig.connect()
    worker.receive()
    batches = []
    for number in (1, 2):
        client.send(rig.frame(b"one", number))
        batches.append(worker.receive()[0])
        if number == 1:
            worker.ack(batches[0], [b"\0\0\0\1x"])
            assert client.sock.recv(5) == b"\0\0\0\1x"
            time.sleep(1.0)
    client.sock.close()
    assert worker.receive()[0] == ipc.Cut({batches[0].connections[0]: batches[1].seq})


def test_nothing_comes_again_of_a_connection_that_hung_up_with_all_acks_read(rig: Any) -> None:
    rig.start(1, clean_settle_ns=0)
    worker, client = rig.up(0, 1, by_hand=True), rig.connect()
    worker.receive()
    client.send(rig.frame(b"one", 1))
    first = worker.receive()[0]
    worker.ack(first, [b"\0\0\0\1x"])
    assert client.sock.recv(5) == b"\0\0\0\1x"
    client.sock.close()
    rig.wait_for(lambda: rig.stats().counters.get("front.connections-closed{reason=end-of-stream}") == 1, "its end")
    other = rig.connect()

    def settled() -> bool:
        other.send(rig.frame(b"more", 2))
        header = worker.receive()[0]
        assert isinstance(header, ipc.Batch)
        worker.ack(header)
        return header.settled >= first.seq

    wait_until("the batch to be settled", settled, every_s=0.05)


def received(worker: Any, count: int) -> list[tuple[Any, bytes]]:
    """What came up to the ``count``-th message, as a worker sees it."""
    found = []
    while count > 0:
        found.append(worker.receive())
        count -= sum(found[-1][0].counts) if isinstance(found[-1][0], ipc.Batch) else 0
    return found


def ack(worker: Any, found: list[tuple[Any, bytes]]) -> None:
    for header, _ in found:
        if isinstance(header, ipc.Batch):
            worker.ack(header, [b"\0\0\0\1x" for _ in header.sizes])


def test_what_a_dead_connection_sent_is_read_and_told_before_the_next_one_is(rig: Any) -> None:
    """However soon its producer is back: what it sends again is known as such only behind that."""
    rig.start(1, read_bytes=65536)
    worker = rig.up(0, 1, by_hand=True)
    first = [rig.frame(b"x" * 500, number) for number in range(2000)]
    number = -1
    for _ in range(10):
        client = rig.connect()
        client.send(*first)
        client.sock.shutdown(socket.SHUT_WR)
        client.sock.close()
        other = rig.connect()
        other.send(rig.frame(b"again", 1))
        found = received(worker, len(first) + 1)
        last = found[-1][0]
        assert last.connections[0] > number
        number = last.connections[-1]
        kinds = [(type(header), list(header.connections)) for header, _ in found if not isinstance(header, ipc.Order)]
        gone = kinds[0][1]
        assert kinds[-2:] == [(ipc.Cut, gone), (ipc.Batch, [number])]
        assert set(map(str, kinds[:-2])) == {str((ipc.Batch, gone))}
        other.sock.close()
        assert list(worker.receive()[0].connections) == [number]
        ack(worker, found)


def deafen(sock: socket.socket) -> None:
    """Its system drops every segment that comes in, as if the way back were cut (a classic BPF program that accepts 0 bytes)."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(program)))


def test_a_connection_whose_peer_is_silent_gives_way_when_its_host_connects_anew(rig: Any) -> None:
    """A half-open connection would keep what it sent from being known when it comes again; one that lives is let live."""
    rig.start(1)
    worker, silent, alive = rig.up(0, 1, by_hand=True), rig.connect(), rig.connect()
    for client in (silent, alive):
        client.send(rig.frame(b"one", 1))
    sent = received(worker, 2)
    ack(worker, sent)
    assert len(alive.sock.recv(5)) == len(silent.sock.recv(5)) == 5
    deafen(silent.sock)
    silent.send(rig.frame(b"two", 2))
    found = received(worker, 1)
    ack(worker, found)
    two = found[0][0]
    time.sleep(1.5)
    other = rig.connect()
    other.send(rig.frame(b"two", 2))
    found = received(worker, 1)
    assert [type(header) for header, _ in found] == [ipc.Cut, ipc.Batch]
    assert list(found[0][0].connections) == two.connections
    assert rig.stats().counters["front.connections-closed{reason=superseded}"] == 1
    alive.send(rig.frame(b"three", 3))
    ((three, _),) = received(worker, 1)
    assert set(three.connections) | set(two.connections) == {
        n for header, _ in sent if isinstance(header, ipc.Batch) for n in header.connections
    }


def test_batches_say_since_when_their_producers_may_wait(rig: Any) -> None:
    """While nothing is read, messages wait in buffers of systems."""
    rig.start(1, credit_bytes=1000, waiting_bytes=4000, stall_ns=60 * 10**9)
    worker = rig.up(0, 1, by_hand=True)
    began = time.monotonic_ns()
    client = rig.connect()
    client.send(rig.frame(b"x" * 5000, 1))
    batch = worker.receive()[0]
    while not isinstance(batch, ipc.Batch):
        batch = worker.receive()[0]
    assert began <= batch.since_ns <= time.monotonic_ns()
    client.send(rig.frame(b"x" * 5000, 2))
    rig.wait_for(lambda: rig.stats().gauges["front.paused"] == 1.0, "reading to pause")
    before = time.monotonic_ns()
    client.send(rig.frame(b"y", 3))
    time.sleep(0.5)
    worker.ack(batch)
    ((waited, _),) = received(worker, 1)
    worker.ack(waited)
    ((late, _),) = received(worker, 1)
    worker.ack(late)
    assert batch.since_ns < waited.since_ns < before
    assert late.since_ns < before
    client.send(rig.frame(b"z", 4))
    ((fresh, _),) = received(worker, 1)
    assert fresh.since_ns > before + 400_000_000


def test_what_waited_for_a_front_may_have_waited_long(rig: Any) -> None:
    """Its system had taken the connection and what came over it, and the producer may have sent all of it twice."""
    rig.start(1)
    early = rig.dial()
    early.send(rig.frame(b"one", 1))
    time.sleep(0.1)
    worker = rig.up(0, 1, by_hand=True)
    waited, _ = received(worker, 1)[-1]
    assert 0 < waited.since_ns < time.monotonic_ns() - 10**9
    began = time.monotonic_ns()
    early.send(rig.frame(b"two", 2))
    ((fresh, _),) = received(worker, 1)
    assert fresh.since_ns >= began
    began = time.monotonic_ns()
    later = rig.connect()
    later.send(rig.frame(b"three", 3))
    ((other, _),) = received(worker, 1)
    assert other.since_ns >= began


class Load:
    """Sends to several workers for as long as it is told to, and counts the acks by worker."""

    def __init__(self, rig: Any, workers: int) -> None:
        self.client = rig.connect()
        self.acked = [0] * workers
        self._owner: list[int] = []
        names = [rig.names(worker, 50) for worker in range(workers)]
        self._block = []
        for i in range(2000):
            self._owner.append(i % workers)
            self._block.append(rig.frame(names[i % workers][i % 50], i + 1))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write), threading.Thread(target=self._read)]
        for thread in self._threads:
            thread.start()

    def _write(self) -> None:
        block = b"".join(self._block)
        try:
            while not self._stop.is_set():
                self.client.sock.sendall(block)
        except OSError:
            return

    def _read(self) -> None:
        data = b""
        try:
            while received := self.client.sock.recv(1 << 16):
                data += received
                at = 0
                while at + 4 <= len(data) and (end := at + 4 + int.from_bytes(data[at : at + 4], "big")) <= len(data):
                    at += 4
                    while at < end:
                        size = data[at + 1]
                        number = data[at + 3] & 0x7F
                        if size == 3:
                            number |= data[at + 4] << 7
                        self.acked[self._owner[number - 1]] += 1
                        at += 2 + size
                data = data[at:]
        except OSError:
            return

    def close(self) -> None:
        self._stop.set()
        self.client.sock.shutdown(2)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def load(rig: Any) -> Any:
    made: list[Load] = []

    def start(workers: int) -> Load:
        made.append(Load(rig, workers))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_a_stopped_worker_does_not_stop_the_others(rig: Any, load: Any) -> None:
    waiting = 2 * MIB
    rig.start(2, credit_bytes=MIB, waiting_bytes=waiting, stall_ns=300_000_000, batch_bytes=65536, read_bytes=65536)
    _, stopped = rig.up(0, 1), rig.up(1, 2)
    running = load(2)
    rig.wait_for(lambda: min(running.acked) > 10_000, "both workers to ack")
    stop(stopped.process.pid)
    rig.wait_for(lambda: rig.stats().counters["front.discarded-unacked{worker=1}"] > 0, "messages to be discarded")
    others, of_stopped = running.acked
    memory = resident_bytes(rig.front.pid)
    rig.wait_for(lambda: running.acked[0] > others + 300_000, "the other worker to go on")
    figures = rig.stats()
    assert figures.gauges["front.waiting-bytes{worker=1}"] <= waiting
    assert figures.gauges["front.unacked-bytes{worker=1}"] <= MIB
    assert figures.counters["front.discarded-unacked{worker=0}"] == 0
    assert resident_bytes(rig.front.pid) < memory + 32 * MIB
    os.kill(stopped.process.pid, signal.SIGCONT)
    rig.wait_for(lambda: running.acked[1] > of_stopped + 50_000, "the stopped worker to go on")


def test_a_front_that_was_stopped_says_so_and_emits_nothing_before_it_has_read_on(rig: Any) -> None:
    rig.start(1, stopped_ns=2_000_000_000)
    worker = rig.up(0, 1)
    client = rig.connect()
    client.send(rig.frame(b"a", 1))
    assert client.acks(1) == [1]
    # Without anything to do it has its turns, too.
    time.sleep(2.5)
    assert not rig.heard(ipc.Stalled)
    stop(rig.front.pid)
    client.send(rig.frame(b"b", 2))
    rig.say(ipc.Relay(0, 1, FLUSH))
    time.sleep(2.5)
    os.kill(rig.front.pid, signal.SIGCONT)
    assert client.acks(2) == [1, 2]
    (stalled,) = rig.wait_for(lambda: rig.heard(ipc.Stalled), "the front to say that it was stopped")
    assert 2 < stalled.seconds < 60
    (stale,) = rig.wait_for(lambda: rig.heard(ipc.Stale), "the flush to be refused")
    assert stale.command == FLUSH

    def flushes() -> list[Any]:
        return [h for h, _ in worker.seen() if isinstance(h, ipc.Order) and isinstance(h.command, ipc.Flush)]

    assert not flushes()

    def goes_on() -> bool:
        refused = len(rig.heard(ipc.Stale))
        rig.say(ipc.Relay(0, 1, FLUSH))
        rig.wait_for(lambda: flushes() or len(rig.heard(ipc.Stale)) > refused, "the flush or its refusal")
        return bool(flushes())

    # A second after it has read on.
    wait_until("the flush", goes_on, every_s=0.2)
    assert len(batches(worker.seen())) > 0


def test_a_killed_worker_comes_back_while_the_others_go_on(rig: Any, load: Any) -> None:
    rig.start(2, credit_bytes=MIB, waiting_bytes=2 * MIB)
    _, killed = rig.up(0, 1), rig.up(1, 2)
    running = load(2)
    rig.wait_for(lambda: min(running.acked) > 10_000, "both workers to ack")
    killed.process.kill()
    killed.process.wait()
    rig.say(ipc.WorkerDown(1, 2))
    others = running.acked[0]
    rig.wait_for(lambda: running.acked[0] > others + 100_000, "the other worker to go on")
    rig.up(1, 3)
    gone = running.acked[1]
    rig.wait_for(lambda: running.acked[1] > gone + 50_000, "the new worker to ack")


def test_one_slow_worker_holds_reading_back_and_nothing_is_lost(rig: Any) -> None:
    rig.start(1, credit_bytes=65536, waiting_bytes=MIB, read_bytes=65536)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    frames = b"".join(rig.frame(b"metric-%08d" % i, 1) for i in range(200_000))
    sender = threading.Thread(target=client.sock.sendall, args=(frames,))
    sender.start()
    rig.wait_for(lambda: rig.stats().gauges["front.paused"] == 1, "reading to pause")
    assert rig.stats().gauges["front.waiting-bytes{worker=0}"] <= 3 * MIB
    received = 0
    worker.receive()
    while received < len(frames):
        header, payload = worker.receive()
        received += len(payload)
        worker.ack(header)
    sender.join()
    assert rig.stats().counters["front.discarded-unacked{worker=0}"] == 0


def test_an_idle_worker_without_shards_does_not_unbound_the_only_owner_s_queue(rig: Any) -> None:
    offered, waiting = 400 * MIB, 8 * MIB
    rig.start(1, credit_bytes=MIB, waiting_bytes=waiting, stall_ns=300_000_000, batch_bytes=MIB)
    rig.up(0, 1, by_hand=True)
    rig.up(1, 2)
    client = rig.connect()
    block = b"".join(rig.frame(b"metric-%08d" % i, 1) for i in range(20_000))
    done = threading.Event()

    def send() -> None:
        try:
            for _ in range(offered // len(block)):
                client.sock.sendall(block)
        except OSError:
            pass
        done.set()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        rig.wait_for(lambda: rig.stats().gauges["front.lagging{worker=0}"] == 1, "worker 0 to lag")

        def held_back() -> bool:
            gauges = rig.stats().gauges
            assert gauges["front.waiting-bytes{worker=0}"] <= waiting + 2 * MIB
            assert gauges["front.lagging{worker=1}"] == 0
            return bool(gauges["front.paused"])

        rig.wait_for(held_back, "reading to pause")
        assert held_back()
        assert not done.is_set(), "the rest waits at the producer"
    finally:
        client.sock.shutdown(2)
        sender.join()


BAD = {
    "malformed-frame": b"\0\0\0\x05hello",
    "frame-too-large": (4 * MIB + 1).to_bytes(4, "big"),
    "truncated": b"\0\0\1\0abc",
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_input_ends_only_its_connection(rig: Any, reason: str) -> None:
    rig.start(1)
    rig.up(0, 1)
    good, bad = rig.connect(), rig.connect()
    bad.send(rig.frame(b"before", 1), BAD[reason])
    if reason == "truncated":
        bad.sock.shutdown(1)
    assert bad.closed()
    good.send(rig.frame(b"good", 2))
    assert good.acks(1) == [2]
    counters = rig.stats().counters
    assert counters[f"front.connections-closed{{reason={reason}}}"] == 1
    assert counters["m3msg-server.message-decode-error{server=m3msg}"] == 1
    assert bad.acks(1) == [1], "what came before the bad frame is applied and acked"


def test_random_bytes_are_survived(rig: Any) -> None:
    rig.start(1)
    rig.up(0, 1)
    noise = random.Random(11)
    good = rig.connect()
    for number in range(30):
        bad = rig.connect()
        try:
            bad.send(noise.randbytes(noise.choice((3, 50, 3000, 200_000))))
            bad.sock.shutdown(1)
        except OSError:
            pass  # closed already
        assert bad.closed()
        bad.sock.close()
        good.send(rig.frame(b"good", number))
        assert len(good.acks(number + 1)) == number + 1


def test_a_peer_that_has_finished_sending_gets_its_acks(rig: Any) -> None:
    rig.start(1)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    client.send(rig.frame(b"a", 1))
    client.sock.shutdown(1)
    worker.receive()
    header, _ = worker.receive()
    rig.wait_for(lambda: rig.stats().counters["front.connections-closed{reason=end-of-stream}"], "the end to be seen")
    worker.ack(header, [b"\0\0\0\x04\x0a\x02\x10\x01"])
    assert client.acks(1) == [1]
    assert client.closed()


def test_who_does_not_read_its_acks_is_not_read_and_then_closed(rig: Any) -> None:
    rig.start(1, ack_buffer_bytes=65536, ack_timeout_ns=2_000_000_000)
    rig.up(0, 1)
    good, deaf = rig.connect(), rig.connect()
    deaf.sock.settimeout(0.2)
    block = b"".join(rig.frame(b"m", i) for i in range(20_000))
    with pytest.raises(TimeoutError):
        send_forever(deaf, block)
    deaf.sock.settimeout(60)
    with pytest.raises(ConnectionError):
        send_forever(deaf, block)
    good.send(rig.frame(b"good", 2))
    assert good.acks(1) == [2]
    assert rig.stats().counters["front.connections-closed{reason=acks-not-read}"] == 1


def send_forever(client: Any, block: bytes) -> None:
    while True:
        client.sock.sendall(block)


def test_it_listens_only_when_it_knows_the_route_and_a_worker(rig: Any) -> None:
    rig.start(1)
    rig.stats()
    assert rig.heard(ipc.Listening) == []
    rig.up(0, 1)
    assert rig.wait_for(lambda: rig.heard(ipc.Listening), "the front to listen")[0].pid == rig.front.pid


@pytest.mark.parametrize("by", ["command", "signal"])
def test_drain_waits_for_acks_then_says_goodbye(rig: Any, by: str) -> None:
    rig.start(1)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    client.send(rig.frame(b"a", 1))
    worker.receive()
    header, _ = worker.receive()
    if by == "command":
        rig.say(ipc.Drain(60_000_000_000))
    else:
        rig.front.send_signal(signal.SIGTERM)
    rig.stats()
    rig.stats()
    assert rig.front.poll() is None
    worker.ack(header, [b"\0\0\0\x04\x0a\x02\x10\x01"])
    assert isinstance(worker.receive()[0], ipc.Goodbye)
    assert client.acks(1) == [1]
    assert client.closed()
    assert rig.front.wait(30) == 0


def test_drain_gives_up_after_its_timeout(rig: Any) -> None:
    rig.start(1)
    worker = rig.up(0, 1, by_hand=True)
    client = rig.connect()
    client.send(rig.frame(b"a", 1))
    worker.receive()
    worker.receive()
    rig.say(ipc.Drain(200_000_000))
    assert rig.front.wait(30) == 0
