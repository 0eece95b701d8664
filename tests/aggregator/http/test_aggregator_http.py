"""Bodies and statuses of port 6001."""

import json

import httpx
import numpy as np
import pytest

from aggregator.http import ListRow, Load, Readiness, ShardRow, create_app
from m3metrics.growth import GrowthReport, LabelGrowth, NameGrowth
from m3metrics.traffic import NameRate, Refusals, TrafficReport
from m3x.instrument import Registry
from m3x.pages import Chart, Edge, Holder, Lane, Line, Stage, Stretch


class Source:
    """An instance whose answers a test sets."""

    instance_id = "m3aggregator01:6000 <x>"

    def __init__(self) -> None:
        self.state = "leader"
        self.ready = Readiness(True, [], ["serving; marked AVAILABLE at the next placement change"])
        self.resign_error: Exception | None = None
        self.resigned = 0
        self.problems: list[str] = []
        self.rate = 12.0

    def election_state(self) -> str:
        return self.state

    def set_up_problems(self) -> list[str]:
        return self.problems

    def can_lead(self) -> bool:
        return True

    async def resign(self) -> None:
        self.resigned += 1
        if self.resign_error is not None:
            raise self.resign_error

    def readiness(self) -> Readiness:
        return self.ready

    def shards(self) -> list[ShardRow]:
        return [ShardRow(3, 1, False, "INITIALIZING", 60, 7, 2, 0, 0, 0)]

    def lists(self) -> list[ListRow]:
        return [ListRow("timed 10s", 10_000_000_000, 2, 1_767_355_190_000_000_000, 1_767_355_200_000_000_000)]

    def flow(self) -> list[Lane]:
        return [Lane("Samples", [Stage("producers"), Edge(self.rate), Stage("front <1>")])]

    def holders(self) -> list[Holder]:
        return [Holder("one <i>", "leader", "", [Stretch(0, 3, "initializing", "cut over in 42 s")])]

    def charts(self) -> list[Chart]:
        return [Chart("Messages a second", [Line("received", np.arange(720.0))], 5.0)]

    def growth(self) -> GrowthReport:
        return GrowthReport(5, [NameGrowth("up", 4, 2)], [LabelGrowth("pod", 4, 3, 2)])

    def traffic(self) -> TrafficReport:
        most = [NameRate("up <i>", 1234.5), NameRate("shop.orders.*", 3)]
        return TrafficReport(90_000, 900, most, most[:1], [NameRate("latency", 8192)], [Refusals("up <i>", "frame", 2)])

    def loads(self) -> list[Load]:
        return [Load("front", -1, 0.25, 0, 0), Load("worker 1", 1, 0.97, 4096, 2048)]

    def facts(self) -> list[tuple[str, str]]:
        return [("placement version", "3")]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
async def client(source: Source):
    registry = Registry()
    registry.scope("x").count("things")
    app = create_app(source, registry, "/metrics")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://instance") as made:
        yield made


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/health", 200, b'{"state":"OK"}\n'),
        ("GET", "/status", 200, b'{"status":{"flushStatus":{"electionState":"leader","canLead":true}}}\n'),
        ("POST", "/resign", 200, b'{"state":"OK"}\n'),
        ("POST", "/health", 400, b"null\n"),
        ("PUT", "/status", 400, b"null\n"),
        ("GET", "/resign", 400, b"null\n"),
    ],
)
async def test_m3s_own_paths_answer_to_the_byte(client, method: str, path: str, status: int, body: bytes) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers["content-type"] == "application/json"


async def test_a_resignation_that_fails_is_a_500_with_null(client, source: Source) -> None:
    source.resign_error = TimeoutError()
    answer = await client.post("/resign")
    assert (answer.status_code, answer.content) == (500, b"null\n")
    assert source.resigned == 1


