"""The usual request in one step: the same messages as by all the steps, and nothing but usual requests."""

import struct
from typing import Any

import cramjam
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from tests.coordinator.write.conftest import TEN_SECONDS
from tests.coordinator.write.test_acks import Sink

from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler
from coordinator.prompb import TIME_SERIES, WRITE_REQUEST
from coordinator.write import RemoteWriter, SeriesCache, writes_first
from coordinator.write.known import MOST_BYTES, KnownSeries
from coordinator.write.options import BadRequestError, WriteOptions, parse_options
from coordinator.write.prometheus import PrometheusSender
from coordinator.write.remote_write import REMOTE_WRITE_PATH
from m3msg.batch import MessageBatch
from m3x.instrument import Registry
from m3x.protobuf import marshal, varint

TIME_MS = 1_700_000_000_000
OPTIONS = WriteOptions()


class _Writer:
    """A writer, and the same one whose requests take all the steps."""

    def __init__(self, namespace: Namespace = TEN_SECONDS) -> None:
        self.sink = Sink()
        self.registry = Registry()
        self.cache = SeriesCache(0, 1 << 22)
        downsampler = Downsampler([namespace], now_ns=TIME_MS * 10**6)
        self.writer = RemoteWriter(downsampler, self.cache, self.sink, self.registry.scope("test"))
        known = self.writer._known
        assert known is not None
        self.known: KnownSeries = known

    async def by_steps(self, body: bytes) -> list[MessageBatch]:
        """What a request becomes in steps."""
        self.writer._known = None
        try:
            return await self.at_once(body)
        finally:
            self.writer._known = self.known

    async def at_once(self, body: bytes) -> list[MessageBatch]:
        """What it becomes as the writer takes it."""
        self.sink.batches.clear()
        await self.writer.write(body, OPTIONS)
        return list(self.sink.batches)

    def encoded(self, body: bytes) -> tuple[MessageBatch, int] | None:
        """What the compiled pass makes of a request that it unpacks; None: nothing."""
        plain = self.known.unpacked(body)
        assert plain is not None
        return self.known.encode(plain, 64)


def series(labels: dict[str, str], *samples: tuple[int, float], **more: Any) -> dict[str, Any]:
    return {
        "labels": [{"name": name.encode(), "value": value.encode()} for name, value in labels.items()],
        "samples": [{"value": value, "timestamp": at} for at, value in samples],
        **more,
    }


def packed(*many: dict[str, Any], of_last: bytes = b"", behind: bytes = b"") -> bytes:
    """A request; ``of_last``: fields of the last series besides, ``behind``: of the request."""
    messages = [marshal(TIME_SERIES, one) for one in many]
    messages[-1] += of_last
    data = b"".join(b"\x0a" + varint(len(message)) + message for message in messages)
    return bytes(cramjam.snappy.compress_raw(data + behind))


def counts_of(registry: Registry) -> list[bytes]:
    """The figures of a registry, but for how long something took."""
    return [line for line in registry.render().splitlines() if b"latency" not in line]


def assert_same(ours: list[MessageBatch], wanted: list[MessageBatch]) -> None:
    assert len(ours) == len(wanted) == 1
    (one,), (other,) = ours, wanted
    assert one.payload.tobytes() == other.payload.tobytes()
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.shards, other.shards)


names = st.sampled_from(["__name__", "app", "host", "le", "job", "z"])
texts = st.text(min_size=1, max_size=20) | st.integers(100, 400).map(lambda size: "x" * size)
values = st.floats(width=64) | st.sampled_from([0.0, -0.0, struct.unpack("<d", b"\x02\0\0\0\0\0\xf0\x7f")[0]])
times = st.integers(TIME_MS - 10**9, TIME_MS + 10**9)


