"""Aggregation inside the coordinator: one file, one process to start; nothing that was answered is lost, whatever is killed."""

import itertools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from lab.http import get, request
from lab.processes import children, family
from lab.prometheus import EQUAL, remote_read
from lab.waiting import wait_until
from tests.integration.inside import Inside, serving
from tests.integration.test_prometheus import WRITER, prometheus

from m3ctl.bench.remote_write import Labels, write_request

SENDERS = 2
WINDOW_S = 2
CONFIG = """
listenAddress: 127.0.0.1:{http}
metrics: {{prometheus: {{listenAddress: "127.0.0.1:{metrics}"}}}}
clusters:
  - namespaces:
      - {{namespace: raw, type: unaggregated, retention: 48h}}
      - {{namespace: two, type: aggregated, resolution: 2s, retention: 48h}}
      - {{namespace: four, type: aggregated, resolution: 4s, retention: 96h, downsample: {{all: false}}}}
carbon:
  limitsFind: {{perQuery: {{maxFetchedDocs: 100, requireExhaustive: false}}}}
  findResultsIncludeBothExpandableAndLeaf: true
  ingester:
    listenAddress: 127.0.0.1:{carbon}
    rewrite: {{cleanup: true}}
    rules:
      - {{pattern: .*min.aggregate.*, aggregation: {{type: min}}, policies: [{{resolution: 2s, retention: 48h}}]}}
      - {{pattern: .*already-aggregated.*, aggregation: {{enabled: false}}, policies: [{{resolution: 2s, retention: 48h}}]}}
      - {{pattern: .*, policies: [{{resolution: 2s, retention: 48h}}]}}
downsample:
  bufferPastLimits: [{{resolution: 0s, bufferPast: 4s}}]
  rules:
    mappingRules:
      - {{name: sum, filter: "__name__:summed", aggregations: [Sum], storagePolicies: [{{resolution: 2s, retention: 48h}}]}}
      - {{name: nginx, filter: "app:nginx*", aggregations: [Last], storagePolicies: [{{resolution: 2s, retention: 48h}}]}}
      - {{name: mysql, filter: "app:mysql*", aggregations: [Last], storagePolicies: [{{resolution: 4s, retention: 96h}}]}}
    rollupRules:
      - name: by code
        filter: __name__:requests_total
        transforms:
          - transform: {{type: Increase}}
          - rollup: {{metricName: requests_by_code, groupBy: [code], aggregations: [Sum]}}
        storagePolicies: [{{resolution: 2s, retention: 48h}}]
embeddedAggregator: {{workers: 2}}
"""


class Coordinator(Inside):
    """The one process, and what it is asked."""

    def text(self) -> str:
        return CONFIG.format(http=self.http, metrics=self.metrics, carbon=self.carbon)

    def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        return request("POST", f"{self.base}/api/v1/prom/remote/write", body, headers, timeout_s=60)[0]

    def send_lines(self, *lines: tuple[str, float, int]) -> None:
        """Paths with values and times."""
        with socket.create_connection(("127.0.0.1", self.carbon)) as connection:
            connection.sendall("".join(f"{path} {value} {at_s}\n" for path, value, at_s in lines).encode())

    def rendered(self, target: str) -> dict[str, list[float]]:
        """The values of each path."""
        query = urlencode({"target": target, "from": "-5min", "until": "now"})
        answer = json.loads(get(f"{self.base}/api/v1/graphite/render?{query}")[1])
        return {one["target"]: [value for value, _ in one["datapoints"] if value is not None] for one in answer}

    def found(self, query: str) -> list[tuple[str, bool]]:
        """The nodes of a glob, sorted, and whether each is a leaf."""
        answer = json.loads(get(f"{self.base}/api/v1/graphite/metrics/find?{urlencode({'query': query})}")[1])
        return sorted((one["id"], bool(one["leaf"])) for one in answer)

    def queried(self, expression: str, **headers: str) -> list[dict[str, Any]]:
        """An instant query."""
        url = f"{self.base}/api/v1/query?{urlencode({'query': expression})}"
        status, body = request("GET", url, headers={name.replace("_", "-"): text for name, text in headers.items()})
        assert status == 200, body
        return list(json.loads(body)["data"]["result"])

    def roles(self) -> dict[str, int]:
        """Pids of its aggregator's processes."""
        (supervisor,) = [pid for pid, command in children(self.process.pid).items() if "aggregator" in command]
        found = {"supervisor": supervisor}
        for pid, command in children(supervisor).items():
            module = next((part for part in command if part in ("aggregator.front", "aggregator.worker")), "zygote")
            found.setdefault(module.removeprefix("aggregator."), pid)
        return found

    def stored(self, name: str) -> dict[tuple[str, str], dict[int, float]]:
        """Values by time (Unix ms), by the label beside the name."""
        now_ms = time.time_ns() // 1_000_000
        aggregated = {"M3-Metrics-Type": "aggregated"}
        points = remote_read(self.base, [("__name__", EQUAL, name)], now_ms - 3_600_000, now_ms + 60_000, aggregated)
        return {
            next(one for one in labels if one[0] not in ("__name__", "__rollup__")): dict(values)
            for labels, values in points.items()
        }


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with serving(Coordinator(tmp_path_factory.mktemp("inside"))) as made:
        yield made


