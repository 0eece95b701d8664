"""What real M3 writes when it aggregates inside its coordinator, script by script: which endpoint gets which labels, times and values, and
what the writing client is told.

A script goes through everything but processes and sockets: remote write or carbon, the door, the engine with the options that the
aggregator inside is given, the supervisor's flushes, labels of suffixes. Time is that of the script. When a value is written is not
compared: here it is a second after the past buffer.

Where ours differs on purpose (docs/compatibility.md, aggregation inside the coordinator) a rule on the input says what is not compared:

* ``impossible``: series for which an aggregation type is asked that their metric type cannot have. M3 refuses their samples, ours takes
  what is possible;
* ``partly_late``: samples that are too late for some of their policies only. Ours count where their window is open;
* ``shares_an_id``: ids that are sent with different metadatas at once. M3 replaces one by the other at every sample, ours asks for both;
* ``has_agg``: timers with a label ``agg`` of their own. M3 loses the values;
* ``resends``: rules that send corrections, for samples that count by their time of arrival. M3 forgets the client's time, ours takes it.
"""

import functools
import itertools
import json
import math
import re
import struct
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import cramjam
import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from tests.coordinator.write.test_golden_write import Storage
from tests.golden.test_engine_scripts import frame_of
from tests.golden.vectors import ROOT, Vector, cases, lines

from aggregator import ipc
from aggregator.config import ServiceConfig, engine_options, load_config
from aggregator.engine import Engine
from aggregator.supervisor.flushing.commands import Flushing, Send
from aggregator.supervisor.flushing.timing import schedule_options
from coordinator.child.settings import Places, document
from coordinator.config import CoordinatorConfig, load_coordinator
from coordinator.downsample import Downsampler, RulesInEffect, rule_set_of
from coordinator.ingest.suffixes import Suffixes
from coordinator.prompb import WRITE_REQUEST
from coordinator.write import CarbonIngester, Door, RemoteWriter, SeriesCache, remote_write_routes
from coordinator.write.carbon_rules import rules_in
from m3cluster.flush_times import ShardSetFlushTimes
from m3cluster.proto import decode
from m3cluster.proto.rules import RULE_SET
from m3metrics import codec
from m3metrics.aggregation import decompress, is_valid_for
from m3metrics.ids import ID_SCHEME_TAG, decode_tags
from m3metrics.metric import PROM_TYPES, MetricType
from m3metrics.past_limits import PastLimits
from m3metrics.pipeline import RollupOp
from m3metrics.policy import StoragePolicy
from m3metrics.rules import rule_set_from
from m3msg.batch import MessageBatch
from m3x.instrument import Registry
from m3x.protobuf import marshal

FOLDER = ROOT / "coordinator_embedded"
SECOND = 1_000_000_000
SHARDS = 64
WAITED_MS = 20_000
"""Windows of samples that are further ahead were not waited for."""
AFTER_S = 200
M3_TYPES = (MetricType.GAUGE, MetricType.COUNTER, MetricType.TIMER)
"""By their numbers in requests."""
NANS = {"NaN": 0x7FF8000000000001, "StaleNaN": 0x7FF0000000000002}
REMOTE = (
    "auto.jsonl", "mapping.jsonl", "rollup.jsonl", "untimed.jsonl", "suffix.jsonl", "empty.jsonl", "noop.jsonl", "past.jsonl",
    "flip.jsonl", "misc.jsonl", "dup.jsonl", "kv.jsonl",
)  # fmt: skip
Written = tuple[str, tuple[tuple[str, str], ...], int, str]
"""Endpoint, labels, ms from the script's window on, value."""


CARBON_CLUSTERS = """
clusters:
  - namespaces:
      - {namespace: default, retention: 6h}
      - {namespace: a5, type: aggregated, resolution: 5s, retention: 6h, downsample: {all: false}}
      - {namespace: a10, type: aggregated, resolution: 10s, retention: 12h, downsample: {all: false}}
"""


@functools.cache
def configs_of(name: str, untimed: bool, default_limits: bool) -> tuple[CoordinatorConfig, ServiceConfig]:
    """The file of the capture, and what the aggregator inside is given. Of M3DB as storage only its namespaces matter."""
    text = (FOLDER / "configs" / name).read_text()
    text = text.replace("RECEIVER", "127.0.0.1:9").replace("COORDINATOR", "127.0.0.1")
    if untimed:
        text = text.replace("untimedRollups: false", "untimedRollups: true")
    if default_limits:
        text = re.sub(r"^ *bufferPastLimits:.*\n", "", text, flags=re.MULTILINE)
    if "backend: m3db" in text:
        text = text.replace("backend: m3db", "backend: embedded") + CARBON_CLUSTERS
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m3coordinator.yml"
        file.write_text(text)
        config = load_coordinator([file]).value
        file.write_text(json.dumps(document(config, Places(Path("/tmp/run"), Path(folder)), config.memory_shares)))
        return config, load_config([file]).value