@given(
    st.lists(
        st.tuples(
            st.dictionaries(names, texts, min_size=1), st.lists(st.tuples(times, values), min_size=1, max_size=3)
        ),
        min_size=1,
        max_size=80,
    )
)
async def test_the_messages_are_those_of_all_steps(drawn: list[tuple[dict[str, str], list[tuple[int, float]]]]) -> None:
    one = _Writer()
    # Labels are sorted by their senders; a series whose labels are not is no usual one.
    body = packed(*(series(dict(sorted(labels.items())), *samples) for labels, samples in drawn))
    await one.by_steps(body)
    wanted = await one.by_steps(body)
    found = one.encoded(body)
    assert found is not None
    assert_same([found[0]], wanted)
    assert found[1] == drawn[-1][1][-1][0]
    assert_same(await one.at_once(body), wanted)


USUAL = {"__name__": "up", "job": "a", "zone": "b"}
NEAR = series(USUAL, (TIME_MS, 1.0))


@pytest.mark.parametrize(
    "body",
    [
        packed(NEAR, series({"__name__": "up", "job": "new"}, (TIME_MS, 1.0))),
        packed(NEAR, series({"zone": "b", "job": "a", "__name__": "up"}, (TIME_MS, 1.0))),
        packed(NEAR, series({**USUAL, "zone": "b" * 17000}, (TIME_MS, 1.0))),
        packed(NEAR, series(USUAL)),
        packed(NEAR, series(USUAL, (0, 1.0))),
        packed(NEAR, series(USUAL, (-TIME_MS, 1.0))),
        packed(NEAR, series(USUAL, (TIME_MS, 1.0)), of_last=b"\x1a\x00"),
        packed(NEAR, series(USUAL, (TIME_MS, 1.0)), of_last=b"\x22\x00"),
        packed(NEAR, series(USUAL, (TIME_MS, 1.0), type=2)),
        packed(NEAR, behind=b"\x1a\x00"),
        bytes(cramjam.snappy.compress_raw(b"")),
    ],
    ids=[
        "a new series", "labels that are not sorted", "a very long label", "no sample", "no time", "a time before 1970", "an exemplar",
        "a native histogram", "a type", "metadata", "nothing",
    ],
)  # fmt: skip
async def test_what_is_not_usual_takes_all_steps(body: bytes) -> None:
    one, other = _Writer(), _Writer()
    for writer in (one, other):
        await writer.by_steps(packed(NEAR))
    plain = one.known.unpacked(body)
    assert plain is None or one.known.encode(plain, 64) is None
    for _ in range(3):
        ours, wanted = await one.at_once(body), await other.by_steps(body)
        assert [batch.payload.tobytes() for batch in ours] == [batch.payload.tobytes() for batch in wanted]
    assert counts_of(one.registry) == counts_of(other.registry)


async def test_counts_are_those_of_all_steps() -> None:
    one, other = _Writer(), _Writer()
    body = packed(NEAR, series(USUAL, (TIME_MS + 1, 2.0), (TIME_MS + 2, 3.0)))
    for _ in range(3):
        await one.at_once(body)
        await other.by_steps(body)
    name = "test_ingest_samples"
    assert one.registry.counter(name) == other.registry.counter(name) == 9


async def test_every_end_of_a_request_is_found() -> None:
    one = _Writer()
    data = marshal(WRITE_REQUEST, {"timeseries": [NEAR, NEAR]})
    await one.by_steps(packed(NEAR, NEAR))
    for end in range(1, len(data)):
        found = one.encoded(bytes(cramjam.snappy.compress_raw(data[:end])))
        assert (found is not None) == (2 * end == len(data))
        one.known._left_out = 0


async def test_who_sends_odd_requests_is_asked_less_often() -> None:
    one = _Writer()
    await one.by_steps(packed(NEAR))
    odd, tried = packed(series(USUAL, (0, 1.0))), 0
    for _ in range(200):
        plain = one.known.unpacked(odd)
        if plain is not None:
            tried += 1
            assert one.known.encode(plain, 64) is None
    assert 4 < tried < 15


async def test_large_requests_and_broken_ones_are_left_to_others() -> None:
    known = _Writer().known
    assert known.unpacked(b"") is None
    assert known.unpacked(b"\x05nonsense") is None
    assert known.unpacked(bytes(cramjam.snappy.compress_raw(bytes(MOST_BYTES + 1)))) is None


