"""What a tenant may send: whole requests that are refused, series that are taken out of one, and tenants that come and go."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import cramjam
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.prometheus import request_2
from starlette.applications import Starlette
from tests.coordinator.write.conftest import TEN_SECONDS, RecordingSink
from tests.coordinator.write.otlp import requests as otlp
from tests.coordinator.write.test_answers import REMOTE_WRITE_2, body_2
from tests.coordinator.write.test_remote_write import PATH, TIME_MS, body, series

from coordinator import prompb
from coordinator.config import load_coordinator
from coordinator.config.write_limits import WriteLimitsConfig
from coordinator.downsample import Downsampler
from coordinator.write import Limiter, RemoteWriter, SeriesCache, kernels, limits, remote_write_routes, sender_routes
from coordinator.write.active_series import PERIOD_S, ActiveSeries
from coordinator.write.building import label_fields
from coordinator.write.limits import Limits
from m3metrics.ids import decode_tags
from m3x.config import ConfigError
from m3x.instrument import Registry


class Clock:
    """Seconds."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def client(sink: RecordingSink, registry: Registry, clock: Clock) -> AsyncIterator[Client]:
    """Makes a coordinator with limits."""
    made: list[httpx.AsyncClient] = []

    def make(config: WriteLimitsConfig, processes: int = 1) -> httpx.AsyncClient:
        scope = registry.scope("test")
        limiter = Limiter(config, scope.sub("write"), clock=clock, processes=processes)
        cache = SeriesCache(4096, 8 << 20)
        writer = RemoteWriter(Downsampler([TEN_SECONDS]), cache, sink, scope, limiter=limiter)
        app = Starlette(routes=[*remote_write_routes(writer), *sender_routes(writer, scope)])
        made.append(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test"))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


def names(sink: RecordingSink) -> list[str]:
    return [dict(decode_tags(metric.id))[b"__name__"].decode() for metric in sink.metrics]


def of(tenant: str) -> dict[str, str]:
    return {"X-Scope-OrgID": tenant}


async def test_a_body_is_refused_by_its_announced_length_and_by_its_bytes(client: Client, registry: Registry) -> None:
    one = client(WriteLimitsConfig(max_body_bytes=10))
    answer = await one.post(PATH, content=b"x" * 11)
    assert answer.status_code == 413
    assert "more than 10 bytes, the limit of tenant 'anonymous'" in answer.json()["error"]

    async def parts() -> AsyncIterator[bytes]:
        yield b"x" * 6
        yield b"x" * 6

    answer = await one.post(PATH, content=parts())
    assert answer.status_code == 413
    assert registry.counter("test_write_limited_requests", tenant="anonymous", reason="body") == 2
    assert (await one.post(PATH, content=b"x" * 10)).status_code == 400


async def test_samples_a_second(client: Client, registry: Registry, clock: Clock, sink: RecordingSink) -> None:
    one = client(WriteLimitsConfig(max_samples_per_second=10, burst_samples=20))
    ten = body(series({"__name__": "up"}, *[1.0] * 10))
    statuses = [(await one.post(PATH, content=ten, headers=of("a"))).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    answer = await one.post(PATH, content=ten, headers=of("a"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert "more than 10 samples a second" in answer.json()["error"]
    assert registry.counter("test_write_limited_samples", tenant="a", reason="rate") == 20
    assert (await one.post(PATH, content=ten, headers=of("b"))).status_code == 200
    clock.now_s += 1
    assert (await one.post(PATH, content=ten, headers=of("a"))).status_code == 200
    assert (await one.post(PATH, content=ten, headers=of("a"))).status_code == 429
    assert len(sink.metrics) == 40


async def test_a_request_larger_than_the_burst_comes_through_and_is_paid_for_later(
    client: Client, clock: Clock
) -> None:
    one = client(WriteLimitsConfig(max_samples_per_second=10, burst_samples=20))
    large = body(series({"__name__": "up"}, *[1.0] * 50))
    assert (await one.post(PATH, content=large)).status_code == 200
    answer = await one.post(PATH, content=large)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
    clock.now_s += 5
    assert (await one.post(PATH, content=large)).status_code == 200


async def test_what_has_to_come_again_costs_nothing(client: Client, sink: RecordingSink) -> None:
    one = client(WriteLimitsConfig(max_samples_per_second=1, burst_samples=1))
    up = body(series({"__name__": "up"}, 1.0))
    sink.refusal = "no topic"
    assert [(await one.post(PATH, content=up)).status_code for _ in range(3)] == [503] * 3
    sink.refusal = None
    assert [(await one.post(PATH, content=up)).status_code for _ in range(2)] == [200, 429]


async def test_series_of_a_request(client: Client, sink: RecordingSink) -> None:
    one = client(WriteLimitsConfig(max_series_per_request=1))
    answer = await one.post(PATH, content=body(series({"__name__": "a"}, 1.0), series({"__name__": "b"}, 1.0)))
    assert (answer.status_code, sink.metrics) == (413, [])
    assert "the request has 2 series, more than 1" in answer.json()["error"]


@pytest.mark.parametrize(
    ("config", "labels", "says"),
    [
        (WriteLimitsConfig(max_labels_per_series=2), {"a": "1", "b": "2"}, "more than 2 labels"),
        (WriteLimitsConfig(max_label_name_bytes=8), {"a" * 9: "1"}, "the name of a label has more than 8 bytes"),
        (WriteLimitsConfig(max_label_value_bytes=4), {"a": "x" * 5}, "the value of a label has more than 4 bytes"),
    ],
)
async def test_one_series_is_taken_out_and_the_others_go_on(
    config: WriteLimitsConfig,
    labels: dict[str, str],
    says: str,
    client: Client,
    sink: RecordingSink,
    registry: Registry,
) -> None:
    many = [
        series({"__name__": "one"}, 1.0, 2.0), series({"__name__": "bad", **labels}, 3.0, 4.0, 5.0), series({"__name__": "two"}, 6.0),
    ]  # fmt: skip
    answer = await client(config).post(PATH, content=body(*many), headers=of("t"))
    assert answer.status_code == 400
    assert f"{says}, the limit of tenant 't': bad{{" in answer.json()["error"]
    assert (names(sink), [metric.value for metric in sink.metrics]) == (["one", "one", "two"], [1.0, 2.0, 6.0])
    assert registry.counter("test_samples_not_kept", reason="limited") == 3
    (reason,) = {"labels", "label-name", "label-value"} & {
        sample.labels.get("reason") for family in registry.collect() for sample in family.samples
    }
    assert registry.counter("test_write_limited_series", tenant="t", reason=str(reason)) == 1


async def test_what_is_left_of_a_request_lasts_while_others_come(
    client: Client, sink: RecordingSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of Remote Write 2.0 are decoded into memory that the next one uses again."""
    coordinator = client(load_limits("maxLabelValueBytes: 20", tmp_path))
    waits, goes_on = asyncio.Event(), asyncio.Event()

    async def admit(_: int) -> int:
        if not waits.is_set():
            waits.set()
            await goes_on.wait()
        return 64

    monkeypatch.setattr(sink, "ready", lambda _: None)
    monkeypatch.setattr(sink, "admit", admit)

    def bodies(*many: str) -> bytes:
        return bytes(cramjam.snappy.compress_raw(request_2([series({"__name__": one}, 1.0) for one in many])))

    headers = {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}
    first = asyncio.create_task(coordinator.post(PATH, content=bodies("x" * 21, "the_first"), headers=headers))
    await waits.wait()
    assert (await coordinator.post(PATH, content=bodies("another_one", "one_more"), headers=headers)).status_code == 200
    goes_on.set()
    answer = await first
    assert (answer.status_code, answer.headers["X-Prometheus-Remote-Write-Samples-Written"]) == (400, "1")
    assert names(sink) == ["another_one", "one_more", "the_first"]


async def test_remote_write_2_says_how_much_is_written(client: Client, sink: RecordingSink) -> None:
    one = client(WriteLimitsConfig(max_labels_per_series=1, max_samples_per_second=0.001, burst_samples=1))
    both = body_2(series({"__name__": "one"}, 1.0, 2.0), series({"__name__": "bad", "a": "b"}, 3.0))
    written = []
    for status in (400, 429):
        answer = await one.post(PATH, content=both, headers=REMOTE_WRITE_2)
        assert answer.status_code == status
        written.append(answer.headers["X-Prometheus-Remote-Write-Samples-Written"])
    assert (written, names(sink)) == (["2", "0"], ["one", "one"])


async def test_active_series(client: Client, sink: RecordingSink, clock: Clock) -> None:
    one = client(WriteLimitsConfig(max_active_series=3))

    async def send(*some: str) -> int:
        return (await one.post(PATH, content=body(*(series({"__name__": name}, 1.0) for name in some)))).status_code

    assert await send("a", "b") == 200
    assert await send("b", "c", "d") == 400
    assert names(sink) == ["a", "b", "b", "c"]
    assert await send("a", "b", "c") == 200
    clock.now_s += PERIOD_S
    assert await send("a", "b") == 200
    assert await send("d") == 400
    clock.now_s += PERIOD_S
    assert await send("d") == 200


async def test_tenants_have_limits_of_their_own(client: Client, tmp_path: Path) -> None:
    config = load_limits(
        "maxSamplesPerSecond: 1, burstSamples: 1, tenants: {large: {maxSamplesPerSecond: 0}}", tmp_path
    )
    one = client(config)
    up = body(series({"__name__": "up"}, 1.0))
    assert [(await one.post(PATH, content=up, headers=of("large"))).status_code for _ in range(3)] == [200] * 3
    assert [(await one.post(PATH, content=up, headers=of("small"))).status_code for _ in range(2)] == [200, 429]


async def test_other_protocols(client: Client, sink: RecordingSink, tmp_path: Path) -> None:
    slow = "{maxSamplesPerSecond: 0.001, burstSamples: 1}"
    one = client(load_limits(f"tenantHeader: Who, maxLabelsPerSeries: 2, tenants: {{slow: {slow}}}", tmp_path))
    lines = f"cpu,a=1,b=2 usage=1 {TIME_MS}\ncpu,a=1 usage=2 {TIME_MS}\n".encode()
    answer = await one.post("/api/v1/influxdb/write?precision=ms", content=lines)
    assert (answer.status_code, names(sink)) == (400, ["cpu_usage"])
    for status in (204, 429):
        answer = await one.post("/api/v1/influxdb/write", content=b"cpu usage=1\n", headers={"Who": "slow"})
        assert answer.status_code == status
    assert answer.headers["retry-after"] == "1000"
    answer = await one.post("/api/v1/otlp/v1/metrics", content=_otlp(), headers={"Who": "slow", **_PROTOBUF})
    assert (answer.status_code, answer.headers["content-type"]) == (429, "application/x-protobuf")
    answer = await one.post("/api/v1/otlp/v1/metrics", content=_otlp(3), headers=_PROTOBUF)
    assert (answer.status_code, b"more than 2 labels" in answer.content) == (200, True)


async def test_more_tenants_than_are_known_share_an_account(
    client: Client, clock: Clock, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_TENANTS", 2)
    one = client(WriteLimitsConfig(max_samples_per_second=0.001, burst_samples=1))
    up = body(series({"__name__": "up"}, 1.0))

    async def send(*tenants: str) -> list[int]:
        return [(await one.post(PATH, content=up, headers=of(tenant))).status_code for tenant in tenants]

    assert await send("a", "b", "c", "d", "a") == [200, 200, 200, 429, 429]
    assert registry.counter("test_write_limited_requests", tenant="other", reason="rate") == 1
    clock.now_s += limits.IDLE_S + 1
    # They are forgotten; counters keep to the names that they have had.
    assert await send("e", "e", "d") == [200, 429, 200]
    tags = {
        sample.labels["tenant"]
        for family in registry.collect()
        for sample in family.samples
        if "tenant" in sample.labels
    }
    assert tags == {"a", "other"}


def test_a_process_has_its_share_of_the_rate() -> None:
    whole = Limits(active_series=10, samples_per_second=100.0, burst=1001)
    assert whole.shared(1) == whole
    assert whole.shared(4) == Limits(active_series=10, samples_per_second=25.0, burst=251)


async def test_shares_of_processes(client: Client) -> None:
    one = client(WriteLimitsConfig(max_samples_per_second=2, burst_samples=4), processes=2)
    up = body(series({"__name__": "up"}, 1.0))
    assert [(await one.post(PATH, content=up)).status_code for _ in range(3)] == [200, 200, 429]


def test_the_share_of_a_rate_grows_and_falls_with_the_number_of_processes(registry: Registry, clock: Clock) -> None:
    config = WriteLimitsConfig(max_samples_per_second=4, burst_samples=8)
    limiter = Limiter(config, registry.scope("test"), clock=clock)
    account = limiter.visit({})._account
    assert account.charge(1, clock()) == 0
    limiter.share(4)
    assert account.limits.samples_per_second == 1
    assert [account.charge(1, clock()) for _ in range(3)] == [0, 0, 1], "all at once is the share of the burst"
    clock.now_s += 1
    assert [account.charge(1, clock()) for _ in range(2)] == [0, 1]
    limiter.share(1)
    clock.now_s += 1
    assert [account.charge(1, clock()) for _ in range(5)] == [0, 0, 0, 0, 1]
    assert limiter.visit({"X-Scope-OrgID": "new"})._account.limits.burst == 8


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tenantHeader: 'a b'", "tenantHeader 'a b' is no name of a header"),
        ("maxSamplesPerSecond: -1", "must be a number that is not negative, found -1"),
        ("tenants: {a: {maxSamplesPerSecond: -1}}", "must be a number that is not negative, found -1"),
        ("maxSeriesPerRequest: -1", "maxSeriesPerRequest"),
    ],
)
def test_what_no_limit_is(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        load_limits(text, tmp_path)


@given(st.lists(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=200)), max_size=6), max_size=5), st.data())
def test_the_kernel_says_what_the_plain_reader_says(
    series_of: list[list[tuple[bytes, bytes]]], data: st.DataObject
) -> None:
    most, name, value = (data.draw(st.integers(0, limit)) for limit in (5, 9, 200))
    keys = [label_fields(labels) for labels in series_of]
    rows = np.zeros(len(keys), kernels.SERIES_ROW)
    rows["labels_size"] = [len(key) for key in keys]
    rows["labels_at"] = np.cumsum(rows["labels_size"]) - rows["labels_size"]
    found = np.zeros(len(keys), np.uint8)
    count = kernels.beyond(np.frombuffer(bytearray(b"".join(keys)), np.uint8), rows, most, name, value, found)
    expected = [_wrong(prompb.labels_of(key), most, name, value) for key in keys]
    assert (found.tolist(), count) == (expected, sum(map(bool, expected)))


def _wrong(labels: list[tuple[bytes, bytes]], most: int, longest_name: int, longest_value: int) -> int:
    for n, (name, value) in enumerate(labels, 1):
        if n > most:
            return kernels.MANY_LABELS
        if len(name) > longest_name:
            return kernels.LONG_NAME
        if len(value) > longest_value:
            return kernels.LONG_VALUE
    return 0


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 40), max_size=30), st.sampled_from([0, 1, PERIOD_S, 3 * PERIOD_S])),
        max_size=20,
    )
)
def test_active_series_against_a_plain_count(visits: list[tuple[list[int], float]]) -> None:
    active, now_s, until_s = ActiveSeries(10, 0.0), 0.0, PERIOD_S
    known: dict[int, bool] = {}
    for keys, wait_s in visits:
        now_s += wait_s
        if now_s >= until_s:
            known = {key: False for key, seen in known.items() if seen and now_s < until_s + PERIOD_S}
            until_s = now_s + PERIOD_S
        expected = []
        for key in keys:
            expected.append(key in known or len(known) < 10)
            if expected[-1]:
                known[key] = True
        rows = np.zeros(len(keys), kernels.SERIES_ROW)
        rows["labels_at"], rows["labels_size"] = np.arange(len(keys)) * 4, 4
        admitted = active.admit(
            np.frombuffer(bytearray(b"".join(b"%04d" % key for key in keys)), np.uint8), rows, now_s
        )
        assert (admitted is None, active.count) == (all(expected), len(known))
        assert admitted is None or admitted.tolist() == expected


_PROTOBUF = {"Content-Type": "application/x-protobuf"}


def _otlp(labels: int = 0) -> bytes:
    at = {f"l{n}": "x" for n in range(labels)}
    message = otlp.request({"name": "load", "gauge": {"data_points": [otlp.point(1.5, at)]}})
    return bytes(message.SerializeToString())


def load_limits(text: str, folder: Path) -> WriteLimitsConfig:
    path = folder / "c.yml"
    path.write_text(f"writeLimits: {{{text}}}\n")
    found = load_coordinator([path]).value.write_limits
    assert found is not None
    return found
