"""Whole scripts captured from M3 (golden/engine/scripts.jsonl.gz): what went in, what came out, what was forwarded, which errors.

Events go to the real engine. Mode "manager" drives the supervisor's machine of flushes (``supervisor.flushing.commands``) with jitter off,
through the messages that worker and supervisor exchange; mode "direct" flushes every list that exists once. As the scripts ask, what is
forwarded comes back to the same engine after the flush.

Where the engine differs from M3 on purpose (docs/compatibility.md), a rule on the script's inputs says what is not compared:

* values of timers whose quantiles M3 answers otherwise (``inexact``), and of what they are rolled up to: they are compared with those of
  the plain engine of tests/aggregator/engine, which takes quantiles from the sorted samples;
* the order of values with one id, time and policy from aggregations that were replaced meanwhile (``replaced``);
* nothing is committed where the clock steps back: a window that has been committed is created again earlier than in M3.
"""

import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.aggregator.engine.reference_engine import ReferenceEngine
from tests.golden.vectors import Vector, from_bits, lines

from aggregator import ipc
from aggregator.engine import Engine, EngineOptions
from aggregator.engine.ingest.metadata import types_options
from aggregator.lists import ListId
from aggregator.supervisor.flushing.commands import Flushing, Send
from aggregator.supervisor.flushing.schedule import ScheduleOptions
from m3cluster.flush_times import ShardSetFlushTimes
from m3metrics import codec
from m3metrics.aggregation import AggregationType, TypesOptions, quantiles_of
from m3metrics.errors import MetricsError
from m3metrics.metric import MetricType
from m3metrics.pipeline import RollupOp
from m3metrics.shard import shard_of

SCRIPTS = list(lines("engine/scripts.jsonl.gz"))
TOPIC_SHARDS = 16


def engine_options(o: dict[str, Any]) -> EngineOptions:
    types = {
        name: tuple(filter(None, o["default_aggregation_types"].get(name, "").split(",")))
        for name in ("counter", "timer", "gauge")
    }
    return EngineOptions(
        passthrough=True,
        num_shards=o["num_shards"],
        topic_shards=TOPIC_SHARDS,
        default_storage_policies=tuple(o["default_storage_policies"]),
        default_counter_types=types["counter"],
        default_timer_types=types["timer"],
        default_gauge_types=types["gauge"],
        counter_transform=o["type_string_transforms"].get("counter", "noop"),
        timer_transform=o["type_string_transforms"].get("timer", "noop"),
        gauge_transform=o["type_string_transforms"].get("gauge", "noop"),
        counter_prefix=o["metric_prefix"] + o["counter_prefix"],
        timer_prefix=o["metric_prefix"] + o["timer_prefix"],
        gauge_prefix=o["metric_prefix"] + o["gauge_prefix"],
        buffer_past_ns=o["buffer_past_ns"],
        buffer_future_ns=o["buffer_future_ns"],
        buffer_before_cutover_ns=o["buffer_before_shard_cutover_ns"],
        buffer_after_cutoff_ns=o["buffer_after_shard_cutoff_ns"],
        max_buffer_ns=o["flush_max_buffer_size_ns"],
        forwarding_max_single_delay_ns=o["forwarding"]["max_single_delay_ns"],
        forwarding_max_const_delay_ns=o["forwarding"]["max_const_delay_ns"],
        entry_ttl_ns=o["entry_ttl_ns"],
        discard_nan=o["discard_nan"],
        add_to_reset=o["add_to_reset"],
        max_timer_batch_size_per_write=o["max_timer_batch_size_per_write"],
        values_per_metric_limit_per_second=o["write_values_per_metric_limit_per_second"],
        new_metric_limit_per_shard_per_second=o["write_new_metric_limit_per_shard_per_second"],
        new_metric_no_limit_warmup_ns=o["write_new_metric_no_limit_warmup_ns"],
    )


def bits_of(value: float) -> str:
    """Comparable form of a value on the wire, which knows one zero only; every NaN is alike."""
    return "nan" if np.isnan(value) else f"{int(np.float64(0.0 if value == 0 else value).view(np.uint64)):016x}"


