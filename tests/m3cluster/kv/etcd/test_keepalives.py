"""Keepalives of several leases on one stream: which answer belongs to which question, and what ends the stream."""

import asyncio

import pytest
from lab.relay import Relay
from lab.waiting import until

from m3cluster.kv import Etcd, KVError, open_store
from m3cluster.kv.etcd.channel import Channel, RPCError
from m3cluster.kv.etcd.connection import LEASE_KEEP_ALIVE, Connection
from m3cluster.kv.etcd.keepalives import GivenUp, KeepAlives
from m3cluster.kv.etcd.lease import EtcdLease
from m3cluster.proto import decode, encode
from m3x.clock import boot_ns


class FakeStream:
    """Answers when the test says so."""

    outdated = False

    def __init__(self):
        self.asked = []
        self.answers = asyncio.Queue()
        self.writing = False
        self.cancelled = False

    async def write(self, request):
        assert not self.writing, "gRPC takes one message at a time"
        self.writing = True
        await asyncio.sleep(0)
        self.writing = False
        self.asked.append(request)

    async def read(self):
        return await self.answers.get()

    def cancel(self):
        self.cancelled = True


@pytest.fixture
async def stream():
    return FakeStream()


@pytest.fixture
async def keeps(stream, monkeypatch):
    channel = Channel("a:1", lambda: None, 1)
    monkeypatch.setattr(channel, "stream", lambda method: stream)
    made = KeepAlives(channel, "/etcdserverpb.Lease/LeaseKeepAlive", lambda answer: answer)
    yield made
    await made.close()


async def test_questions_are_sent_one_by_one_and_get_their_own_answers(keeps, stream):
    asking = [asyncio.ensure_future(keeps.ask(lease, b"%d" % lease, 5)) for lease in (7, 8, 7)]
    for lease, ttl_s in ((7, 10), (8, 20), (7, 0)):
        stream.answers.put_nowait((lease, ttl_s))
        await asyncio.sleep(0.01)
    assert await asyncio.gather(*asking) == [10, 20, 0]
    assert stream.asked == [b"7", b"8", b"7"]
    assert keeps.usable


async def test_after_a_question_without_an_answer_nothing_is_read_from_the_stream(keeps, stream):
    """A late answer would be taken for one to the next question, and the deadline would count from that."""
    with pytest.raises(KVError, match="no answer within"):
        await keeps.ask(7, b"7", 0.01)
    assert stream.cancelled
    assert not keeps.usable
    stream.answers.put_nowait((7, 10))
    with pytest.raises(KVError, match="DEADLINE_EXCEEDED"):
        await keeps.ask(7, b"7", 5)


async def test_all_who_wait_are_told_of_the_end(keeps, stream):
    asking = [asyncio.ensure_future(keeps.ask(lease, b"", 5)) for lease in (7, 8)]
    await asyncio.sleep(0.01)
    stream.answers.put_nowait((9, 10))
    for found in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(found, KVError)
        assert "answered for lease 9, asked for 7" in str(found)


async def test_an_answer_that_nobody_asked_for_ends_the_stream(keeps, stream):
    stream.answers.put_nowait((7, 10))
    await asyncio.sleep(0.01)
    assert not keeps.usable


async def test_an_asker_that_goes_takes_the_stream_along(keeps, stream):
    asking = [asyncio.ensure_future(keeps.ask(lease, b"", 5)) for lease in (7, 8)]
    await asyncio.sleep(0.01)
    asking[0].cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert isinstance(found[1], GivenUp)
    assert not keeps.usable


async def test_a_stream_that_ends_while_a_question_is_sent_is_no_stream_given_up(keeps, stream, monkeypatch):
    """gRPC cancels the sending."""

    async def write(_request):
        raise asyncio.CancelledError

    monkeypatch.setattr(stream, "write", write)
    with pytest.raises(RPCError, match="the stream has ended") as caught:
        await keeps.ask(7, b"", 5)
    assert not isinstance(caught.value, GivenUp)


@pytest.mark.parametrize("error", [RPCError("a:1", "", "UNAVAILABLE", "it has ended"), asyncio.CancelledError()])
async def test_who_was_sending_when_the_stream_was_closed_is_told_so(keeps, stream, monkeypatch, error):
    """Whatever gRPC makes of that."""
    sending, ended = asyncio.Event(), asyncio.Event()

    async def write(_request):
        sending.set()
        await ended.wait()
        raise error

    monkeypatch.setattr(stream, "write", write)
    asking = [asyncio.ensure_future(keeps.ask(lease, b"", 5)) for lease in (7, 8)]
    await sending.wait()
    keeps.end()
    ended.set()
    for found in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(found, GivenUp)


class Line(FakeStream):
    """One whose questions and answers are etcd's."""

    def leases(self):
        return [decode(LEASE_KEEP_ALIVE.request, request)["id"] for request in self.asked]

    def answer(self, ttl_s):
        """All that was asked."""
        for lease in self.leases():
            self.answers.put_nowait(encode(LEASE_KEEP_ALIVE.response, {"header": None, "id": lease, "ttl": ttl_s}))


