"""Keepalives of several leases on one stream: which answer belongs to which question, and what ends the stream."""

import asyncio

import pytest

from m3cluster.kv import Etcd, KVError, open_store
from m3cluster.kv.etcd.channel import Channel
from m3cluster.kv.etcd.keepalives import KeepAlives


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
    assert isinstance(found[1], KVError)
    assert not keeps.usable


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
