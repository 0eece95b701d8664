"""Remote write: refusals, garbage, repeated and scattered series, headers."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import cramjam
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request

from coordinator.config.cluster import Namespace
from coordinator.config.coordinator import TagOptionsConfig
from coordinator.downsample import Downsampler
from coordinator.prompb import WRITE_REQUEST
from coordinator.write import RemoteWriter, SeriesCache, remote_write_routes
from coordinator.write.decoding import MAX_BODY_BYTES, RequestDecoder
from coordinator.write.options import BadRequestError, WriteOptions, parse_options
from coordinator.write.remote_write import FailedError
from m3metrics.ids import decode_tags
from m3msg.batch import MessageBatch
from m3x.instrument import Registry
from m3x.protobuf import marshal, varint

PATH = "/api/v1/prom/remote/write"
TIME_MS = 1_700_000_000_000


def series(labels: dict[str, str], *values: float, **more: int) -> dict[str, Any]:
    return {
        "labels": [{"name": n.encode(), "value": v.encode()} for n, v in labels.items()],
        "samples": [{"value": value, "timestamp": TIME_MS + i * 1000} for i, value in enumerate(values)],
        **more,
    }


def body(*many: dict[str, Any]) -> bytes:
    return packed(marshal(WRITE_REQUEST, {"timeseries": list(many)}))


def packed(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


@pytest.fixture
async def client(make_writer: Callable[..., RemoteWriter]) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=list(remote_write_routes(make_writer())))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_samples_become_timed_gauges(client: httpx.AsyncClient, sink: Any) -> None:
    answer = await client.post(PATH, content=body(series({"__name__": "up", "job": "a"}, 1.5, 2.5)))
    assert (answer.status_code, answer.content) == (200, b"")
    assert [(m.value, m.time_ns) for m in sink.metrics] == [(1.5, TIME_MS * 10**6), (2.5, (TIME_MS + 1000) * 10**6)]
    assert dict(decode_tags(sink.metrics[0].id)) == {b"__name__": b"up", b"job": b"a"}


async def test_a_body_that_ends_early_keeps_nothing_and_is_counted(
    make_writer: Callable[..., RemoteWriter], sink: Any, registry: Registry
) -> None:
    parts = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return parts.pop(0)

    answer = await make_writer().handle(Request({"type": "http", "method": "POST", "headers": []}, receive))
    assert (answer.status_code, b"after 4 bytes of the body" in answer.body) == (400, True)
    assert registry.counter("test_write_errors", code="4XX") == 1
    assert sink.metrics == []


async def test_what_would_be_too_large_when_unpacked_is_413(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, content=varint(MAX_BODY_BYTES + 1) + b"\x00")
    assert (answer.status_code, f"more than {MAX_BODY_BYTES} bytes" in answer.json()["error"]) == (413, True)


async def test_refused_writes_are_503_with_retry_after(client: httpx.AsyncClient, sink: Any) -> None:
    sink.refusal = "the topic aggregator_ingest does not exist yet"
    answer = await client.post(PATH, content=body(series({"__name__": "up"}, 1.0)))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"status": "error", "error": "the topic aggregator_ingest does not exist yet"}
    assert sink.metrics == []
    # What can never be accepted is said at once.
    assert (await client.post(PATH, content=b"\x05nonsense")).status_code == 400
    sink.refusal = None
    assert (await client.post(PATH, content=body(series({"__name__": "up"}, 1.0)))).status_code == 200


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "snappy: corrupt input"),
        (b"\xff" * 20, "snappy: corrupt input"),
        (packed(b"\x0c\xff"), "proto: WriteRequest: wiretype end group for non-group"),
        (packed(b"\x0a\x05\x0a"), "unexpected EOF"),
        (packed(b"\x0a\x02\x0a\x05"), "unexpected EOF"),
        (packed(b"\x0a\x04\x0a\x02\x0a\x09"), "unexpected EOF"),
        # A label, a sample, and behind it a label that is none.
        (packed(b"\x0a\x0c\x0a\x04\x0a\x02ab\x12\x00\x0a\x02\x0a\x09"), "unexpected EOF"),
        (packed(b"\x0a\x02\x08\x01"), "proto: wrong wireType = 0 for field Labels"),
        (packed(b"\x08\x01"), "proto: wrong wireType = 0 for field Timeseries"),
    ],
)
async def test_garbage_is_400_and_disturbs_nothing(
    client: httpx.AsyncClient, sink: Any, content: bytes, error: str
) -> None:
    answer = await client.post(PATH, content=content)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(error)
    assert (await client.post(PATH, content=body(series({"__name__": "up"}, 1.0)))).status_code == 200
    assert len(sink.metrics) == 1


async def test_broken_labels_send_nothing_at_all(client: httpx.AsyncClient, sink: Any) -> None:
    good = marshal(WRITE_REQUEST, {"timeseries": [series({"__name__": "up"}, 1.0)]})
    assert (await client.post(PATH, content=packed(good + b"\x0a\x04\x0a\x02\x0a\x09"))).status_code == 400
    assert sink.metrics == []


async def test_one_bad_series_does_not_hold_up_the_others(client: httpx.AsyncClient, sink: Any) -> None:
    for _ in range(2):
        answer = await client.post(
            PATH,
            content=body(
                series({"__name__": "a"}, 1.0), series({"__name__": "b", "k": ""}, 1.0), series({"__name__": "c"}, 1.0)
            ),
        )
        assert answer.json()["error"] == "bad_request_errors: count=2, last=tag value empty: index=1, name=k"
    assert len(sink.metrics) == 4


async def test_scattered_labels_are_the_same_series(client: httpx.AsyncClient, sink: Any) -> None:
    one = marshal(WRITE_REQUEST, {"timeseries": [series({"__name__": "up"}, 1.0)]})[2:]
    label = marshal(WRITE_REQUEST, {"timeseries": [series({"job": "a"})]})[2:]
    scattered = one + label
    request = b"\x0a" + varint(len(scattered)) + scattered
    for content in (packed(request + request), body(series({"__name__": "up", "job": "a"}, 1.0))):
        assert (await client.post(PATH, content=content)).status_code == 200
    assert len({m.id for m in sink.metrics}) == 1
    assert len(sink.metrics) == 3


async def test_more_series_than_the_cache_holds(make_writer: Callable[..., RemoteWriter], sink: Any) -> None:
    cache = SeriesCache(1024, 4 << 20)
    writer = make_writer(cache)
    many = body(*(series({"__name__": "up", "n": str(i)}, float(i)) for i in range(3000)))
    for _ in range(2):
        assert (await writer.write(many, WriteOptions())).status_code == 200
    assert [m.value for m in sink.metrics] == [float(i) for i in range(3000)] * 2
    assert [dict(decode_tags(m.id))[b"n"] for m in sink.metrics[3000:]] == [b"%d" % i for i in range(3000)]
    assert cache.forgotten > 0


async def test_bad_series_of_a_later_chunk_stops_the_whole_request(
    make_writer: Callable[..., RemoteWriter], sink: Any
) -> None:
    many = [series({"__name__": "up", "n": str(i)}, 1.0) for i in range(3000)]
    many.append(series({"__name__": "up"}, 1.0, m3_type=7))
    with pytest.raises(FailedError, match="invalid M3 metric type: 7"):
        await make_writer(SeriesCache(1024, 4 << 20)).write(body(*many), WriteOptions())
    assert sink.metrics == []


async def test_renamed_labels_and_mapped_tags(sink: Any, registry: Registry) -> None:
    namespaces = [Namespace("ten", 10**10, 6 * 3600 * 10**9)]
    options = TagOptionsConfig(metric_name="metric", bucket_name="bucket")
    writer = RemoteWriter(
        Downsampler(namespaces), SeriesCache(1024, 4 << 20), sink, registry.scope("test"), tag_options=options
    )
    mapped = parse_options({"M3-Map-Tags-JSON": '{"tagMappers":[{"write":{"tag":"zone","value":"eu"}}]}'})
    for wanted in (WriteOptions(), mapped, WriteOptions()):
        await writer.write(body(series({"__name__": "up", "le": "0.5", "zone": "us"}, 1.0)), wanted)
    tags = [dict(decode_tags(m.id)) for m in sink.metrics]
    assert tags[0] == tags[2] == {b"metric": b"up", b"bucket": b"0.5", b"zone": b"us"}
    assert tags[1] == {b"metric": b"up", b"bucket": b"0.5", b"zone": b"eu"}


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"M3-Metrics-Type": "sideways"}, "unrecognized metrics type: sideways"),
        (
            {"M3-Metrics-Type": "unaggregated", "M3-Storage-Policy": "10s:6h"},
            "storage policy should not be set for unaggregated metrics",
        ),
        ({"M3-Metrics-Type": "aggregated"}, "could not parse storage policy: invalid storage policy string"),
        ({"M3-Write-Type": "sideways"}, "unrecognized write type: sideways"),
        ({"M3-Map-Tags-JSON": "[]"}, "M3-Map-Tags-JSON is not a JSON object"),
        ({"M3-Map-Tags-JSON": '{"tagMappers":[7]}'}, "M3-Map-Tags-JSON is not a JSON object"),
        ({"M3-Map-Tags-JSON": '{"tagMappers":[{"write":7}]}'}, "M3-Map-Tags-JSON: write needs texts"),
    ],
)
def test_headers_that_make_no_sense(headers: dict[str, str], error: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_options(headers)
    assert str(caught.value).startswith(error)


class _Nowhere:
    """A sink for property tests, which get no fixtures."""

    largest_message = 1 << 20
    largest_batch = 100 << 20

    def ready(self, nbytes: int) -> int | None:
        return 8

    async def admit(self, nbytes: int) -> int:
        return 8

    def produce(self, batch: MessageBatch) -> bool:
        return len(batch) > 0


@given(st.binary(max_size=200))
async def test_no_body_breaks_the_writer(data: bytes) -> None:
    writer = RemoteWriter(
        Downsampler([Namespace("ten", 10**10, 10**13)]),
        SeriesCache(1024, 4 << 20),
        _Nowhere(),
        Registry().scope("test"),
    )
    for content in (data, packed(data)):
        try:
            answer = await writer.write(content, WriteOptions())
        except (BadRequestError, FailedError):
            continue
        assert answer.status_code in {200, 400}


def test_broken_labels_that_are_scattered_are_a_bad_request() -> None:
    # Two label fields with another field between them; the second says that it is longer than it is.
    series = b"\x0a\x04\x0a\x02ab" + b"\xa8\x06\x01" + b"\x0a\x04\x0a\x09ab"
    body = bytes(cramjam.snappy.compress_raw(b"\x0a" + bytes([len(series)]) + series))
    with pytest.raises(BadRequestError, match="unexpected EOF"):
        RequestDecoder().decode(body, WriteOptions())
