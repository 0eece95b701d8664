"""Which remote write endpoint gets which labels, values and times, as real M3 with ``backend: prom-remote`` sends them.

Judged is what reaches an endpoint, and whether it is stored there. How it gets there differs on purpose (docs/compatibility.md, remote
write backend), by rules on the input: values are sent in batches, an endpoint that failed is tried again alone, what an endpoint refuses
for good is given up, credentials and addresses have to be repaired first, and a write does not become a GET.
"""

import json
import struct
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from lab.ports import free_port
from lab.receiver import Received, Receiver, Reply
from lab.waiting import until
from tests.coordinator.sinks.prom_remote.batches import values_of
from tests.golden.vectors import ROOT, Vector, cases, lines

from coordinator.config.prom_remote import EndpointConfig, PromRemoteConfig, SecretText
from coordinator.downsample.policies import policy_of
from coordinator.ingest import HubOutlet, Ingester, IngestOptions
from coordinator.sinks import QueuedSink, QueueOptions, open_hub
from coordinator.sinks.prom_remote import LabelRules, PromRemoteSink
from coordinator.sinks.prom_remote.opening import open_sinks
from coordinator.sinks.sink import HeldError, RefusedWhy, TryAgainError
from coordinator.sinks.values import UNAGGREGATED, Destination, Values
from m3metrics.codec import decode_aggregated
from m3metrics.errors import CodecError
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy
from m3x.config import load
from m3x.instrument import Registry

SCALE = 10
"""Delays and time-outs of the vectors are shortened by it."""
NAN_BITS = {"NaN": 0x7FF8000000000001, "StaleNaN": 0x7FF0000000000002}


class Scripted:
    """Answers as a vector says: by metric name, or by name and path; in order, the last one for ever."""

    def __init__(self, vector: Vector) -> None:
        self._left = [(selector, list(answers)) for selector, answers in vector["answers"]]
        self.stored: defaultdict[str, list[Received]] = defaultdict(list)
        self.tried: defaultdict[str, list[Received]] = defaultdict(list)

    def __call__(self, received: Received) -> Reply:
        path = received.path
        self.tried[path].append(received)
        reply = self._reply(received)
        if 200 <= reply.status < 300 and not reply.close and reply.delay_s < 1.5 / SCALE:
            self.stored[path].append(received)
        return reply

    def _reply(self, received: Received) -> Reply:
        names = {dict(labels).get(b"__name__", b"").decode() for labels, _ in received.series}
        for selector, answers in self._left:
            name, path = selector if isinstance(selector, list) else (selector, None)
            if name in names and path in (None, received.path.partition("?")[0]) and received.path != "/elsewhere":
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                return Reply(
                    status=answer.get("status", 200),
                    body=_body(answer.get("body", "")),
                    headers=answer.get("headers", {}),
                    delay_s=answer.get("delay", 0) / SCALE,
                    close=answer.get("close", False),
                )
        return Reply()


def _body(text: str) -> str:
    """``z*20000`` is written so in the vectors."""
    letter, star, count = text.partition("*")
    return letter * int(count) if star else text


def _case(vector: Vector) -> str:
    return f"{vector['config']}-{vector['case']}"


@asynccontextmanager
async def deployment(vector: Vector, tmp_path: Path) -> AsyncIterator[tuple[Receiver, Scripted, list[PromRemoteSink]]]:
    """The sinks of the vector's configuration, and the endpoint that all of them send to."""
    script = Scripted(vector)
    async with Receiver(script) as receiver:
        text = (ROOT / "prom_remote" / "configs" / vector["config"]).read_text()
        section = yaml.safe_load(text)["prometheusRemoteBackend"]
        late = any(answer.get("delay", 0) > 1.5 for _, answers in vector["answers"] for answer in answers)
        # Where nothing is to be late a busy machine must not make it so.
        section["requestTimeout"] = f"{1500 // SCALE if late else 60_000}ms"
        written = json.dumps(section).replace("REFUSED_ADDRESS", f"127.0.0.1:{free_port()}")
        file = tmp_path / "section.yml"
        file.write_text(written.replace("RECEIVER", receiver.host))
        sinks = open_sinks(load([file], PromRemoteConfig).value, LabelRules())
        try:
            yield receiver, script, sinks
        finally:
            for sink in sinks:
                await sink.close()


