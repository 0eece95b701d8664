"""Forwarding: what targets get, of what, how often, and that none of them holds up the answer, the others or the end."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import cramjam
import httpx
import pytest
from lab.prometheus import request_2
from lab.receiver import Received, Receiver, Reply
from lab.waiting import until
from starlette.applications import Starlette

from coordinator.config.cluster import Namespace
from coordinator.config.forwarding import ForwardingConfig, ForwardTargetConfig, ShadowConfig
from coordinator.config.prom_remote import SecretText
from coordinator.downsample import Downsampler
from coordinator.prompb import WRITE_REQUEST
from coordinator.write import (
    Forwarding,
    RemoteWriter,
    SeriesCache,
    forwarding,
    remote_write_routes,
    repeats,
    sender_routes,
)
from coordinator.write.forwarding import FORWARDED_BY
from m3x.config import Duration
from m3x.instrument import Registry
from m3x.log import configure
from m3x.protobuf import marshal
from m3x.sections import RetryConfig

WRITE = "/api/v1/prom/remote/write"
TEN_SECONDS = Namespace("ten", 10 * 10**9, 6 * 3600 * 10**9)
SOON = RetryConfig(initial_backoff=Duration(1_000_000), max_retries=1)
SLOW_S = 30.0


def proto(*values: float, **labels: str) -> bytes:
    """A request of one series, before compression."""
    pairs = [{"name": name.encode(), "value": text.encode()} for name, text in labels.items()]
    samples = [{"value": value, "timestamp": time.time_ns() // 1_000_000 - 5000} for value in values]
    return marshal(WRITE_REQUEST, {"timeseries": [{"labels": pairs, "samples": samples}]})


UP = proto(1.0, 2.0, __name__="up")


def packed(data: bytes) -> bytes:
    """Compressed."""
    return bytes(cramjam.snappy.compress_raw(data))


class Coordinator:
    """A writer with targets, behind its route."""

    def __init__(self, sink: Any, config: ForwardingConfig) -> None:
        self.registry = Registry()
        scope = self.registry.scope("coordinator")
        self.forwarding = Forwarding(config, scope.tagged(handler="remote-write"))
        writer = RemoteWriter(
            Downsampler([TEN_SECONDS]),
            SeriesCache(4096, 8 << 20),
            sink,
            scope.tagged(handler="remote-write"),
            forwarding=self.forwarding,
        )
        app = Starlette(routes=[*remote_write_routes(writer), *sender_routes(writer, scope)])
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c")

    async def write(self, data: bytes = UP, **headers: str) -> int:
        """The status."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await self.client.post(WRITE, content=packed(data), headers=sent)).status_code

    def count(self, name: str, **tags: str) -> float:
        """A counter of remote writes."""
        return self.registry.counter(f"coordinator_{name}", handler="remote-write", **tags)

    async def settled(self, number: int) -> None:
        """So many forwards have ended, one way or the other."""
        names = ("forward_success", "forward_errors", "forward_dropped")
        await until(lambda: sum(map(self.count, names)) == number, 10.0)