async def test_ready_says_why_not(client, source: Source) -> None:
    assert (await client.get("/ready")).status_code == 200
    source.ready = Readiness(False, ["no placement yet"], [])
    answer = await client.get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "reasons": ["no placement yet"], "notes": []}


async def test_shards_and_lists(client) -> None:
    body = (await client.get("/shards")).json()
    assert body["instanceId"] == "m3aggregator01:6000 <x>"
    assert body["shards"][0]["shard"] == 3
    assert body["shards"][0]["openWindows"] == 2
    assert body["shards"][0]["workerUp"] is False
    assert body["lists"][0]["name"] == "timed 10s"
    json.dumps(body)


async def test_the_page_shows_the_same_and_escapes_names(client, source: Source) -> None:
    source.ready = Readiness(False, ["<no placement>"], [])
    answer = await client.get("/")
    text = answer.text
    assert "<title>m3aggregator01:6000 &lt;x&gt;: leader, not ready – m3aggregator</title>" in text
    assert "&lt;no placement&gt;" in text
    assert "1 down" in text
    assert "front &lt;1&gt;" in text
    assert "one &lt;i&gt;" in text
    assert "shards 0–3 initializing, cut over in 42 s" in text
    assert "<td>12:00:00</td>" in text
    assert "http://" not in text
    assert "https://" not in text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_what_sends_most_and_who_is_busy(client) -> None:
    text = (await client.get("/")).text
    assert "Estimated from 900 of 90.0 k messages since the start, one of 100" in text
    assert "<td class=text>up &lt;i&gt;</td><td>1,234</td>" in text
    assert "<td>8.0 KiB</td>" in text
    assert "<td class=text>up &lt;i&gt;</td><td class=text>frame</td><td>2</td>" in text
    assert "<td>25 %</td>" in text
    assert "<td><b>97 %</b></td><td>4.0 KiB</td><td>2.0 KiB</td><td>1</td>" in text
    body = (await client.get("/status/traffic")).json()
    assert body["timerBytes"] == [{"name": "latency", "perSecond": 8192}]
    assert body["refused"] == [{"name": "up <i>", "reason": "frame", "perSecond": 2}]
    loads = (await client.get("/status/load")).json()["processes"]
    assert [(one["name"], one["cpuShare"], one["waitingBytes"]) for one in loads] == [
        ("front", 0.25, 0),
        ("worker 1", 0.97, 4096),
    ]


async def test_the_page_without_shards_and_before_the_cutover(client, source: Source, monkeypatch) -> None:
    monkeypatch.setattr("aggregator.http.page.wall_ns", lambda: 18_000_000_000)
    rows = [ShardRow(3, 0, True, "INITIALIZING", 60_000_000_000, 7_000, 2, 0, 0, 0)]
    monkeypatch.setattr(source, "shards", lambda: rows)
    text = (await client.get("/")).text
    assert "INITIALIZING, cut over in 42 s" in text
    # Never flushed is no lag of 0 seconds.
    assert "<td>7,000</td><td>2</td><td>never</td><td>–</td>" in text
    monkeypatch.setattr(source, "shards", lambda: [])
    monkeypatch.setattr(source, "loads", lambda: [])
    assert "None: this instance owns no shards" in (await client.get("/")).text


async def test_metrics_on_the_same_port_when_they_have_no_other(client) -> None:
    assert b"x_things" in (await client.get("/metrics")).content


async def test_problems_stand_beside_m3s_status(client: httpx.AsyncClient, source: Source) -> None:
    assert set((await client.get("/status")).json()) == {"status"}
    source.problems = ["topic t does not exist: create it"]
    assert (await client.get("/status")).json()["problems"] == source.problems


async def test_names_that_grow(client) -> None:
    assert (await client.get("/status/growth")).json() == {
        "newSeries": 5,
        "metricNames": [{"name": "up", "series": 4, "perMinute": 2}],
        "labelNames": [{"name": "pod", "series": 4, "values": 3, "perMinute": 2}],
    }
