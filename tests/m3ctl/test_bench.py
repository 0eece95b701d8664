"""``m3ctl bench``: who gets which samples, what is counted, and that nothing is written unless it is meant."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import cramjam
import pytest
from lab.prometheus import decode_write
from tests.m3ctl.conftest import FakeCluster, compact

from m3ctl.bench.load import Load, Result, labels_of, metric_id
from m3ctl.cli import main
from m3metrics.codec import decode_metric
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3metrics.shard import shard_of
from m3msg.frames import decode_message, encode_ack, split

WRITE = "/api/v1/prom/remote/write"
SMALL = ["--seconds", "0.3", "--rate", "200", "--series", "7", "--yes"]
"""60 samples."""


# --- the load


def test_each_series_has_its_own_samples_and_a_last_one() -> None:
    load = Load("x", series=7, rate=200, seconds=0.3)
    assert (load.total, load.sent_series, load.due(0), load.due(0.1), load.due(9)) == (60, 7, 1, 21, 60)
    assert [load.last(number) for number in range(7)] == [56, 57, 58, 59, 53, 54, 55]
    assert Load("x", series=100, rate=10, seconds=1).sent_series == 10
    assert Load("x", 1, 1, 1).run != Load("x", 1, 1, 1).run


def test_quantiles() -> None:
    result = Result("a", sent=100, acked=99, took_s=2.0, latencies_s=[n / 1000 for n in range(100)])
    assert (result.quantile_s(0.5), result.quantile_s(0.99), Result("b").quantile_s(0.5)) == (0.05, 0.099, None)
    assert (result.as_data()["unacked"], result.as_data()["rate"]) == (1, 49.5)


# --- aggregators


class Consumers:
    """Both aggregators' m3msg ports; ``answer(instance, value)`` says whether a message is acknowledged."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.got: list[list[bytes]] = [[], []]
        self.answer: Callable[[int, bytes], bool] = lambda instance, value: True
        self._threads = [
            threading.Thread(target=self._serve, args=(cluster.listeners[n], n), daemon=True) for n in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self, listener: socket.socket, instance: int) -> None:
        while True:
            try:
                taken, _ = listener.accept()
            except OSError:
                return
            with taken:
                rest = b""
                while data := taken.recv(1 << 16):
                    payloads, rest = split(rest + data)
                    for payload in payloads:
                        message = decode_message(payload)
                        if self.answer(instance, message.value):
                            self.got[instance].append(message.value)
                            taken.sendall(encode_ack([message.metadata]))


@pytest.fixture
def consumers(cluster: FakeCluster) -> Iterator[Consumers]:
    made = Consumers(cluster)
    yield made
    for listener in cluster.listeners:
        listener.shutdown(socket.SHUT_RDWR)


def test_every_replica_gets_every_sample_once(ctl, cluster: FakeCluster, consumers: Consumers) -> None:
    code, out, err = ctl("bench", "aggregator", *SMALL, "--json", "--policy", "1m:40d")
    found = json.loads(out)
    assert (code, found["problems"]) == (0, [])
    assert "warning: this WRITES 60 samples (200 a second for 0.3 s) of 7 new series m3ctl_bench{m3ctl_run=" in err
    assert [(one["target"], one["sent"], one["acked"], one["unacked"]) for one in found["targets"]] == [
        (ident, 60, 60, 0) for ident in cluster.ids
    ]
    assert all(0 < one["ackSeconds"]["p50"] <= one["ackSeconds"]["p99"] for one in found["targets"])
    load = Load("m3ctl_bench", 7, 200, 0.3, run=found["run"])
    for got in consumers.got:
        metrics = sorted((decode_metric(value) for value in got), key=lambda metric: metric.value)
        assert [(metric.value, metric.id) for metric in metrics] == [
            (float(k), metric_id(load, k % 7)) for k in range(60)
        ]
        assert metrics[0].metadatas[0].pipelines[0].storage_policies == (StoragePolicy.parse("1m:40d"),)


def test_what_is_not_acknowledged_is_a_problem(ctl, cluster: FakeCluster, consumers: Consumers) -> None:
    consumers.answer = lambda instance, value: instance == 0 or decode_metric(value).value != 13.0
    code, out, _ = ctl("bench", "aggregator", *SMALL, "--wait", "0.5")
    assert code == 1
    assert f"problem: {cluster.ids[1]}: 1 of 60 samples are not acknowledged" in out


def test_one_instance_is_sent_series_of_its_shards_only(ctl, cluster: FakeCluster, consumers: Consumers) -> None:
    def halved(headers: object) -> tuple[int, bytes]:
        status, body = cluster._placement(headers)
        found = json.loads(body)
        for number, instance in enumerate(found["placement"]["instances"].values()):
            instance["shards"] = [one for one in instance["shards"] if one["id"] % 2 == number]
        return status, compact(found)

    cluster.coordinator.answers["GET", "/api/v1/services/m3aggregator/placement"] = halved
    code, out, _ = ctl("bench", "aggregator", *SMALL, "--series", "60", "--instance", cluster.ids[1], "--json")
    (target,) = json.loads(out)["targets"]
    assert (code, target["target"], consumers.got[0]) == (0, cluster.ids[1], [])
    assert {shard_of(decode_metric(value).id, 4) % 2 for value in consumers.got[1]} == {1}
    code, _, err = ctl("bench", "aggregator", *SMALL, "--instance", "nobody")
    assert (code, "no instance 'nobody' in the placement" in err) == (1, True)