def sample(name: str, key: str, value: str, number: float, at_ms: int | None = None) -> bytes:
    """A remote write of one sample, now."""
    return write_request([((("__name__", name), (key, value)), number, at_ms or time.time_ns() // 1_000_000)])


def test_it_is_one_service(coordinator: Coordinator) -> None:
    status, text = get(f"{coordinator.base}/ready")
    assert status == 200
    assert "only of what it is sent" in json.loads(text)["notes"][0]
    status, page = get(f"{coordinator.base}/aggregator/")
    assert status == 200
    assert "leader" in page
    assert json.loads(get(f"{coordinator.base}/aggregator/shards")[1])["instanceId"] == "embedded"
    figures = get(f"http://127.0.0.1:{coordinator.metrics}/metrics")[1]
    assert "coordinator_downsampler_aggregator_election_manager_election_state" in figures
    assert "coordinator_producer_" in figures


def window_begins(every_s: int = WINDOW_S) -> int:
    """Waits for the next window; its first second."""
    begin_s = (int(time.time()) // every_s + 1) * every_s
    wait_until("a window begins", lambda: time.time() >= begin_s)
    return begin_s


def test_rollup_rules_of_the_file(coordinator: Coordinator) -> None:
    """The increase of two hosts, summed by code."""
    begin_s = window_begins()
    samples = [
        (
            (("__name__", "requests_total"), ("code", "200"), ("host", host)),
            number,
            (begin_s + k * WINDOW_S) * 1000 + 100,
        )
        for host, first in (("a", 100.0), ("b", 1000.0))
        for k, number in enumerate((first, first + 7))
    ]
    wait_until("both windows are there", lambda: time.time() >= begin_s + WINDOW_S + 0.2)
    assert coordinator.post(write_request(samples)) == 200
    expected = {(begin_s + WINDOW_S) * 1000: 1100.0, (begin_s + 2 * WINDOW_S) * 1000: 14.0}
    wait_until("the rollup", lambda: coordinator.stored("requests_by_code").get(("code", "200")) == expected)


def test_mapping_rules_of_the_file(coordinator: Coordinator) -> None:
    """The later of two samples, at the resolution of the rule."""
    begin_s = window_begins(4)
    for app, values in (("nginx_edge", (42.42, 84.84)), ("mysql_db", (45.42, 87.84))):
        samples = [((("__name__", "foo"), ("app", app)), v, (begin_s + k) * 1000) for k, v in enumerate(values)]
        assert coordinator.post(write_request(samples)) == 200
    wait_until("both are there", lambda: len(coordinator.stored("foo")) == 2)
    found = coordinator.stored("foo")
    assert found["app", "nginx_edge"] == {(begin_s + 2) * 1000: 84.84}
    # The namespace that takes all metrics has it as well; of both, the value of the end of the window is the same.
    assert set(found["app", "mysql_db"].values()) == {87.84}


CARBON = {
    "foo.min.aggregate.baz": ((41, 42), 41),
    "foo.min.already-aggregated.baz": ((42, 43), 43),
    "foo.min.catch-all.baz": ((10, 20), 15),
    "foo.bar:baz.qux": ((42,), 42),
    "quail": ((42,), 42),
    "d..bar.baz": ((7,), 7),
}


FOUND = [
    "a",
    "a.bar",
    "a.biz",
    "a.biz.cake",
    "a.bar.caw.daz",
    "a.bag",
    "c:bar.c:baz",
    "h.bar@@baz",
    "..f.bar.baz",
    "g.bar.baz..",
]
GLOBBED = [f"qux.pos1-{letter}.pos2-{number}" for letter in "abc" for number in "01"]
MANY = [f"find.limits.series_{i}" for i in range(200)]


@pytest.fixture(scope="module")
def lines(coordinator: Coordinator) -> None:
    """All lines of the tests below are sent, with one second."""
    at_s = window_begins()
    coordinator.send_lines(
        *((path, value, at_s) for path, (values, _) in CARBON.items() for value in values),
        *((path, 1, at_s) for path in [*FOUND, *GLOBBED, *MANY]),
    )


@pytest.mark.usefixtures("lines")
def test_carbon_lines(coordinator: Coordinator) -> None:
    """Each rule with the values of one second, read over Graphite's API; a path is cleaned before."""
    for path, (_, expected) in CARBON.items():
        kept = path.replace("..", ".")
        wait_until(path, lambda kept=kept: coordinator.rendered(kept).get(kept))
        assert coordinator.rendered(kept)[kept][-1] == expected, path


@pytest.mark.usefixtures("lines")
def test_carbon_globs_and_find(coordinator: Coordinator) -> None:
    """Paths that are leaf and branch at once, repaired ones, and what a glob takes; the embedded store tells the ids that there are."""
    wait_until(
        "all are stored", lambda: len(coordinator.rendered("qux.*.*")) == 6 and coordinator.rendered("g.bar.baz")
    )
    for target, total in (
        ("qux.*.*", 6),
        ("qux.pos1-a.*", 2),
        ("qux.*.pos2-1", 3),
        ("qux.pos1-[ab].pos2-{0,1}", 4),
        ("foo.bar:*.*", 1),
        ("qux**", 6),
        ("qux.pos1-a**", 2),
        ("**pos1-a**", 2),
        ("**pos2-1", 3),
    ):
        assert len(coordinator.rendered(target)) == total, target
    for query, expected in {
        "a*": [("a", False), ("a", True)],
        "a.b*": [("a.bag", True), ("a.bar", False), ("a.bar", True), ("a.biz", False), ("a.biz", True)],
        "a.ba[rg]": [("a.bag", True), ("a.bar", False), ("a.bar", True)],
        "a.b*.c*": [("a.bar.caw", False), ("a.biz.cake", True)],
        "a.b*.caw.*": [("a.bar.caw.daz", True)],
        "c:*": [("c:bar", False)],
        "c:bar.*": [("c:bar.c:baz", True)],
        "d.bar.*": [("d.bar.baz", True)],
        "f.bar.*": [("f.bar.baz", True)],
        "g.bar.*": [("g.bar.baz", True)],
        "h.bar*": [("h.bar_baz", True)],
        "qux**.*": sorted([(f"qux.pos1-{letter}", False) for letter in "abc"] + [(path, True) for path in GLOBBED]),
        "a.**.d*": [("a.bar.caw.daz", True)],
        "x": [],
        "a.d": [],
        "*.*.*.*.*": [],
    }.items():
        assert coordinator.found(query) == expected, query


@pytest.mark.usefixtures("lines")
def test_carbon_limits(coordinator: Coordinator) -> None:
    """``find`` goes through no more entries of the index than its limit; what is rendered has none."""
    wait_until("all are stored", lambda: len(coordinator.rendered("find.limits.*")) == len(MANY))
    assert len(coordinator.found("find.limits.*")) == 100


@pytest.mark.parametrize(
    ("labels", "ago_s"),
    [
        ((("__name__", "m"), ("", "x")), 0),
        ((("__name__", "m"), ("x", "")), 0),
        ((("__name__", "m"), ("x", "1"), ("x", "2")), 0),
        ((("__name__", "m"), ("x", "1")), 3600),
    ],
    ids=["empty name", "empty value", "name twice", "too old"],
)
def test_samples_that_are_refused(coordinator: Coordinator, labels: Labels, ago_s: int) -> None:
    assert coordinator.post(write_request([(labels, 3.142, (int(time.time()) - ago_s) * 1000)])) == 400


def test_writes_and_queries_of_one_namespace(coordinator: Coordinator) -> None:
    unaggregated, policy = (
        {"M3_Metrics_Type": "unaggregated"},
        {"M3_Metrics_Type": "aggregated", "M3_Storage_Policy": "2s:48h"},
    )

    def write(name: str, value: float, headers: dict[str, str]) -> None:
        at_ms = time.time_ns() // 1_000_000
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        assert coordinator.post(write_request([((("__name__", name),), value, at_ms)]), given) == 200

    write("bar_metric", 42.42, unaggregated)
    write("bar_metric", 84.84, policy)
    for headers, expected in ((unaggregated, "42.42"), (policy, "84.84")):
        wait_until(f"{expected} is stored", lambda headers=headers: coordinator.queried("bar_metric", **headers))
        assert [one["value"][1] for one in coordinator.queried("bar_metric", **headers)] == [expected]
    tags = {"M3-Map-Tags-JSON": json.dumps({"tagMappers": [{"write": {"tag": "globaltag", "value": "somevalue"}}]})}
    write("mapped_metric", 42.42, {**unaggregated, **tags})
    (found,) = coordinator.queried("mapped_metric")
    assert found["metric"] == {"__name__": "mapped_metric", "globaltag": "somevalue"}


def test_a_scraping_prometheus(coordinator: Coordinator, real: Callable[[str], str], tmp_path: Path) -> None:
    """What it remote-writes is in both namespaces; of a window the last scrape stays."""
    binary, sent = real("prometheus"), "prometheus_remote_storage_samples_total"
    with prometheus(binary, tmp_path, "writer", WRITER, coordinator.base) as writer:
        began_ms = time.time_ns() // 1_000_000

        def points(kind: str) -> dict[int, float]:
            now_ms = time.time_ns() // 1_000_000
            found = remote_read(
                coordinator.base, [("__name__", EQUAL, sent)], began_ms, now_ms, {"M3-Metrics-Type": kind}
            )
            return {at: value for values in found.values() for at, value in values.items()}

        wait_until(
            "more than a hundred samples are told of", lambda: max(points("aggregated").values(), default=0) > 100, 90
        )
        for end_ms, value in sorted(points("aggregated").items())[-3:]:
            scraped = {at: raw for at, raw in points("unaggregated").items() if end_ms - WINDOW_S * 1000 <= at < end_ms}
            assert value == scraped[max(scraped)]
        up = coordinator.queried('up{job="prometheus"}')
        assert [(one["metric"]["instance"], one["value"][1]) for one in up] == [(f"127.0.0.1:{writer}", "1")]


def test_kill_9_of_anything_loses_nothing_that_was_answered(coordinator: Coordinator) -> None:
    numbers = itertools.count(1)
    answered: set[int] = set()
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            n = next(numbers)
            try:
                if coordinator.post(sample("summed", "n", str(n), float(n))) == 200:
                    answered.add(n)
            except (OSError, HTTPException):
                time.sleep(0.1)
            time.sleep(0.01)

    def go_on() -> None:
        before = len(answered)
        wait_until("samples are answered", lambda: len(answered) >= before + 20, 120)

    senders = [threading.Thread(target=send, daemon=True) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    go_on()
    for role in ("worker", "front", "zygote", "supervisor"):
        os.kill(coordinator.roles()[role], signal.SIGKILL)
        go_on()
    coordinator.process.popen.kill()
    coordinator.process.wait()
    coordinator.start()
    go_on()
    done.set()
    for sender in senders:
        sender.join()
    expected = {("n", str(n)): [float(n)] for n in answered}

    def missing() -> set[tuple[str, str]]:
        return expected.keys() - coordinator.stored("summed").keys()

    wait_until("everything that was answered is stored", lambda: not missing(), 120)
    found = coordinator.stored("summed")
    assert {key: list(found[key].values()) for key in expected} == expected


def test_signals_to_every_process_end_it_in_order(coordinator: Coordinator) -> None:
    """As a service manager sends them; what is in open windows is there after the next start."""
    at_ms = time.time_ns() // 1_000_000
    assert coordinator.post(sample("summed", "last", "word", 5.0, at_ms)) == 200
    pids = family(coordinator.process.pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        for pid in pids:
            os.kill(pid, number)
    assert coordinator.process.wait(60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    coordinator.start()
    wait_until("it is stored", lambda: coordinator.stored("summed").get(("last", "word")), 120)
    assert list(coordinator.stored("summed")["last", "word"].values()) == [5.0]