async def deliver(sink: PromRemoteSink, batch: Values, attempts: int) -> str:
    """``stored``, ``refused``, ``later`` or ``held`` after so many attempts."""
    outcome = ""
    for attempt in range(attempts):
        try:
            delivered = await sink.deliver(batch, again=attempt > 0)
        except HeldError:
            outcome = "held"
        except TryAgainError:
            outcome = "later"
        else:
            return "refused" if delivered.refused else "stored"
    return outcome


def samples_of(received: list[Received]) -> set[tuple[str, bytes, int]]:
    """The labels, value and time of every sample of requests, however they were put together."""
    return {
        (repr(labels), struct.pack("<d", value), time_ms)
        for one in received
        for labels, samples in one.series
        for value, time_ms in samples
    }


def of_vector(vector: Vector) -> dict[str, list[Received]]:
    """What M3 sent, by path; without what it lost on the way through a GET."""
    found: defaultdict[str, list[Received]] = defaultdict(list)
    for request in vector["requests"]:
        if request["method"] == "POST":
            found[request["path"]].append(
                Received("POST", request["path"], request["headers"], bytes.fromhex(request["proto_hex"]))
            )
    return found


def _value(value: float | str) -> float:
    if value in NAN_BITS:
        return float(struct.unpack("<d", struct.pack("<Q", NAN_BITS[str(value)]))[0])
    return float(value)


def _wrapped(time_ms: int) -> int:
    """Nanoseconds as M3 multiplies: beyond 64 bits they wrap around."""
    return (time_ms * 1_000_000 + 2**63) % 2**64 - 2**63


def written(vector: Vector) -> tuple[Destination, Values]:
    """The values that a remote write client's request is for storage, and where they belong."""
    headers = vector["headers"]
    destination = UNAGGREGATED
    if headers.get("M3-Metrics-Type") == "aggregated":
        destination = Destination.of(StoragePolicy.parse(headers["M3-Storage-Policy"]))
    more = [
        (mapper["write"]["tag"], mapper["write"]["value"])
        for mapper in json.loads(headers.get("M3-Map-Tags-JSON", "{}")).get("tagMappers", ())
    ]
    rows = []
    for series in vector["series"]:
        tags = [(name.encode(), value.encode()) for name, value in [*series["labels"], *more]]
        rows += [(encode_tags(tags), _value(value), _wrapped(time_ms)) for value, time_ms in series["samples"]]
    return destination, values_of(rows, destination=destination)


@pytest.mark.parametrize("vector", cases("prom_remote/remote_write.jsonl", "config", "case"))
async def test_direct_writes(vector: Vector, tmp_path: Path) -> None:
    destination, batch = written(vector)
    async with deployment(vector, tmp_path) as (receiver, script, sinks):
        chosen = [sink for sink in sinks if sink.takes(destination)]
        outcomes = {sink.name: await deliver(sink, batch, attempts=1) for sink in chosen}
    sent = of_vector(vector)
    assert {path: samples_of(requests) for path, requests in script.tried.items()} == {
        path: samples_of(requests) for path, requests in sent.items()
    }
    assert all(request.method == "POST" for request in receiver.requests)
    if len(vector["series"]) == 1:
        assert {one.proto for one in receiver.requests} == {one.proto for found in sent.values() for one in found}

    assert outcomes == {sink.name: expected_outcome(vector, sink.name) for sink in chosen}
    _check_stored(vector, script, outcomes)
    if not _differs(vector):
        assert vector["status"] == _client_status(set(outcomes.values()))


PATHS = {
    "rawA": "/rawA",
    "rawB": "/sub/rawB",
    "a10": "/agg10s6h",
    "a1m1": "/agg1m40dA",
    "a1m2": "/agg1m40dB",
    "mixgood": "/agg13s6h",
}
"""Endpoints that somebody listens behind, and their paths without query."""