@pytest.fixture
def forwards(sink: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a coordinator with targets at these URLs."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)

    @asynccontextmanager
    async def make(
        *urls: str,
        retry: RetryConfig | None = SOON,
        timeout_s: float = 5.0,
        most: int = 0,
        end_s: float = 0.0,
        **keys: Any,
    ) -> AsyncIterator[Coordinator]:
        config = ForwardingConfig(
            targets=[ForwardTargetConfig(url=SecretText(url), **keys) for url in urls],
            retry=retry,
            timeout=Duration(int(timeout_s * 1e9)),
            max_concurrency=most,
        )
        coordinator = Coordinator(sink, config)
        try:
            yield coordinator
        finally:
            await coordinator.forwarding.close(end_s)
            await coordinator.client.aclose()

    return make


async def test_a_request_goes_on_as_it_came(forwards: Callable[..., Any], sink: Any) -> None:
    data = proto(1.0, 2.0, __name__="up")
    async with Receiver() as target, forwards(f"{target.url}/w?x=y") as coordinator:
        assert await coordinator.write(data) == 200
        await coordinator.settled(1)
    (received,) = target.requests
    assert (received.method, received.path, received.proto) == ("POST", "/w?x=y", data)
    assert received.header("content-encoding") == "snappy"
    assert received.header("content-type") == "application/x-protobuf"
    assert coordinator.count("forward_success") == 1
    assert [coordinator.count(f"forwarding_retry_{name}") for name in ("calls", "attempts", "success")] == [1, 1, 1]
    assert b'coordinator_forward_latency_count{handler="remote-write"} 2.0' in coordinator.registry.render()
    assert b'coordinator_forward_latency_bucket{handler="remote-write",le="60"} 2.0' in coordinator.registry.render()
    assert len(sink.metrics) == 2


@pytest.mark.parametrize("shadow", [None, ShadowConfig(percent=1.0)], ids=["all", "shadow"])
@pytest.mark.parametrize("version", ["2.0", "zstd"])
async def test_other_forms_go_on_as_version_1(forwards: Callable[..., Any], version: str, shadow: Any) -> None:
    labels = [{"name": b"__name__", "value": b"up"}]
    series = [{"labels": labels, "samples": [{"value": 1.0, "timestamp": time.time_ns() // 1_000_000}], "type": 1}]
    data = marshal(WRITE_REQUEST, {"timeseries": series})
    headers = {"Content-Encoding": "zstd"}
    body = bytes(cramjam.zstd.compress(data))
    if version == "2.0":
        headers = {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}
        body = packed(request_2(series))
    async with Receiver() as target, forwards(target.url, shadow=shadow) as coordinator:
        assert (await coordinator.client.post(WRITE, content=body, headers=headers)).status_code == 200
        await coordinator.settled(1)
    (received,) = target.requests
    assert received.proto == data
    assert received.header("content-encoding") == "snappy"
    assert received.header("content-type") == "application/x-protobuf"


async def test_what_headers_say_goes_with_it(forwards: Callable[..., Any]) -> None:
    mapped = json.dumps({"tagMappers": [{"write": {"tag": "dc", "value": "x"}}]})
    headers = {"X-Scope-OrgID": SecretText("tenant"), "content-type": SecretText("a/b")}
    async with Receiver() as target, forwards(target.url, method="PUT", headers=headers) as coordinator:
        more = {"M3_Map_Tags_JSON": mapped, "m3_other": "1", "Prometheus_Metric_Type": "counter", "X_Mine": "no"}
        assert await coordinator.write(**more) == 200
        await coordinator.settled(1)
    (received,) = target.requests
    assert received.method == "PUT"
    names = ("m3-map-tags-json", "m3-other", "prometheus-metric-type", "x-mine", "x-scope-orgid", "content-type")
    assert [received.header(name) for name in names] == [mapped, "1", "counter", None, "tenant", "a/b"]
    assert received.proto == UP


async def test_what_is_not_understood_is_not_forwarded(forwards: Callable[..., Any]) -> None:
    long = proto(1.0, __name__="a" * 65536)
    broken = marshal(WRITE_REQUEST, {"timeseries": [{"labels": [{"name": b"a", "value": b"b"}]}]})[:-1]
    bad = proto(1.0, empty="")
    async with Receiver() as target, forwards(target.url) as coordinator:
        assert await coordinator.write(long) == 400
        assert await coordinator.write(broken) == 400
        assert await coordinator.write(M3_Metrics_Type="odd") == 400
        # These are understood: one whose only series cannot be accepted, and one without any.
        assert await coordinator.write(bad) == 400
        assert await coordinator.write(b"") == 200
        await coordinator.settled(2)
    assert sorted(one.proto for one in target.requests) == [b"", bad]


async def test_other_protocols_are_not_forwarded(forwards: Callable[..., Any]) -> None:
    async with Receiver() as target, forwards(target.url) as coordinator:
        answer = await coordinator.client.post("/api/v1/influxdb/write", content=f"a,b=c d=1 {time.time_ns()}")
        assert answer.status_code == 204
        assert await coordinator.write() == 200
        await coordinator.settled(1)
    assert len(target.requests) == 1


async def test_a_slow_target_holds_up_neither_the_answer_nor_the_others(forwards: Callable[..., Any]) -> None:
    async with Receiver(lambda _: Reply(delay_s=SLOW_S)) as slow, Receiver() as quick:
        async with forwards(slow.url, quick.url, most=2) as coordinator:
            began = time.monotonic()
            for number in range(1, 5):
                assert await coordinator.write() == 200
                await until(lambda number=number: coordinator.count("forward_success") == number, 10.0)
            assert (len(quick.requests), len(slow.requests)) == (4, 2)
            assert time.monotonic() - began < SLOW_S / 2
            assert coordinator.count("forward_dropped") == 2
            (problem,) = coordinator.forwarding.problems()
            assert slow.url in problem
        assert coordinator.count("forward_dropped") == 4


async def test_bytes_that_are_held_are_bounded(forwards: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "_MAX_BYTES", 2 * len(packed(UP)))
    async with Receiver(lambda _: Reply(delay_s=0.2)) as target, forwards(target.url) as coordinator:
        for _ in range(3):
            assert await coordinator.write() == 200
        assert coordinator.count("forward_dropped") == 1
        await coordinator.settled(3)
        assert await coordinator.write() == 200
        await coordinator.settled(4)
        assert coordinator.count("forward_success") == 3


async def test_other_shares_bound_what_is_held_from_then_on(
    forwards: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "_MAX_BYTES", 3 * len(packed(UP)))
    async with Receiver(lambda _: Reply(delay_s=0.2)) as target, forwards(target.url) as coordinator:
        coordinator.forwarding.share(3)
        for dropped in (0, 1):
            assert await coordinator.write() == 200
            assert coordinator.count("forward_dropped") == dropped
        coordinator.forwarding.share(1)
        for dropped in (1, 1, 2):
            assert await coordinator.write() == 200
            assert coordinator.count("forward_dropped") == dropped
        await coordinator.settled(5)
        assert coordinator.count("forward_success") == 3


async def test_a_request_larger_than_the_bound_goes_alone(
    forwards: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "_MAX_BYTES", 1)
    async with Receiver() as target, forwards(target.url) as coordinator:
        assert await coordinator.write() == 200
        await coordinator.settled(1)
        assert coordinator.count("forward_success") == 1


@pytest.mark.parametrize(
    ("status", "requests", "errors"),
    [(500, 2, 0), (503, 2, 0), (429, 2, 0), (404, 2, 0), (401, 2, 0), (400, 1, 1), (422, 1, 1), (413, 1, 1)],
)
async def test_refusals(forwards: Callable[..., Any], status: int, requests: int, errors: int) -> None:
    """What trying again cannot cure is not tried again."""
    async with Receiver(lambda _: Reply(status, "because")) as target, forwards(target.url) as coordinator:
        assert await coordinator.write() == 200
        await coordinator.settled(1)
        assert coordinator.count("forward_errors") == 1
        assert len(target.requests) == requests
        assert coordinator.count("forwarding_retry_errors", type="not-retryable") == errors
        assert coordinator.count("forwarding_retry_errors_final") == 1 - errors
        (problem,) = coordinator.forwarding.problems()
        assert target.url in problem
        assert f"status {status}: because" in problem


async def test_a_target_that_comes_back_gets_what_is_tried_again(forwards: Callable[..., Any]) -> None:
    seen: list[Received] = []

    def answer(received: Received) -> Reply:
        seen.append(received)
        return Reply(500 if len(seen) < 4 else 200)

    forever = RetryConfig(initial_backoff=Duration(1_000_000), forever=True)
    async with Receiver(answer) as target, forwards(target.url, retry=forever) as coordinator:
        assert await coordinator.write() == 200
        await coordinator.settled(1)
        assert [one.proto for one in seen] == [UP] * 4
        assert coordinator.count("forward_success") == 1
        assert coordinator.count("forwarding_retry_retries") == 3
        assert coordinator.forwarding.problems() == []


async def test_a_problem_is_named_until_a_while_without_losses(
    forwards: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Receiver(lambda _: Reply(400)) as target, forwards(target.url) as coordinator:
        assert coordinator.forwarding.problems() == []
        assert await coordinator.write() == 200
        await coordinator.settled(1)
        target.answer = lambda _: Reply()
        assert await coordinator.write() == 200
        await coordinator.settled(2)
        assert len(coordinator.forwarding.problems()) == 1
        monkeypatch.setattr(forwarding, "_TROUBLED_S", 0.0)
        assert coordinator.forwarding.problems() == []


async def test_without_retries_there_is_one_attempt(forwards: Callable[..., Any]) -> None:
    async with Receiver(lambda _: Reply(500)) as target, forwards(target.url, no_retry=True) as coordinator:
        assert await coordinator.write() == 200
        await coordinator.settled(1)
        assert len(target.requests) == 1
        assert coordinator.count("forwarding_retry_attempts") == 0


async def test_redirects(forwards: Callable[..., Any]) -> None:
    def answer(received: Received) -> Reply:
        if received.path == "/keeps":
            return Reply(307, headers={"Location": "/there"})
        return Reply(302, headers={"Location": "/there"}) if received.path == "/loses" else Reply()

    async with Receiver(answer) as target:
        urls = (f"{target.url}/keeps", f"{target.url}/loses")
        async with forwards(*urls, no_retry=True) as coordinator:
            assert await coordinator.write() == 200
            await coordinator.settled(2)
            assert (coordinator.count("forward_success"), coordinator.count("forward_errors")) == (1, 1)
            (problem,) = coordinator.forwarding.problems()
            assert "in a way that loses the data; set url to it" in problem
    assert [one.proto for one in target.requests if one.path == "/there"] == [UP]


async def test_time_out_and_nobody_there_are_named_without_credentials(
    forwards: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    configure("info")
    async with Receiver(lambda _: Reply(delay_s=SLOW_S)) as slow:
        urls = (f"http://user:geheim@{slow.host}/w?token=geheim", "http://user:geheim@127.0.0.1:1/w")
        headers = {"X-Key": SecretText("verborgen")}
        async with forwards(*urls, timeout_s=0.2, no_retry=True, headers=headers) as coordinator:
            assert await coordinator.write() == 200
            await coordinator.settled(2)
            problems = coordinator.forwarding.problems()
    assert slow.host in problems[0]
    assert "no answer in time (timeout 0.2s" in problems[0]
    assert "127.0.0.1:1" in problems[1]
    assert "cannot connect" in problems[1]
    said = capsys.readouterr().err
    assert "a remote write was not forwarded to http://127.0.0.1:1/w" in said
    for secret in ("geheim", "verborgen"):
        assert secret not in said + "".join(problems)


async def test_what_comes_again_is_not_forwarded_twice(forwards: Callable[..., Any], sink: Any) -> None:
    failing = True

    def answer(_: Received) -> Reply:
        return Reply(400 if failing else 200)

    sink.refusal = "away"
    async with Receiver() as takes, Receiver(answer) as refuses, forwards(takes.url, refuses.url) as coordinator:
        assert await coordinator.write() == 503
        await coordinator.settled(2)
        failing = False
        assert await coordinator.write() == 503
        await coordinator.settled(3)
        sink.refusal = None
        assert await coordinator.write() == 200
        # Accepted: the same bytes are another request now.
        assert await coordinator.write() == 200
        await coordinator.settled(5)
        assert list(coordinator.forwarding._remembered) == []
    assert (len(takes.requests), len(refuses.requests)) == (2, 3)


async def test_what_keeps_coming_is_remembered_longest(
    forwards: Callable[..., Any], sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "_MOST", 2)
    sink.refusal = "away"
    async with Receiver() as target, forwards(target.url) as coordinator:
        for number in range(4):
            assert await coordinator.write() == 503
            assert await coordinator.write(proto(float(number), __name__="up")) == 503
        await coordinator.settled(5)
    assert [one.proto for one in target.requests].count(UP) == 1


async def test_what_is_remembered_is_bounded_and_holds_no_bodies(
    forwards: Callable[..., Any], sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "_MOST", 2)
    sink.refusal = "away"
    async with Receiver() as target, forwards(target.url) as coordinator:
        for number in range(4):
            assert await coordinator.write(proto(float(number), __name__="up")) == 503
        remembered = list(coordinator.forwarding._remembered)
        assert len(remembered) == 2
        assert [forward.body for forward in remembered] == [b"", b""]


async def test_a_shadow_target_gets_its_series_only(forwards: Callable[..., Any]) -> None:
    everything, nothing = ShadowConfig(percent=1.0), ShadowConfig(percent=0.0)
    async with Receiver() as target:
        async with forwards(target.url, shadow=everything) as coordinator:
            assert await coordinator.write(Prometheus_Metric_Type="counter") == 200
            await coordinator.settled(1)
            assert coordinator.count("forward_shadow_keep") == 1
        (received,) = target.requests
        assert [labels for labels, _ in received.series] == [[(b"__name__", b"up")]]
        async with forwards(target.url, shadow=nothing) as coordinator:
            assert await coordinator.write() == 200
            await coordinator.settled(1)
            assert (coordinator.count("forward_shadow_keep"), coordinator.count("forward_shadow_drop")) == (0, 1)
        assert len(target.requests) == 1


async def test_a_circle_ends(forwards: Callable[..., Any]) -> None:
    async with Receiver() as target, forwards(target.url) as coordinator:
        assert await coordinator.write() == 200
        await until(lambda: target.requests, 10.0)
        through = target.requests[0].header(FORWARDED_BY)
        assert through
        assert await coordinator.write(M3_Forwarded_By="elsewhere") == 200
        await until(lambda: len(target.requests) == 2, 10.0)
        assert target.requests[1].header(FORWARDED_BY) == f"elsewhere, {through}"
        assert await coordinator.write(M3_Forwarded_By=f"{through}, elsewhere") == 200
        assert await coordinator.write(M3_Forwarded_By=", ".join("abcdefgh")) == 200
        await coordinator.settled(4)
        assert coordinator.count("forward_dropped") == 2
    assert len(target.requests) == 2


async def test_the_end_waits_a_while_and_tries_again_at_once(forwards: Callable[..., Any]) -> None:
    later = RetryConfig(initial_backoff=Duration(60_000_000_000))
    async with Receiver(lambda _: Reply(delay_s=0.2)) as slow, Receiver(lambda _: Reply(503)) as away:
        async with forwards(slow.url, away.url, retry=later, end_s=10.0) as coordinator:
            assert await coordinator.write() == 200
            await until(lambda: away.requests and slow.requests, 10.0)
            away.answer = lambda _: Reply()
        assert coordinator.count("forward_success") == 2
    assert len(away.requests) == 2


async def test_what_is_left_at_the_end_is_given_up(forwards: Callable[..., Any]) -> None:
    async with Receiver(lambda _: Reply(delay_s=SLOW_S)) as target:
        async with forwards(target.url, end_s=0.05) as coordinator:
            assert await coordinator.write() == 200
            await until(lambda: target.requests, 10.0)
        assert coordinator.count("forward_dropped") == 1
        assert len(asyncio.all_tasks()) <= 3