class Player:
    """One engine with one supervisor, which is leader all the time."""

    def __init__(self, script: Vector) -> None:
        o = self.options = script["options"]
        self.settings = engine_options(o)
        self.engine = Engine(self.settings, max_series=1 << 12)
        owned = [ipc.OwnedShard(s, o["shard_cutover_ns"], o["shard_cutoff_ns"]) for s in range(o["num_shards"])]
        self.shards = [shard.id for shard in owned]
        self.engine.set_shards(ipc.Shards(o["num_shards"], TOPIC_SHARDS, owned), 0)
        self.flushing = Flushing(
            ScheduleOptions(
                timed_delay_ns=self.settings.timing.timed_delay_ns,
                forwarding_delay_ns=self.settings.forwarding_delay_ns,
                max_jitter_ns=None,
                timed_offset=o["timed_metrics_flush_offset_enabled"],
                max_buffer_ns=o["flush_max_buffer_size_ns"],
            )
        )
        self.plain = ReferenceEngine(self.settings, owned)
        self.plain_outputs: list[tuple[Any, ...]] = []
        self.plain_forwarded: list[bytes] = []
        self.flushing.worker_up(0, 1, owned)
        self.flushing.lead(ShardSetFlushTimes(), 0)
        times = [event["at"] for event in script["events"]]
        self.steps_back = times != sorted(times)
        self.lists: list[ListId] = []
        self.ids = itertools.count(1)
        self.outputs: list[tuple[Any, ...]] = []
        self.forwarded: list[tuple[Any, ...]] = []
        self.flush_times: dict[int, ShardSetFlushTimes] = {}
        """By flush event."""

    def add(self, message: bytes, number: int, at: int) -> str:
        frame = frame_of(message)
        result = self.engine.ingest(np.frombuffer(frame, np.uint8), np.array([len(frame)]), at)
        self.plain.add_batch([message], at)
        assert result.messages == 1
        assert len(result.acks) == result.ack_sizes.sum() > 4
        lists = self.engine.new_lists()
        self.lists += sorted({n.list_id for n in lists} - {*self.lists})
        self._answer(self.flushing.new_lists(0, lists, at), number, [], [])
        passed = self.engine.take_passthrough()
        if passed is not None:
            rows = final_rows(passed, number)
            self.outputs += rows
            self.plain_outputs += rows
        errors = [text for text, _ in self.engine.recent_errors]
        self.engine.recent_errors.clear()
        return errors[0] if errors else ""

    def flush(self, number: int, at: int) -> None:
        outputs: list[tuple[Any, ...]] = []
        forwarded: list[bytes] = []
        if self.options["flush_mode"] == "direct":
            self._flush_all(number, at, outputs, forwarded)
        else:
            while sends := self.flushing.tick(at):
                self._answer(sends, number, outputs, forwarded, at)
            if self.flushing.save_due(at):
                message = self.flushing.message(self.shards)
                self._answer(self.flushing.saved(message, at), number, outputs, forwarded, at)
            self.flush_times[number] = self.flushing.times.message(self.shards)
        self.outputs += sorted(outputs, key=lambda row: row[1:4])
        for message in sorted(forwarded, key=forwarded_order):
            said = self.add(message, number, at)
            self.forwarded.append((number, message, said))

    def _flush_all(self, number: int, at: int, outputs: list[tuple[Any, ...]], forwarded: list[bytes]) -> None:
        delay = self.flushing.schedule.options.delay_ns
        o = self.options
        for list_id in list(self.lists):
            bounds = [ipc.ShardBounds([], at - delay(list_id), o["shard_cutover_ns"], o["shard_cutoff_ns"])]
            command = ipc.Flush(next(self.ids), list_id, emit=True, bounds=bounds)
            self._run(command, number, at, outputs, forwarded)

    def _answer(
        self, sends: list[Send], number: int, outputs: list[tuple[Any, ...]], forwarded: list[bytes], at: int = 0
    ) -> None:
        """Does what the supervisor asks of the worker, and tells it the answers."""
        for send in sends:
            command = ipc.decode_to_worker(ipc.encode(ipc.Order(at, send.command)))
            assert isinstance(command, ipc.Order)
            order = command.command
            if isinstance(order, ipc.Commit):
                if not self.steps_back:
                    self.engine.commit(order)
            elif isinstance(order, ipc.Reopen):
                self.engine.reopen(order)
                self._answer(self.flushing.last(0, order.id, at), number, outputs, forwarded, at)
            elif isinstance(order, ipc.Flush):
                for answer in self._run(order, number, at, outputs, forwarded):
                    if answer.values and (part := self.flushing.part(0, answer)):
                        self.flushing.done(answer.id, part)
                self._answer(self.flushing.last(0, order.id, at), number, outputs, forwarded, at)

    def _run(
        self, command: ipc.Flush, number: int, at: int, outputs: list[tuple[Any, ...]], forwarded: list[bytes]
    ) -> list[ipc.Flushed]:
        answers = []
        rows, messages = self.plain.flush(command)
        self.plain_outputs += [(number, i.hex(), *row, note.hex(), traffic) for i, *row, note, traffic in rows]
        self.plain_forwarded += messages
        for part in self.engine.flush(command, at):
            batch = part.batch
            n = 0 if batch is None else len(batch)
            names = [] if batch is None else list(batch.policy_names)
            answers.append(ipc.Flushed(command.id, part.last, n, part.forwarded, names, part.discarded))
            if batch is None:
                continue
            if part.forwarded:
                for k in range(n):
                    message = batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes()
                    metric = codec.decode_metric(message)
                    assert batch.shards[k] == shard_of(metric.id, self.options["num_shards"])
                    forwarded.append(message)
            else:
                outputs += final_rows(batch, number)
        return answers