async def test_what_does_not_fit_into_the_room_is_given_more() -> None:
    one = _Writer()
    many = [series({"a": f"{k}"}, *((TIME_MS + i, 1.0) for i in range(50))) for k in range(100)]
    await one.by_steps(packed(*many))
    wanted = await one.by_steps(packed(*many))
    assert_same(await one.at_once(packed(*many)), wanted)


@pytest.mark.parametrize("order", ["as they came", "backwards", "at random", "every third", "each twice", "one aside"])
async def test_series_come_in_any_order(order: str) -> None:
    one = _Writer()
    many = [series({"__name__": "up", "n": str(k)}, (TIME_MS + k, k / 3)) for k in range(300)]
    await one.by_steps(packed(*many))
    shuffled = np.random.default_rng(3).permutation(300).tolist()
    rows = {
        "as they came": list(range(300)),
        "backwards": list(range(299, -1, -1)),
        "at random": shuffled,
        "every third": list(range(0, 300, 3)),
        "each twice": [k // 2 for k in range(600)],
        "one aside": [*range(50), 299, *range(50, 299)],
    }[order]
    body = packed(*(many[k] for k in rows))
    wanted = await one.by_steps(body)
    found = one.encoded(body)
    assert found is not None
    assert_same([found[0]], wanted)
    # The entry behind the last one is nobody's.
    last = packed(many[299], series({"__name__": "up", "n": "new"}, (TIME_MS, 1.0)))
    assert one.encoded(last) is None


async def test_a_sink_that_takes_nothing_refuses() -> None:
    one = _Writer()
    await one.by_steps(packed(NEAR))
    one.sink.takes = False
    with pytest.raises(Exception, match="the buffer towards the aggregators is full"):
        await one.at_once(packed(NEAR))


async def test_remote_writes_are_answered_without_their_route() -> None:
    one = _Writer()

    async def others(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    app = writes_first(others, one.writer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for known in (False, True):
            answer = await client.post(REMOTE_WRITE_PATH, content=packed(NEAR))
            assert (answer.status_code, answer.content, known) == (200, b"", len(one.sink.batches) == 2)
        assert (await client.post(REMOTE_WRITE_PATH, content=b"\x05nonsense")).status_code == 400
        for answer in (await client.get(REMOTE_WRITE_PATH), await client.post("/other")):
            assert (answer.status_code, answer.text) == (404, answer.request.url.path)


async def test_new_series_do_not_keep_requests_out() -> None:
    one = _Writer()
    for k in range(8):
        await one.at_once(packed(NEAR, series({"new": str(k)}, (TIME_MS, 1.0))))
    assert one.encoded(packed(NEAR)) is not None


def test_options_are_those_of_the_headers_however_often_they_were_asked_for() -> None:
    sender = PrometheusSender()
    said = [
        [],
        [(b"content-encoding", b"zstd")],
        [(b"content-type", b"application/x-protobuf;proto=io.prometheus.write.v2.Request")],
        [(b"m3-metrics-type", b"unaggregated")],
        [(b"m3-metrics-type", b"aggregated"), (b"m3-storage-policy", b"10s:2d")],
        [(b"m3-write-type", b"aggregate")],
        [(b"m3-map-tags-json", b'{"tagMappers":[{"write":{"tag":"a","value":"%d"}}]}' % 1)],
        [(b"prometheus-metric-type", b"counter")],
        *(
            [(b"m3-map-tags-json", b'{"tagMappers":[{"write":{"tag":"a","value":"%s"}}]}' % (b"x" * k))]
            for k in range(0, 2000, 20)
        ),
    ]
    for _ in range(2):
        for headers in said:
            request = Request({"type": "http", "headers": [*headers, (b"content-length", b"7"), (b"x-request", b"8")]})
            assert sender.options(request) == parse_options(request.headers)
    assert len(sender._options) <= 64
    assert max(len(value) for key in sender._options for _, value in key) <= 1024
    for _ in range(2):
        with pytest.raises(BadRequestError, match="unrecognized metrics type: other"):
            sender.options(Request({"type": "http", "headers": [(b"m3-metrics-type", b"other")]}))