class Inside:
    """A coordinator with its aggregator, at ``now_ns``."""

    largest_message, largest_batch = 1 << 20, 100 << 20

    def __init__(self, vector: Vector) -> None:
        untimed, limits = bool(vector.get("untimed_rollups")), bool(vector.get("default_limits"))
        self.config, aggregator = configs_of(vector["config"], untimed, limits)
        config = self.config
        self.start_ns = self.now_ns = vector["window_start_unix_s"] * SECOND
        rules = RulesInEffect()
        if config.downsample is not None and config.downsample.rules is not None:
            rules.put("default", rule_set_of(config.downsample.rules, self.start_ns - 3600 * SECOND))
        elif (stored := FOLDER / "configs" / vector["config"].replace(".yml", ".rules.json")).exists():
            data = bytes.fromhex(json.loads(stored.read_text())["ruleset_hex"])
            rules.put("default", rule_set_from(decode(RULE_SET, data)))
        self.downsampler = Downsampler.of(config, rules, self.now_ns)
        self.storage = Storage(list(config.namespaces))
        cache, scope = SeriesCache(4096, 32 << 20), Registry().scope("x")
        assert config.past_limits is not None
        self.limits: PastLimits = config.past_limits
        door = Door(self.limits, lambda: self.now_ns)
        writer = RemoteWriter(
            self.downsampler, cache, self, scope, tag_options=config.tag_options, direct=self.storage, door=door
        )
        self.app = Starlette(routes=list(remote_write_routes(writer)))
        self.carbon = CarbonIngester(
            rules_in(config), self.downsampler, SeriesCache(4096, 32 << 20), self, scope, direct=self.storage, door=door
        )
        options = engine_options(aggregator, num_shards=SHARDS, topic_shards=SHARDS, replica_factor=1, workers=1)
        self.engine = Engine(options, max_series=1 << 10)
        owned = [ipc.OwnedShard(shard, 0, (1 << 63) - 1) for shard in range(SHARDS)]
        self.engine.set_shards(ipc.Shards(SHARDS, SHARDS, owned), 0)
        self.flushing = Flushing(schedule_options(aggregator))
        self.flushing.worker_up(0, 1, owned)
        self.flushing.lead(ShardSetFlushTimes(), 0)
        self.suffixes = Suffixes()
        self.written: list[Written] = []

    # --- the sink of messages ---

    def ready(self, _nbytes: int) -> int | None:
        return SHARDS

    async def admit(self, _nbytes: int) -> int:
        return SHARDS

    def produce(self, batch: MessageBatch) -> bool:
        for k in range(len(batch)):
            self._add(batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes())
        return True

    # --- the aggregator ---

    def _add(self, message: bytes) -> None:
        frame = frame_of(message)
        self.engine.ingest(np.frombuffer(frame, np.uint8), np.array([len(frame)]), self.now_ns)
        self._do(self.flushing.new_lists(0, self.engine.new_lists(), self.now_ns))

    def advance(self, until_ns: int) -> None:
        """Flushes what is due until then."""
        while (due := self.flushing.schedule.next_ns()) is not None and due <= until_ns:
            self.now_ns = max(self.now_ns, due)
            for send in iter(lambda: self.flushing.tick(self.now_ns), []):
                self._do(send)
            if self.flushing.save_due(self.now_ns):
                self._do(self.flushing.saved(self.flushing.message(range(SHARDS)), self.now_ns))
        self.now_ns = max(self.now_ns, until_ns)

    def _do(self, sends: list[Send]) -> None:
        for send in sends:
            match send.command:
                case ipc.Commit():
                    self.engine.commit(send.command)
                case ipc.Reopen():
                    self.engine.reopen(send.command)
                case ipc.Flush():
                    forwarded = self._flush(send.command)
                    self._do(self.flushing.last(0, send.command.id, self.now_ns))
                    for message in forwarded:
                        self._add(message)

    def _flush(self, command: ipc.Flush) -> list[bytes]:
        forwarded = []
        for part in self.engine.flush(command, self.now_ns):
            batch = part.batch
            names = [] if batch is None else list(batch.policy_names)
            count = 0 if batch is None else len(batch)
            answer = ipc.Flushed(command.id, part.last, count, part.forwarded, names, part.discarded)
            if count and (number := self.flushing.part(0, answer)):
                self.flushing.done(answer.id, number)
            for k in range(count):
                assert batch is not None
                message = batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes()
                if part.forwarded:
                    forwarded.append(message)
                else:
                    self._write(message)
        return forwarded

    def _write(self, message: bytes) -> None:
        metric = codec.decode_aggregated(message)
        ident = np.frombuffer(metric.id, np.uint8)
        buf, at, size = self.suffixes.labelled(ident, np.zeros(1, np.int64), np.array([len(ident)]))
        labels = labels_of(buf[int(at[0]) : int(at[0] + size[0])].tobytes())
        if len(dict(labels)) < len(labels):
            # Stores refuse it, as M3 does.
            return
        self.written += self._rows(metric.storage_policy, labels, metric.time_ns, metric.value)

    def _rows(
        self, policy: StoragePolicy | None, labels: tuple[tuple[str, str], ...], time_ns: int, value: float
    ) -> list[Written]:
        """One for each endpoint that gets it."""
        wanted = (0, 0) if policy is None else (policy.window_ns, policy.retention_ns)
        at_ms = (time_ns - self.start_ns) // 1_000_000
        return [
            (namespace.name, labels, at_ms, shown(value))
            for namespace in self.config.namespaces
            if (
                namespace.resolution_ns if namespace.aggregated else 0,
                namespace.retention_ns if namespace.aggregated else 0,
            )
            == wanted
        ]

    def direct(self) -> list[Written]:
        """What went straight to endpoints."""
        return [
            row
            for batch in self.storage.written
            for number, time_ns, value in zip(
                batch.series.tolist(), batch.time_ns.tolist(), batch.values.tolist(), strict=True
            )
            for row in self._rows(batch.destinations[0].policy, labels_of(batch.table.id(number)), time_ns, value)
        ]