def test_nothing_is_written_unless_it_is_meant(ctl, cluster: FakeCluster, consumers: Consumers) -> None:
    for service in ("aggregator", "coordinator"):
        code, out, err = ctl("bench", service, *SMALL[:-1])
        assert (code, out) == (1, "")
        assert "this WRITES 60 samples" in err
        assert "say --yes if that is meant" in err
    assert consumers.got == [[], []]
    assert ("POST", WRITE) not in cluster.coordinator.seen


# --- a coordinator


class Store:
    """A coordinator that takes remote writes, and answers queries with ``told`` of what it got."""

    def __init__(self, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.samples: list[tuple[dict[bytes, bytes], float, int]] = []
        self.status = 200
        self.keeps: Callable[[float], bool] = lambda value: True
        server = cluster.coordinator
        server.answers["POST", WRITE] = lambda _: (self.status, b"" if self.status == 200 else b"no room")
        handler = server._server.RequestHandlerClass
        serve = handler._serve  # type: ignore[attr-defined]
        owner = self

        def looked(self) -> None:  # type: ignore[no-untyped-def]
            if self.path == WRITE:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for labels, points in decode_write(bytes(cramjam.snappy.decompress_raw(body))):
                    owner.samples += [(dict(labels), value, time_ms) for value, time_ms in points]
                del self.headers["Content-Length"]
            elif urlsplit(self.path).path == "/api/v1/query":
                server.answers["GET", self.path] = lambda _: owner.told(parse_qs(urlsplit(self.path).query)["query"][0])
            serve(self)

        monkeypatch.setattr(handler, "do_POST", looked)
        monkeypatch.setattr(handler, "do_GET", looked)
        self.query = ""

    def told(self, query: str) -> tuple[int, bytes]:
        self.query = query
        series: dict[bytes, dict] = {}
        for labels, value, time_ms in self.samples:
            if self.keeps(value):
                named = {name.decode(): text.decode() for name, text in labels.items()}
                one = series.setdefault(labels[b"number"], {"metric": named, "values": []})
                one["values"].append([time_ms / 1000, str(value)])
        return 200, compact({"status": "success", "data": {"resultType": "matrix", "result": list(series.values())}})


@pytest.fixture
def store(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(cluster, monkeypatch)


def test_a_coordinator_is_sent_all_and_asked_what_came_back(ctl, store: Store) -> None:
    code, out, err = ctl("bench", "coordinator", *SMALL, "--check", "--json")
    found = json.loads(out)
    assert (code, found["problems"], "by remote write" in err) == (0, [], True)
    assert [(one["sent"], one["acked"], one["refused"]) for one in found["targets"]] == [(60, 60, 0)]
    assert sorted(value for _, value, _ in store.samples) == [float(k) for k in range(60)]
    load = Load("m3ctl_bench", 7, 200, 0.3, run=found["run"])
    for labels, value, _ in store.samples:
        assert encode_tags(sorted(labels.items())) == metric_id(load, int(value) % 7)
        assert [text for _, text in labels_of(load, int(value) % 7)] == [
            text.decode() for _, text in sorted(labels.items())
        ]
    assert f'{{__name__=~"m3ctl_bench.*",m3ctl_run="{found["run"]}"}}[' in store.query
    assert found["cameBack"] == {"series": 7, "ofSeries": 7, "lastSamples": 7, "points": 60, "strange": 0}


def test_series_that_do_not_come_back_are_a_problem(ctl, store: Store) -> None:
    store.keeps = lambda value: value % 7 != 3
    code, out, _ = ctl("bench", "coordinator", *SMALL, "--check", "--wait", "0.1")
    assert code == 1
    assert "came back: 51 points of 6 of 7 series, the last sample of 6" in out
    assert "problem: 1 of 7 series are not in the store after 0.1 s" in out


def test_what_is_refused_is_counted_with_the_reason(ctl, cluster: FakeCluster, store: Store) -> None:
    store.status = 429
    code, out, _ = ctl("bench", "coordinator", *SMALL, "--json")
    (target,) = json.loads(out)["targets"]
    assert (code, target["acked"], target["refused"], target["error"]) == (1, 0, 60, "429: no room")
    assert target["ackSeconds"] == {"p50": None, "p99": None}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["bench", "coordinator", "--instance", "a"], 2, "--instance names an aggregator"),
        (["bench", "aggregator", "--check"], 2, "--check asks a coordinator's store"),
        (["bench", "aggregator", "--policy", "10"], 2, "is no policy such as 10s:2d"),
        (["bench", "aggregator", "--prefix", "a b"], 2, "is no name of a metric"),
        (["bench", "aggregator", "--series", "0"], 2, "'0' is not a whole number above 0"),
        (["bench", "aggregator", "--series", "x"], 2, "'x' is not a whole number above 0"),
        (["bench", "aggregator", "--rate", "x"], 2, "'x' is not a number above 0"),
        (["bench", "aggregator", "--aggregator-port", "x"], 2, "'x' is not a port"),
    ],
)
def test_arguments_that_do_not_fit(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    try:
        found = main(arguments)
    except SystemExit as ended:
        found = int(ended.code or 0)
    assert (found, said in capsys.readouterr().err) == (code, True)
