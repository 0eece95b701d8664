"""What all protocols over HTTP have from the one way that they share: acks, requests that come again, and the form of their answers."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from lab.waiting import until
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from starlette.applications import Starlette
from tests.coordinator.write.conftest import TEN_SECONDS, RecordingSink
from tests.coordinator.write.otlp import requests as otlp
from tests.coordinator.write.test_acks import nothing, waiting_for
from tests.coordinator.write.test_answers import (
    DELTA,
    GAUGE,
    JSON_UP,
    LINE,
    OTHER_SENDERS,
    PATH,
    PROTOBUF,
    QUIET,
    REMOTE_WRITE_2,
    Post,
    SetUp,
    body_2,
    dropping,
    influx,
    json_write,
    otlp_post,
    otlp_raw,
    series,
    world_of,
)

from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.write import RemoteWriter, SeriesCache, remote_write_routes, sender_routes
from coordinator.write.otlp.answers import _STATUS
from m3metrics.aggregation import AggregationType, compress
from m3metrics.filters import compile_filter
from m3metrics.policy import StoragePolicy
from m3metrics.rules import MappingRule, MappingSnapshot, RuleSet
from m3x.instrument import Registry
from m3x.protobuf import unmarshal

MALFORMED = {
    "remote-write": (Post(b"\xff" * 20), 400),
    "remote-write-2": (Post(b"\xff" * 20, REMOTE_WRITE_2), 400),
    "zstd": (Post(b"\xff" * 20, {"Content-Encoding": "zstd"}), 400),
    "influx": (influx(b"cpu,host usage\n"), 400),
    "gzip": (influx(b"\x1f\x8bno", headers={"Content-Encoding": "gzip"}), 400),
    "json": (json_write("[1"), 400),
    "otlp": (otlp_raw(b"\xff", ""), 400),
    "otlp-json": (otlp_raw(b"{", "", "application/json"), 400),
}
"""A body that cannot be read in each protocol."""
SENT = {"influx": influx(LINE), "json": json_write(JSON_UP), "otlp": otlp_post(GAUGE)}


@pytest.mark.parametrize("key", MALFORMED)
async def test_what_cannot_be_read_gets_one_answer_and_harms_no_neighbour(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good requests in all protocols beside it are taken."""
    bad, status = MALFORMED[key]
    good = [*SENT.values(), Post()]
    async with world_of(SetUp(), tmp_path, monkeypatch) as world:
        app = world.app()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            posts = [bad, *good, bad, *good, bad]
            answers = await asyncio.gather(
                *(client.post(post.path, content=post.body, headers=post.headers) for post in posts)
            )
        refused = [answer for answer, post in zip(answers, posts, strict=True) if post is bad]
        assert [answer.status_code for answer in refused] == [status] * 3
        if refused[0].headers["content-type"] == "application/json":
            assert {len(answer.json()) for answer in refused} == {2}
        taken = [answer.status_code for answer, post in zip(answers, posts, strict=True) if post is not bad]
        assert set(taken) == {200, 204}
        assert world.ends() == {"aggregators": len(taken)}