def frame_of(message: bytes) -> bytes:
    """An m3msg frame with that value."""
    size = b"" if not message else varint(len(message))
    body = b"\x0a\x00" + (b"\x12" + size + message if message else b"")
    return len(body).to_bytes(4, "big") + body


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def final_rows(batch: Any, number: int) -> list[tuple[Any, ...]]:
    rows = []
    for k in range(len(batch)):
        m = codec.decode_aggregated(batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes())
        assert batch.policy_names[batch.policies[k]] == str(m.storage_policy)
        assert batch.shards[k] == shard_of(m.id, TOPIC_SHARDS)
        rows.append(
            (
                number,
                m.id.hex(),
                m.time_ns,
                str(m.storage_policy),
                bits_of(m.value),
                m.annotation.hex(),
                m.traffic_types,
            )
        )
    return rows


def forwarded_order(message: bytes) -> tuple[Any, ...]:
    m = codec.decode_metric(message)
    assert isinstance(m, codec.ForwardedMetricWithMetadata)
    return (m.id.hex(), m.time_ns, m.metadata.source_id, message.hex())


def comparable(message: bytes, odd: set[bytes]) -> str:
    """The bytes of a forwarded metric, every NaN alike, without its values if it is one of ``odd``."""
    m = codec.decode_metric(message)
    assert isinstance(m, codec.ForwardedMetricWithMetadata)
    assert codec.encode_metric(m) == message
    if m.id in odd:
        m = msgspec.structs.replace(m, values=(), prev_values=(float(len(m.values)),))
    values, previous = (tuple(math.nan if math.isnan(x) else x for x in row) for row in (m.values, m.prev_values))
    return codec.encode_metric(msgspec.structs.replace(m, values=values, prev_values=previous)).hex()


def expected_outputs(script: Vector) -> list[tuple[Any, ...]]:
    return [
        (o["event"], o["id"], o["time"], o["policy"], bits_of(from_bits(o["bits"])), o["annotation"], o["routing"])
        for o in script["outputs"]
    ]


TEXTS = {
    "decode": "message cannot be decoded",
    "datapoint for aggregation too far in future": "too far in the future",
    "datapoint for aggregation too far in past": "too far in the past",
    "datapoint for aggregation forwarded too late": "arrived too late",
    "counters do not support": "only gauges support updating values",
    "timers do not support": "only gauges support updating values",
    "invalid aggregation types": "invalid aggregation types",
}
"""How M3's error texts begin that differ from ours in more than what they name."""


def expected_error(text: str) -> str:
    if "derivative order is" in text:
        return "transformation derivative order is higher than supported 1"
    first = text.split("\n", maxsplit=1)[0]
    return next((ours for theirs, ours in TEXTS.items() if first.startswith(theirs)), first)


def inexact(script: Vector) -> set[bytes]:
    """Ids of timers whose quantiles M3 does not answer with the nearest rank, and of rollups of them.

    That is where the list of quantiles is not ascending, where a sample is NaN, and where two quantiles fall on one sample
    (docs/m3/metrics.md, where quantiles are not exact).
    """
    ids: set[bytes] = set()
    samples: dict[bytes, int] = {}
    types = types_options(engine_options(script["options"]))
    for metric in metrics(script):
        word = [p.aggregation_id for stage in getattr(metric, "metadatas", ()) for p in stage.pipelines]
        if isinstance(metric, codec.ForwardedMetricWithMetadata | codec.TimedMetricWithMetadata):
            word = [metric.metadata.aggregation_id]
        kind = getattr(metric, "metric_type", MetricType.TIMER)
        if kind is not MetricType.TIMER or isinstance(metric, codec.CounterWithMetadatas | codec.GaugeWithMetadatas):
            continue
        values = getattr(metric, "values", (getattr(metric, "value", 0.0),))
        for one in word:
            quantiles = quantiles_of(types_of(types, one))
            if list(quantiles) != sorted(quantiles) or (quantiles and any(map(math.isnan, values))):
                ids.add(metric.id)
            samples[metric.id] = samples.get(metric.id, 0) + len(values)
            for n in range(4, samples[metric.id] + 1):
                if len({math.ceil(q * n) for q in quantiles}) < len(quantiles):
                    ids.add(metric.id)
    while True:
        more = {rollup for metric in metrics(script) if metric.id in ids for rollup in rollups_of(metric)} - ids
        if not more:
            return ids
        ids |= more


