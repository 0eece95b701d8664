"""Which version of remote write an endpoint is sent."""

import pytest
from lab.receiver import Received, Receiver, Reply
from tests.coordinator.sinks.prom_remote.batches import T0_NS, id_of, sink_of, values_of

from coordinator.prompb import REQUEST_2
from coordinator.sinks.prom_remote.answers import Answer, Kind
from coordinator.sinks.prom_remote.version import AGAIN_S, Version
from coordinator.sinks.sink import RefusedWhy
from m3x.protobuf import unmarshal

MESSAGE_2 = "io.prometheus.write.v2.Request"
WRITTEN = {"X-Prometheus-Remote-Write-Samples-Written": "1"}
ROWS = [(id_of("a"), 1.0, T0_NS), (id_of("b"), 2.0, T0_NS)]


def is_2(received: Received) -> bool:
    """By its headers, which go together."""
    found = (received.header("content-type") or "").endswith(f";proto={MESSAGE_2}")
    assert received.header("x-prometheus-remote-write-version") == ("2.0.0" if found else "0.1.0")
    return found


async def test_an_endpoint_that_takes_it() -> None:
    async with Receiver(lambda _: Reply(204, headers=WRITTEN)) as receiver:
        sink = sink_of(receiver.url, protobuf_message=MESSAGE_2)
        for _ in range(2):
            assert (await sink.deliver(values_of(ROWS), again=False)).refused == []
        await sink.close()
    assert [is_2(one) for one in receiver.requests] == [True, True]
    request = unmarshal(REQUEST_2, receiver.requests[0].proto)
    assert request["symbols"] == [b"", b"__name__", b"a", b"b"]
    assert [one["labels_refs"] for one in request["timeseries"]] == [[1, 2], [1, 3]]


async def test_a_refusal_of_2_is_a_refusal() -> None:
    async with Receiver(lambda _: Reply(400, "out of order sample", headers=WRITTEN)) as receiver:
        sink = sink_of(receiver.url, protobuf_message=MESSAGE_2)
        (refused,) = (await sink.deliver(values_of(ROWS[:1]), again=False)).refused
        await sink.close()
    assert refused.why is RefusedWhy.OUT_OF_ORDER
    assert [is_2(one) for one in receiver.requests] == [True]


@pytest.mark.parametrize(
    "reply", [Reply(415, "unsupported"), Reply(204), Reply(400, "no timeseries")], ids=["415", "silent", "400"]
)
async def test_an_endpoint_that_does_not_gets_the_same_in_1_at_once(reply: Reply) -> None:
    async with Receiver(lambda received: reply if is_2(received) else Reply(204)) as receiver:
        sink = sink_of(receiver.url, protobuf_message=MESSAGE_2)
        for _ in range(2):
            assert (await sink.deliver(values_of(ROWS), again=False)).refused == []
        await sink.close()
    # And is not asked again for each request.
    assert [is_2(one) for one in receiver.requests] == [True, False, False]
    assert receiver.requests[1].series == receiver.requests[2].series
    assert len(receiver.requests[1].series) == 2


def test_is_asked_again_after_a_while() -> None:
    now_s = 0.0
    version = Version(True, "store", lambda: now_s)
    assert version.is_2
    assert version.refused(Answer(Kind.HELD, unsupported=True))
    assert not version.is_2
    now_s = AGAIN_S
    assert version.is_2


def test_what_says_nothing_about_the_version_changes_nothing() -> None:
    version = Version(True, "store")
    for answer in (
        Answer(Kind.LATER),
        Answer(Kind.HELD, unauthorized=True),
        Answer(Kind.TOO_LARGE),
        Answer(Kind.STORED, written=True),
    ):
        assert not version.refused(answer)
    assert version.is_2


def test_nobody_is_sent_2_who_is_not_to_be() -> None:
    assert not Version(False, "store").is_2
