"""Whole scripts captured from M3 (golden/engine/scripts.jsonl.gz) against the engine: those that need neither pipelines nor forwarding.

Flushes are done as the scripts' mode ``direct`` describes, or by a small model of M3's leader schedule for mode ``manager``
(reference/aggregator_core.md §8.2).
"""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_frames import frame

from aggregator import ipc
from aggregator.engine import Engine, EngineOptions
from m3metrics import codec
from m3metrics.errors import MetricsError

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[4] / "shared/golden")) / "engine/scripts.jsonl.gz"

QUANTILES_DIFFER = {
    "types_timer_each": "M3 answers a quantile from its neighbour where the list of quantiles is not ascending (metrics.md §15.7)",
    "default_types_custom": "as types_timer_each",
    "timer_nan": "M3 loses samples behind a NaN (metrics.md §15.9); here only the NaN is left out",
}
"""Topics with outputs that are better than M3's on purpose; of these only what is no quantile, minimum or maximum is compared."""


def _comparable(name: str, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    if name.removesuffix(".direct") not in QUANTILES_DIFFER:
        return rows
    kind = [(row, bytes.fromhex(row[1]).rpartition(b".")[2]) for row in rows]
    return [row for row, suffix in kind if suffix[:1] != b"p" and suffix not in (b"median", b"lower", b"upper")]


def _needs_more(script: dict[str, Any]) -> bool:
    """Whether the script uses what the engine refuses: pipelines, forwarded or passthrough metrics, resending."""
    if script["forwarded"]:
        return True
    for event in script["events"]:
        if event["op"] != "add":
            continue
        try:
            metric = codec.decode_metric(bytes.fromhex(event["msg"]))
        except MetricsError:
            continue
        if isinstance(metric, codec.ForwardedMetricWithMetadata | codec.TimedMetricWithStoragePolicy):
            return True
        pipelines = [p for stage in getattr(metric, "metadatas", ()) for p in stage.pipelines]
        if any(p.pipeline or p.resend_enabled for p in pipelines):
            return True
    return False


def _scripts() -> list[Any]:
    if not GOLDEN.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no golden vectors at {GOLDEN}"))]
    with gzip.open(GOLDEN) as lines:
        scripts = [json.loads(line) for line in lines]
    return [pytest.param(s, id=s["name"]) for s in scripts if not _needs_more(s)]


def _options(o: dict[str, Any]) -> EngineOptions:
    types = {
        name: tuple(o["default_aggregation_types"].get(name, "").split(",")) for name in ("counter", "timer", "gauge")
    }
    return EngineOptions(
        num_shards=o["num_shards"],
        topic_shards=16,
        default_storage_policies=tuple(o["default_storage_policies"]),
        default_counter_types=types["counter"] if types["counter"] != ("",) else (),
        default_timer_types=types["timer"] if types["timer"] != ("",) else (),
        default_gauge_types=types["gauge"] if types["gauge"] != ("",) else (),
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
        entry_ttl_ns=o["entry_ttl_ns"],
        discard_nan=o["discard_nan"],
        max_timer_batch_size_per_write=o["max_timer_batch_size_per_write"],
        values_per_metric_limit_per_second=o["write_values_per_metric_limit_per_second"],
        new_metric_limit_per_shard_per_second=o["write_new_metric_limit_per_shard_per_second"],
        new_metric_no_limit_warmup_ns=o["write_new_metric_no_limit_warmup_ns"],
    )


class _Schedule:
    """When M3's leader flushes which list id, with jitter off: a heap of buckets in the order of their times."""

    def __init__(self, past_ns: int, timed_offset: bool) -> None:
        self._past_ns = past_ns
        self._timed_offset = timed_offset
        self._offsets: dict[tuple[int, int], int] = {}
        self._due: dict[tuple[int, int], int] = {}

    def delay(self, key: tuple[int, int]) -> int:
        return 0 if key[0] == ipc.KIND_STANDARD else self._past_ns + key[1]

    def joined(self, key: tuple[int, int], now_ns: int) -> None:
        start = _truncate(now_ns, key[1])
        if key not in self._offsets:
            fixed = key[0] == ipc.KIND_TIMED and self._timed_offset
            self._offsets[key] = self.delay(key) % key[1] if fixed else now_ns - start
        self._due[key] = start + self._offsets[key]

    def take(self, now_ns: int) -> tuple[int, int] | None:
        due = [(at, key) for key, at in self._due.items() if at <= now_ns]
        if not due:
            return None
        _, key = min(due)
        self._due[key] += key[1]
        return key

    def known(self) -> list[tuple[int, int]]:
        return sorted(self._due)


def _truncate(time_ns: int, resolution_ns: int) -> int:
    return time_ns - (time_ns + 62_135_596_800 * 10**9) % resolution_ns


class _Player:
    def __init__(self, script: dict[str, Any]) -> None:
        o = script["options"]
        self.options = o
        self.engine = Engine(_options(o), max_series=1 << 12)
        owned = [ipc.OwnedShard(s, o["shard_cutover_ns"], o["shard_cutoff_ns"]) for s in range(o["num_shards"])]
        self.engine.set_shards(ipc.Shards(o["num_shards"], 16, owned), 0)
        self.schedule = _Schedule(o["buffer_past_ns"], o["timed_metrics_flush_offset_enabled"])
        self.outputs: list[tuple[Any, ...]] = []

    def add(self, event: dict[str, Any]) -> str:
        data = np.frombuffer(frame(bytes.fromhex(event["msg"])), np.uint8)
        result = self.engine.ingest(data, np.array([len(data)]), event["at"])
        assert result.messages == 1
        assert len(result.acks) == result.ack_sizes.sum() > 4
        for new in self.engine.new_lists():
            self.schedule.joined((new.kind, new.resolution_ns), event["at"])
        errors = [text for text, _ in self.engine.recent_errors]
        self.engine.recent_errors.clear()
        return errors[0] if errors else ""

    def flush(self, number: int, at: int) -> None:
        produced: list[tuple[Any, ...]] = []
        if self.options["flush_mode"] == "direct":
            for key in self.schedule.known():
                self._flush_list(key, number, at, produced)
        else:
            while (key := self.schedule.take(at)) is not None:
                self._flush_list(key, number, at, produced)
        self.outputs += sorted(produced, key=lambda row: row[1:4])

    def _flush_list(self, key: tuple[int, int], number: int, at: int, produced: list[tuple[Any, ...]]) -> None:
        bounds = [
            ipc.ShardBounds(
                [], at - self.schedule.delay(key), self.options["shard_cutover_ns"], self.options["shard_cutoff_ns"]
            )
        ]
        for part in self.engine.flush(ipc.Flush(1, key[0], key[1], 0, True, bounds), at):
            batch = part.batch
            for k in range(0 if batch is None else len(batch)):
                m = codec.decode_aggregated(batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes())
                assert batch.policy_names[batch.policies[k]] == str(m.storage_policy)
                value = "NaN" if m.value != m.value else np.float64(m.value).view(np.uint64)
                row = (number, m.id.hex(), m.time_ns, str(m.storage_policy), value, m.annotation.hex(), m.traffic_types)
                produced.append(row)


def _expected(script: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows = []
    for o in script["outputs"]:
        value = "NaN" if o["value"] == "NaN" else np.uint64(int(o["bits"], 16))
        rows.append((o["event"], o["id"], o["time"], o["policy"], value, o["annotation"], o["routing"]))
    return rows


@pytest.mark.parametrize("script", _scripts())
def test_script(script: dict[str, Any]) -> None:
    player = _Player(script)
    for number, event in enumerate(script["events"]):
        if event["op"] == "add":
            said = player.add(event)
            wanted = event["err"].split("\n")[0]
            if wanted.startswith("decode"):
                wanted = "message cannot be decoded"
            if wanted.startswith("datapoint for aggregation"):
                wanted = "too far in the " + ("future" if "too far in future" in wanted else "past")
            assert (said == wanted) if not said else wanted.startswith(said), (number, said, event)
        elif event["op"] == "flush":
            player.flush(number, event["at"])
        else:
            player.engine.expire(event["at"])
            gauges = player.engine.stats()[1]
            active = [gauges[f"tick.active-entries{{metric-type={kind}}}"] for kind in ("standard", "timed")]
            assert active == [event["active_entries"][0], event["active_entries"][2]]
    name = script["name"]
    assert _comparable(name, player.outputs) == _comparable(name, _expected(script))