@pytest.mark.parametrize(
    ("post", "kinds"),
    [
        (influx(LINE, headers={"Prometheus-Metric-Type": "counter"}), {"counter"}),
        (json_write(JSON_UP, headers={"Prometheus-Metric-Type": "Summary"}), {"summary"}),
        (Post(headers={"Prometheus-Metric-Type": "gauge_histogram"}), {"gauge_histogram"}),
        (otlp_post(GAUGE), {"gauge"}),
        (influx(LINE), {"unknown"}),
    ],
    ids=["influx", "json", "remote-write", "otlp", "unsaid"],
)
async def test_rules_match_the_type_that_a_sender_declares(
    post: Post, kinds: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent but what a rule asks for by its type."""
    for kind in ("counter", "gauge", "gauge_histogram", "summary", "unknown"):
        rule = MappingSnapshot(
            name=kind, cutover_ns=1, filter=compile_filter(f"__m3_prom_type__:{kind}"),
            aggregation_id=compress([AggregationType.LAST]), storage_policies=(StoragePolicy.parse("10s:48h"),),
        )  # fmt: skip
        rules = RuleSet(namespace="default", mapping_rules=(MappingRule(kind, (rule,)),))
        folder = tmp_path / kind
        folder.mkdir()
        async with world_of(SetUp([QUIET], rules), folder, monkeypatch) as world:
            assert (await world.post(post.body, post.headers, post.path)).status_code in (200, 204)
            assert world.ends() == ({"aggregators": 1} if kind in kinds else {})


@pytest.mark.parametrize("sender", SENT)
async def test_a_request_that_comes_again_waits_on_and_is_not_sent_twice(
    sender: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = SENT[sender]
    async with world_of(SetUp(), tmp_path, monkeypatch) as world:
        aggregators = waiting_for(world, nothing)
        first = await world.post(post.body, post.headers, post.path)
        assert (first.status_code, first.headers["retry-after"]) == (503, "1")
        again = asyncio.create_task(world.post(post.body, post.headers, post.path))
        await until(lambda: world.counted()["write_repeats"])
        aggregators.acknowledge()
        assert (await again).status_code in (200, 204)
        assert world.ends() == {"aggregators": 1}


async def test_a_body_that_is_read_in_another_way_is_another_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(SetUp(), tmp_path, monkeypatch) as world:
        waiting_for(world, nothing)
        for precision in ("ns", "ms"):
            assert (
                await world.post(b"cpu v=1 1700000000", {}, f"{influx(b'').path}?precision={precision}")
            ).status_code == 503
        assert world.counted()["write_repeats"] == 0
        assert world.ends() == {"aggregators": 2}


async def _answer(post: Post, folder: Path, patch: pytest.MonkeyPatch) -> tuple[int, bytes, str]:
    async with world_of(post.set_up, folder, patch) as world:
        answer = await world.post(post.body, post.headers, post.path)
        return answer.status_code, answer.content, answer.headers["content-type"]


async def test_partial_success_counts_data_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A histogram that is too old is one point, whatever it has of series."""
    old = otlp.point(count=1, explicit_bounds=[1.0, 2.0], bucket_counts=[1, 0, 0], time_ns=1)
    metric = {"name": "h", "histogram": {"data_points": [old], "aggregation_temporality": otlp.CUMULATIVE}}
    status, body, media = await _answer(otlp_post(metric, set_up=SetUp(inside=True)), tmp_path, monkeypatch)
    partial = ExportMetricsServiceResponse.FromString(body).partial_success
    assert (status, media, partial.rejected_data_points) == (200, "application/x-protobuf", 1)
    assert "too far in past" in partial.error_message


@pytest.mark.parametrize(
    ("post", "expected"),
    [
        (otlp_post(GAUGE), (200, b"", "application/x-protobuf")),
        (otlp_raw(b"{}", "", "application/json; charset=utf-8"), (200, b"{}", "application/json")),
        (otlp_raw(b"{", "", "application/json"), (400, None, "application/json")),
        (otlp_post(DELTA, headers={**PROTOBUF, "M3-Metrics-Type": "x"}), (400, None, "application/x-protobuf")),
    ],
)  # fmt: skip
async def test_forms_of_answers(
    post: Post, expected: tuple[int, bytes | None, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, body, media = await _answer(post, tmp_path, monkeypatch)
    assert (status, media) == (expected[0], expected[2])
    if expected[1] is not None:
        assert body == expected[1]
    elif media == "application/json":
        assert body.startswith(b'{"code": 3, "message": "the body is no')
    else:
        assert unmarshal(_STATUS, body) == {"code": 3, "message": b"unrecognized metrics type: x"}


@pytest.mark.parametrize("key", [key for key in OTHER_SENDERS if key.endswith("unexpected")])
async def test_senders_come_again_after_a_mistake_of_ours(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, _ = await _answer(OTHER_SENDERS[key], tmp_path, monkeypatch)
    assert status == (503 if key.startswith("otlp") else 500)


async def test_types_that_otlp_declares_travel_with_the_samples(sink: RecordingSink, registry: Registry) -> None:
    """Where ``storeMetricsType`` is set; numbers: docs/m3/coordinator.md, annotation."""
    scope = registry.scope("test")
    writer = RemoteWriter(Downsampler([TEN_SECONDS]), SeriesCache(4096, 8 << 20), sink, scope, store_metrics_type=True)
    data = {"data_points": [otlp.point(1)], "aggregation_temporality": otlp.CUMULATIVE, "is_monotonic": True}
    post = otlp_post({"name": "c", "sum": data}, GAUGE)
    app = Starlette(routes=sender_routes(writer, scope))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post(post.path, content=post.body, headers=post.headers)).status_code == 200
    assert [metric.annotation for metric in sink.metrics] == [b"\x08\x01\x10\x01", b"\x08\x02"]


async def test_types_that_remote_write_2_declares_are_those_of_rules_and_travel(sink: RecordingSink) -> None:
    """A rule drops counters by their type; the others' types go along."""
    rules = RulesInEffect()
    rules.put("default", dropping(filters="__m3_prom_type__:counter"))
    downsampler = Downsampler([TEN_SECONDS], rules, now_ns=time.time_ns())
    scope = Registry().scope("test")
    writer = RemoteWriter(downsampler, SeriesCache(4096, 8 << 20), sink, scope, store_metrics_type=True)
    body = body_2(series("up", 1.0, type=1), series("up", 2.0, type=2), series("up", 3.0), series("up", 4.0, type=5))
    app = Starlette(routes=remote_write_routes(writer))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post(PATH, content=body, headers=REMOTE_WRITE_2)
    assert answer.status_code == 200
    assert answer.headers["X-Prometheus-Remote-Write-Samples-Written"] == "4"
    assert [(metric.value, metric.annotation) for metric in sink.metrics] == [
        (2.0, b"\x08\x02"), (3.0, b""), (4.0, b"\x08\x05"),
    ]  # fmt: skip