def expected_outcome(vector: Vector, endpoint: str) -> str:
    """What becomes of the first attempt: of several answers in one batch the one that is not final decides."""
    if endpoint not in PATHS:
        return "later"
    found = {"stored"}
    for selector, answers in vector["answers"]:
        if isinstance(selector, str) or selector[1] == PATHS[endpoint]:
            found.add(_outcome(answers[0]))
    if any(not value for series in vector["series"] for _, value in series["labels"]):
        found.add("refused")
    return next(outcome for outcome in ("later", "held", "refused", "stored") if outcome in found)


def _outcome(answer: Vector) -> str:
    status = answer.get("status", 200)
    if answer.get("close") or answer.get("delay", 0) > 1.5 or status == 429 or status >= 500:
        return "later"
    if status in (307, 308) or 200 <= status < 300:
        return "stored"
    return "refused" if status in (400, 413, 422) else "held"


def _client_status(outcomes: set[str]) -> int:
    """What M3's client is answered: 400 for what is final there, all of 4xx."""
    if not outcomes or "later" in outcomes:
        return 500
    return 200 if outcomes == {"stored"} else 400


def _differs(vector: Vector) -> bool:
    """By design: a write that becomes a GET is lost in M3, with 200; of two endpoints that fail the later one decides there; series
    without samples come to no sink."""
    statuses = [answer.get("status", 200) for _, answers in vector["answers"] for answer in answers]
    lost = any(status in (301, 302, 303) for status in statuses)
    several_paths = sum(not isinstance(selector, str) for selector, _ in vector["answers"]) > 1
    return lost or several_paths or any(not series["samples"] for series in vector["series"])


def _check_stored(vector: Vector, script: Scripted, outcomes: dict[str, str]) -> None:
    """Good series are stored beside refused ones, each sample once; with a batch that is tried again, none of it may be yet."""
    bad = {
        selector if isinstance(selector, str) else selector[0]
        for selector, answers in vector["answers"]
        if _outcome(answers[0]) != "stored"
    }
    for path, requests in script.stored.items():
        found = Counter(
            dict(labels)[b"__name__"].decode() for one in requests for labels, samples in one.series for _ in samples
        )
        wanted = Counter(dict(series["labels"])["__name__"] for series in vector["series"] for _ in series["samples"])
        if "later" not in outcomes.values():
            assert {name for name in wanted if name not in bad or len(vector["series"]) == 1} == set(found), path
        assert all(found[name] == wanted[name] for name in found)


@pytest.mark.parametrize("vector", cases("prom_remote/m3msg.jsonl", "config", "case"))
async def test_aggregated_values(vector: Vector, tmp_path: Path) -> None:
    try:
        metric = decode_aggregated(bytes.fromhex(vector["message_hex"]))
    except CodecError:
        assert vector["policy"] == "0s:0s"
        assert not vector["requests"]
        return
    destination = Destination.of(metric.storage_policy)
    batch = values_of([(metric.id, metric.value, metric.time_ns)], destination=destination)
    async with deployment(vector, tmp_path) as (receiver, script, sinks):
        chosen = [sink for sink in sinks if sink.takes(destination)]
        outcomes = {sink.name: await deliver(sink, batch, attempts=3) for sink in chosen}
    sent = of_vector(vector)
    assert {one.path: one.proto for one in receiver.requests} == {
        path: requests[0].proto for path, requests in sent.items()
    }
    for path, requests in script.stored.items():
        assert len(requests) == 1, f"{path} has the value several times"
    final = [answer.get("status", 200) in (400, 413, 422) for _, answers in vector["answers"] for answer in answers[:1]]
    assert ("refused" in outcomes.values()) == any(final)
    if vector["acked"] and not any(final):
        assert set(outcomes.values()) == {"stored"}
    if not vector["acked"] and not any(final):
        assert not outcomes or set(outcomes.values()) & {"later", "held"}