def labels_of(ident: bytes) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name.decode(), value.decode()) for name, value in decode_tags(ident) if name != ID_SCHEME_TAG))


def shown(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(value + 0.0)


def shown_vector(value: float | str) -> str:
    if isinstance(value, str):
        return "NaN" if value.startswith("NaN") else shown(float(value))
    return shown(float(value))


def written_of(one: Vector) -> Written:
    return (
        one.get("endpoint", "raw"),
        tuple(sorted(map(tuple, one["labels"]))),
        one["t_ms"],
        shown_vector(one["value"]),
    )


def number(value: float | str) -> float:
    if value in NANS:
        return float(struct.unpack("<d", struct.pack("<Q", NANS[str(value)]))[0])
    return float(value)


def body_of(step: Vector, start_ms: int) -> bytes:
    series = []
    for one in step["series"]:
        made: dict[str, Any] = {
            "labels": [{"name": name.encode(), "value": value.encode()} for name, value in one["labels"]],
            "samples": [{"value": number(value), "timestamp": start_ms + at} for value, at in one["samples"]],
        }
        made |= {key: one[key] for key in ("type", "source") if one.get(key) is not None}
        made["m3_type"] = M3_TYPES.index(metric_type(one))
        series.append(made)
    return bytes(cramjam.snappy.compress_raw(marshal(WRITE_REQUEST, {"timeseries": series})))


# --- where ours differs ---


def decided(inside: Inside, series: Vector) -> list[tuple[bytes, Any]]:
    """Ids and metadatas that M3 makes of a series."""
    plain = Downsampler.of(inside.config, inside.downsampler.rules, inside.start_ns)
    plain._inside = False
    tags = [(name.encode(), value.encode()) for name, value in series["labels"]]
    appended = plain.append(tags, metric_type(series), PROM_TYPES[series.get("type") or 0])
    return [(spec.id, codec.decode_staged_metadatas(spec.metadatas)) for spec in appended.specs]


def metric_type(series: Vector) -> MetricType:
    return MetricType[series.get("m3_type", "gauge").upper()]


def impossible(inside: Inside, series: Vector) -> bool:
    kind = metric_type(series)
    return any(
        not is_valid_for(kind, one)
        for _, stages in decided(inside, series)
        for stage in stages
        for pipeline in stage.pipelines
        for one in decompress(pipeline.aggregation_id)
    )


def shares_an_id(inside: Inside, vector: Vector) -> set[tuple[tuple[str, str], ...]]:
    """Labels of the ids that are sent with different metadatas."""
    seen: dict[bytes, Counter[Any]] = {}
    for series in all_series(vector):
        for ident, stages in decided(inside, series):
            seen.setdefault(ident, Counter())[repr(stages)] += 1
    found = set()
    for series in all_series(vector):
        idents = Counter(ident for ident, _ in decided(inside, series))
        found |= {labels_of(ident) for ident, times in idents.items() if times > 1}
    return found | {labels_of(ident) for ident, kinds in seen.items() if len(kinds) > 1}


def resends(inside: Inside, vector: Vector) -> set[tuple[tuple[str, str], ...]]:
    """Labels of rollups with corrections of untimed metrics."""
    if not vector.get("untimed_rollups"):
        return set()
    return {
        labels_of(ident)
        for series in all_series(vector)
        for ident, stages in decided(inside, series)
        for stage in stages
        for pipeline in stage.pipelines
        if pipeline.resend_enabled
    } | {
        labels_of(target)
        for series in all_series(vector)
        for _, stages in decided(inside, series)
        for target in rolled(stages)
    }


def rolled(stages: Any) -> list[bytes]:
    """Ids that pipelines with corrections forward to."""
    return [
        op.id
        for stage in stages
        for pipeline in stage.pipelines
        if pipeline.resend_enabled
        for op in pipeline.pipeline
        if isinstance(op, RollupOp)
    ]


def all_series(vector: Vector) -> list[Vector]:
    return [series for step in vector.get("steps", ()) for series in step["series"]]


def compared(rows: list[Written], left_out: set[Any]) -> Counter[Written]:
    return Counter(row for row in rows if row[1] not in left_out and without_agg(row[1]) not in left_out)


def without_agg(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Labels as the client sent them."""
    kept = (("agg" if name == "exported_agg" else name, value) for name, value in labels if name != "agg")
    return tuple(sorted(kept))


def masked(text: str) -> str:
    """Without what depends on the moment; of several refusals without the last one: M3 looks at series in no order. The refusal of a
    storage policy is in our words."""
    if not text.startswith('{"status":"error","error":"bad_request_errors: count=1,'):
        text = text.partition(", last=")[0]
    return re.sub(
        r"(off_by|timestamp|past_limit|future_limit|timestamp_unix_nanos|\w+_limit_unix_nanos)=[^, \\\"]+", r"\1=", text
    )


@pytest.mark.parametrize(
    "vector", [case for name in REMOTE for case in cases(f"coordinator_embedded/{name}", "script")]
)
async def test_remote_write(vector: Vector) -> None:
    inside = Inside(vector)
    start_ms = vector["window_start_unix_s"] * 1000
    left_out: set[Any] = shares_an_id(inside, vector) | resends(inside, vector)
    differs = {repr(series["labels"]) for series in all_series(vector) if impossible(inside, series)}
    left_out |= {tuple(sorted(map(tuple, s["labels"]))) for s in all_series(vector) if repr(s["labels"]) in differs}
    last_ms = 0
    async with httpx.AsyncClient(transport=httpx.ASGITransport(inside.app), base_url="http://test") as client:
        for step in vector["steps"]:
            inside.advance(inside.start_ns + round(step["at_s"] * SECOND))
            last_ms = round(step["at_s"] * 1000)
            answer = await client.post(
                "/api/v1/prom/remote/write", content=body_of(step, start_ms), headers=step["headers"]
            )
            if not any(repr(series["labels"]) in differs for series in step["series"]):
                assert (answer.status_code, masked(answer.text.strip())) == (
                    step["status"],
                    masked(step["body"].strip()),
                )
    inside.advance(inside.start_ns + last_ms * 1_000_000 + AFTER_S * SECOND)
    partly = partly_late(inside, vector)
    direct = inside.direct()
    ours = [row for row in inside.written if row[2] <= last_ms + WAITED_MS + 10_000]
    ours += [row for row in direct if row[0] != "raw"]
    if "output_raw" in vector:
        assert Counter(row for row in direct if row[0] == "raw") == Counter(map(written_of, vector["output_raw"]))
    theirs = [written_of(one) for one in vector["output"]]
    left_out |= {tuple(sorted(map(tuple, s["labels"]))) for s in all_series(vector) if has_agg(s)}
    assert compared([r for r in ours if key(r) not in partly], left_out) == compared(
        [r for r in theirs if key(r) not in partly], left_out
    )


def key(row: Written) -> tuple[str, int]:
    return row[0], row[2]


def has_agg(series: Vector) -> bool:
    return metric_type(series) is MetricType.TIMER and any(name == "agg" for name, _ in series["labels"])


def partly_late(inside: Inside, vector: Vector) -> set[tuple[str, int]]:
    """Windows that samples belong to which are too late there, but in time for another policy."""
    found = set()
    for step in vector["steps"]:
        for _, at_ms in itertools.chain.from_iterable(series["samples"] for series in step["series"]):
            age_ns = round(step["at_s"] * SECOND) + 100_000_000 - at_ms * 1_000_000
            late = {
                n.name: age_ns > inside.limits.of(n.resolution_ns) for n in inside.config.namespaces if n.aggregated
            }
            if len(set(late.values())) > 1:
                for n in inside.config.namespaces:
                    if late.get(n.name):
                        window_ms = n.resolution_ns // 1_000_000
                        found.add((n.name, (at_ms // window_ms + 1) * window_ms))
    return found


def lines_of(vector: Vector) -> bytes:
    """What was sent over the connection."""
    start_s, text = vector["window_start_unix_s"], ""
    for line in vector["lines"]:
        one = line if isinstance(line, str) else f"{line[0]} {line[1]} {start_s + line[2]}"
        text += one.removesuffix("\n") + "\n"
    return text.encode()


def decimal(value: str) -> str:
    """As M3DB stores it: what is nearly a decimal number is one."""
    return f"{float(value):.12g}"


@pytest.mark.parametrize("vector", cases("coordinator_embedded/carbon.jsonl", "script"))
async def test_carbon(vector: Vector) -> None:
    """Lines of one connection. A path that several rules want has what all of them ask for, where in M3 the last one wins by chance."""
    inside = Inside(vector)
    inside.advance(inside.start_ns + round(vector["at_s"] * SECOND))
    await inside.carbon.ingest(np.frombuffer(bytearray(lines_of(vector)), np.uint8))
    inside.advance(inside.start_ns + AFTER_S * SECOND)
    policies = {"a5": "5s:6h", "a10": "10s:12h"}
    ours = Counter(
        (policies[name], ".".join(value for _, value in labels), at_ms // 1000, decimal(value))
        for name, labels, at_ms, value in inside.written
    )
    for batch in inside.storage.written:
        # Of rules without aggregation: of equal times a store keeps one.
        (path,) = {line.split()[0].decode() for line in lines_of(vector).splitlines()}
        times = (batch.time_ns - inside.start_ns) // SECOND
        kept = dict(zip(times.tolist(), (decimal(shown(one)) for one in batch.values.tolist()), strict=True))
        ours |= Counter({("5s:6h", path, at_s, value): 1 for at_s, value in kept.items()})
    theirs = Counter(
        (o["policy"], o["series_id"], o["t_s"], decimal(shown_vector(o["value"]))) for o in vector["output"]
    )
    if vector.get("nondeterministic"):
        assert {row[:3] for row in theirs} <= {row[:3] for row in ours}
    else:
        assert ours == theirs


FAULTS = {vector["case"]: vector for vector in lines("coordinator_embedded/faults.jsonl")}


@pytest.mark.parametrize("case", [name for name, vector in FAULTS.items() if vector.get("series")])
async def test_no_endpoint_and_no_phase_costs_a_value(case: str) -> None:
    """M3 loses increments for good where an endpoint is slow; ours has what M3 has without one. (Endpoints that fail: queues of sinks.)"""
    vector = {**FAULTS[case], "config": "faults.yml", "default_limits": True, "window_start_unix_s": 1_795_951_080}
    labels = [["__name__", "f_counter"], ["app", "a"], ["host", "h"]]
    step = {"at_s": vector["sent_at_s"], "series": [{"labels": labels, "samples": vector["samples_rel_ms"]}]}
    inside = Inside(vector)
    inside.advance(inside.start_ns + round(vector["sent_at_s"] * SECOND))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(inside.app), base_url="http://test") as client:
        answer = await client.post(
            "/api/v1/prom/remote/write", content=body_of(step, vector["window_start_unix_s"] * 1000)
        )
    assert answer.status_code == 200, answer.text
    inside.advance(inside.start_ns + AFTER_S * SECOND)
    expected = {written_of(one) for one in FAULTS["phase_late_no_delay"]["requests"]}
    assert expected <= set(inside.written)
    assert len(set(inside.written)) == len(inside.written)