def types_of(types: TypesOptions, word: int) -> tuple[AggregationType, ...]:
    try:
        return types.types_of(MetricType.TIMER, word)
    except MetricsError:
        return ()


def metrics(script: Vector) -> list[codec.Metric]:
    found = []
    for message in [e["msg"] for e in script["events"] if e["op"] == "add"] + [f["msg"] for f in script["forwarded"]]:
        try:
            found.append(codec.decode_metric(bytes.fromhex(message)))
        except MetricsError:
            continue
    return found


def rollups_of(metric: codec.Metric) -> set[bytes]:
    pipelines = [p.pipeline for stage in getattr(metric, "metadatas", ()) for p in stage.pipelines]
    if isinstance(metric, codec.ForwardedMetricWithMetadata):
        pipelines = [metric.metadata.pipeline]
    return {op.id for pipeline in pipelines for op in pipeline if isinstance(op, RollupOp)}


def replaced(script: Vector) -> bool:
    """Whether aggregations of a metric are replaced: by other metadata, or because the metric expired."""
    seen: dict[tuple[Any, ...], Any] = {}
    for metric in metrics(script):
        stages = getattr(metric, "metadatas", None)
        key = (type(metric), getattr(metric, "metric_type", 0), metric.id)
        if stages is not None and seen.setdefault(key, stages) != stages:
            return True
    return any(event["op"] == "tick" for event in script["events"])


def compare(script: Vector, got: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]]) -> None:
    """Outputs against M3's, but for what the rules above name."""
    odd = inexact(script)
    rows = [[row for row in side if not any(ident.hex() in row[1] for ident in odd)] for side in (got, wanted)]
    if replaced(script):
        rows = [sorted(side) for side in rows]
    assert rows[0] == rows[1]


def compare_with_plain(player: Player, odd: set[bytes]) -> None:
    """What M3 does not tell of the ids ``odd``."""

    def of_odd(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return sorted((*r[:4], r[4].lower(), *r[5:]) for r in rows if any(ident.hex() in r[1] for ident in odd))

    assert of_odd(player.outputs) == of_odd(player.plain_outputs)
    sides = ([m for _, m, _ in player.forwarded], player.plain_forwarded)
    assert sorted(comparable(m, set()) for m in sides[0]) == sorted(comparable(m, set()) for m in sides[1])


@pytest.mark.parametrize("script", [pytest.param(s, id=s["name"]) for s in SCRIPTS])
def test_script(script: Vector) -> None:
    player = Player(script)
    said = []
    wanted = []
    ticks = []
    for number, event in enumerate(script["events"]):
        if event["op"] == "add":
            said.append((number, player.add(bytes.fromhex(event["msg"]), number, event["at"])))
            wanted.append((number, expected_error(event["err"])))
        elif event["op"] == "flush":
            player.flush(number, event["at"])
        else:
            before = player.engine.stats()[0]
            player.engine.expire(event["at"])
            player.plain.expire(event["at"])
            counters, gauges, _ = player.engine.stats()
            kinds = ("standard", "forwarded", "timed")
            names = [f"tick.expired-entries{{metric-type={kind}}}" for kind in kinds]
            active = [gauges[f"tick.active-entries{{metric-type={kind}}}"] for kind in kinds]
            expired = [counters[name] - before[name] for name in names]
            ticks.append((active, expired, event["active_entries"], event["expired_entries"]))
    assert said == wanted
    assert [t[:2] for t in ticks] == [t[2:] for t in ticks]
    compare(script, player.outputs, expected_outputs(script))
    odd = inexact(script)
    if odd:
        compare_with_plain(player, odd)
    assert [(number, comparable(message, odd)) for number, message, _ in player.forwarded] == [
        (f["event"], comparable(bytes.fromhex(f["msg"]), odd)) for f in script["forwarded"]
    ]
    assert [error for *_, error in player.forwarded] == [expected_error(f["err"]) for f in script["forwarded"]]
    for times in script.get("flush_times") or []:
        assert times_of(player.flush_times[times["event"]]) == times["shards"], times["event"]


def times_of(message: ShardSetFlushTimes) -> dict[str, Any]:
    """Flush times as the scripts write them."""

    def text(times: dict[int, Any]) -> dict[str, Any]:
        return {str(k): text(v) if isinstance(v, dict) else v for k, v in times.items()}

    return {
        str(shard): {
            "standard": text(dict(times.standard)),
            "timed": text(dict(times.timed)),
            "forwarded": text(dict(times.forwarded)),
            "tombstoned": times.tombstoned,
        }
        for shard, times in message.by_shard.items()
    }