def settled(vector: Vector, path: str) -> str:
    """What becomes of the value at an endpoint that is asked as long as that may help."""
    bare = path.partition("?")[0]
    for selector, answers in vector["answers"]:
        if isinstance(selector, str) or selector[1] == bare:
            return next((one for one in map(_outcome, answers) if one in ("stored", "refused")), _outcome(answers[-1]))
    return "stored"


@pytest.mark.parametrize("vector", [v for v in lines("prom_remote/m3msg.jsonl") if v["config"] == "pr1.yml"], ids=_case)
async def test_aggregated_values_from_port_to_wire(vector: Vector, tmp_path: Path) -> None:
    """Bytes of the message → ingester → hub → queue on disk → sink → endpoint; one endpoint that fails holds no other back."""
    message = np.frombuffer(bytearray.fromhex(vector["message_hex"]), np.uint8)
    places = np.zeros(1, np.int64), np.array([len(message)], np.int64)
    async with deployment(vector, tmp_path) as (receiver, script, sinks):
        queued = [QueuedSink(sink, QueueOptions()) for sink in sinks]
        policies = [policy_of(*sink.attributes) for sink in sinks if sink.attributes != (0, 0)]
        registry = Registry()
        async with open_hub(queued, tmp_path / "queues", registry.scope("sink")) as hub:
            ingester = Ingester(
                HubOutlet(hub), policies, IngestOptions(no_namespace_grace_ns=2**62), registry.scope("x")
            )
            (acked,) = await ingester.ingest(message, *places)
            sent = of_vector(vector)
            for path in sent:
                found = script.stored if settled(vector, path) == "stored" else script.tried
                await until(lambda found=found, path=path: found[path], what=f"{path} has the value")
    undecodable = vector["policy"] == "0s:0s"
    # Ours is acknowledged once it is in the queues, and what cannot be decoded at once.
    assert acked == (undecodable or bool(sent) or vector["case"] == "refused" or vector["acked"])
    assert {one.path: one.proto for one in receiver.requests} == {
        path: requests[0].proto for path, requests in sent.items()
    }
    assert all(len(requests) == 1 for requests in script.stored.values())


def reuse_cases() -> list[Vector]:
    """Connections after one kind of answer."""
    return [vector for vector in lines("prom_remote/connections.jsonl") if vector["kind"] == "connection_reuse"]


@pytest.mark.parametrize("vector", reuse_cases(), ids=_case)
async def test_connections_are_used_again(vector: Vector) -> None:
    status = next((number for number in (204, 400) if str(number) in vector["case"]), 200)
    reply = Reply(status, "ab" if "body" in vector["case"] and "without" not in vector["case"] else "")
    batch = values_of([(encode_tags([(b"a", b"b")]), 1.0, 0)])
    async with Receiver(lambda _: reply) as receiver:
        (sink,) = open_sinks(_one_endpoint(receiver.url), LabelRules())
        for _ in range(vector["requests"]):
            refused = (await sink.deliver(batch, again=False)).refused
            assert [one.why for one in refused] == ([RefusedWhy.BAD_REQUEST] if status == 400 else [])
        await sink.close()
    assert len(receiver.connections) == 1 <= vector["different_connections"]


async def test_many_values_are_one_request() -> None:
    (many,) = {
        (vector["acks"], vector["requests"])
        for vector in lines("prom_remote/connections.jsonl")
        if vector["kind"] == "m3msg_many"
    }
    batch = values_of((encode_tags([(b"a", str(i).encode())]), 1.0, 0) for i in range(many[0]))
    async with Receiver() as receiver:
        (sink,) = open_sinks(_one_endpoint(receiver.url), LabelRules())
        await sink.deliver(batch, again=False)
        await sink.close()
    (request,) = receiver.requests
    assert len(request.series) == many[1]


def _one_endpoint(url: str) -> PromRemoteConfig:
    return PromRemoteConfig(endpoints=[EndpointConfig(name="a", address=SecretText(url))])