@pytest.fixture
def lines(monkeypatch):
    """Streams that were opened, each with its endpoint."""
    opened = []

    def stream(channel, _method):
        opened.append((channel.address, Line()))
        return opened[-1][1]

    async def ready(_channel, _timeout_s):
        await asyncio.sleep(0)

    monkeypatch.setattr(Channel, "stream", stream)
    monkeypatch.setattr(Channel, "ready", ready)
    return opened


class Ended:
    """gRPC's connection, of which only the end is asked for."""

    async def close(self):
        pass


@pytest.fixture
async def connection(lines):
    config = Etcd(("a:1", "b:1"))
    made = Connection(config, [Channel(address, Ended, 1) for address in config.endpoints])
    yield made
    await made.close()


async def end_by_renewal(connection, lines):
    """A neighbour finds that the channel has another connection by now, and asks there."""
    lines[0][1].outdated = True
    return asyncio.ensure_future(connection.keep_alive(8, 5))


async def end_by_cancelling(connection, lines):
    """A neighbour that waits goes, and another one asks."""
    neighbour = asyncio.ensure_future(connection.keep_alive(9, 5))
    await until(lambda: lines[0][1].leases() == [7, 9])
    neighbour.cancel()
    return asyncio.ensure_future(connection.keep_alive(8, 5))


@pytest.mark.parametrize("end", [end_by_renewal, end_by_cancelling])
async def test_what_was_asked_on_a_stream_that_is_given_up_for_a_neighbour_is_asked_again(
    connection, lines, end, monkeypatch
):
    """It has not failed, nor has the endpoint."""
    lease = EtcdLease(connection, 7, 60, boot_ns())
    monkeypatch.setattr(lease, "_pause_ns", iter([0, 1 << 62]).__next__)
    keeping = asyncio.ensure_future(lease.keep_alive())
    await until(lambda: lines and lines[0][1].leases() == [7])
    before_ns, again_ns = lease.deadline_ns(), boot_ns()
    neighbour = await end(connection, lines)
    await until(lambda: len(lines) == 2 and sorted(lines[1][1].leases()) == [7, 8])
    assert lines[0][1].cancelled
    lines[1][1].answer(60)
    assert await neighbour == 60
    await until(lambda: lease.deadline_ns() > before_ns)
    # From when it was asked for, not from when it was asked for again.
    assert lease.deadline_ns() < again_ns + 60_000_000_000
    assert lease.failed_ns() == 0
    assert [address for address, _ in lines] == ["a:1"] * 2
    assert connection.current.address == "a:1"
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_what_is_asked_again_has_no_more_time_than_before(connection, lines, monkeypatch):
    given, ask = [], KeepAlives.ask

    async def noted(self, lease, request, timeout_s):
        if lease == 7:
            given.append(timeout_s)
        return await ask(self, lease, request, timeout_s)

    monkeypatch.setattr(KeepAlives, "ask", noted)
    asking = asyncio.ensure_future(connection.keep_alive(7, 5))
    await until(lambda: lines and lines[0][1].leases() == [7])
    neighbour = await end_by_renewal(connection, lines)
    await until(lambda: len(lines) == 2 and sorted(lines[1][1].leases()) == [7, 8])
    lines[1][1].answer(60)
    assert await asyncio.gather(asking, neighbour) == [60, 60]
    assert 5 >= given[0] > given[1]


async def test_nothing_is_asked_again_after_the_end(connection, lines):
    asking = asyncio.ensure_future(connection.keep_alive(7, 5))
    await until(lambda: lines and lines[0][1].leases() == [7])
    await connection.close()
    with pytest.raises(GivenUp):
        await asking
    assert len(lines) == 1


async def test_a_keepalive_that_has_no_answer_is_told_of_by_its_lease(own_etcd):
    async with Relay(own_etcd.address) as relay:
        store = await open_store(Etcd((relay.address,), request_timeout_s=30))
        lease = await store.grant(3)
        first_ns = lease.deadline_ns()
        await until(lambda: lease.deadline_ns() > first_ns)
        relay.hold_answers()
        held_ns = boot_ns()
        await until(lambda: lease.failed_ns() > held_ns)
        assert lease.failed_ns() <= boot_ns()
        await store.close()


async def test_leases_share_a_stream_for_as_long_as_it_lives(own_etcd):
    store = await open_store(Etcd((own_etcd.address,), request_timeout_s=30))
    connection = store._connection
    one, other = await store.grant(60), await store.grant(60)
    assert await asyncio.gather(*(connection.keep_alive(lease.id, 30) for lease in (one, other, one))) == [60] * 3
    first = connection._keeps
    assert await connection.keep_alive(other.id, 30) == 60
    assert connection._keeps is first
    connection.current.renew()
    assert await connection.keep_alive(one.id, 30) == 60
    assert connection._keeps is not first
    assert not first.usable
    await one.revoke()
    assert await connection.keep_alive(one.id, 30) <= 0
    await store.close()
