"""Messages as the real coordinator took them (golden/coordinator/ingest_to_write.jsonl): acked or not, and what was stored.

The recorded storage was an HTTP receiver or a real M3DB; ours plays both. A recorded series of answers 500, 429, 302 … stands for
a storage that fails that often.

One deviation on purpose: what can never be stored because of what it is, undecodable bytes and ids that are no tag set, M3 leaves
unacked, and we ack it, count it and store nothing (docs/compatibility.md, "What port 7507 acknowledges"). Values without a namespace
are compared while the grace runs for them, in which both leave them unacked.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.golden.vectors import REQUIRED, ROOT

from coordinator.ingest import Ingester, IngestOptions, StoreOutlet
from coordinator.query.graphite.paths import graphite_path
from coordinator.store import Store, StoreError, StoreOptions, WriteBatch, Written, open_store
from m3metrics.policy import StoragePolicy
from m3metrics.series_ids import quoted_id
from m3x.instrument import Registry
from m3x.retry import Backoff

VECTORS = ROOT / "coordinator" / "ingest_to_write.jsonl"

OUTSIDE_RETENTION = {"time 0", "time -5000000000", "time 4102444800000000000", "time 9223372036854775807"}
"""Remote write takes points of any time; we ack them and store nothing, as M3DB does (``too old`` in ``ingest_m3db``)."""

M3DB_BOUNDS = {"too old, existing series", "too far in the future, existing series"}
"""M3DB takes points around now only; we take those within retention and up to an hour ahead. Both ack."""

NOT_OURS = {
    ("ingest_default", "long value 65535"): "the message is not listed",
    ("ingest_m3db", "annotation counter"): "annotations are not stored; the rest of the case is judged",
}

PROM_POLICIES = ("10s:6h", "1m:48h", "1s:1h")
CONFIGS: dict[str, dict[str, Any]] = {
    "ingest_default": {"policies": PROM_POLICIES},
    "ingest_duplicate_endpoints": {"policies": PROM_POLICIES},
    "ingest_blackhole": {"policies": PROM_POLICIES, "blackhole": ("1m:48h", "10s@1m:6h")},
    "ingest_prepend_meta": {
        "policies": PROM_POLICIES,
        "options": StoreOptions(allow_duplicate_tag_names=True, allow_empty_tag_values=True),
    },
    "ingest_m3db": {"policies": ("10s:6h",)},
}
ENDPOINTS = {"agg10s6h": "10s:6h", "agg1m48h": "1m:2d", "agg1s1h": "1s:1h"}


def cases() -> list[Any]:
    if not VECTORS.exists():
        return []
    lines = [json.loads(line) for line in VECTORS.read_text().splitlines()]
    return [pytest.param(one, id=f"{n}-{one['config']}-{one['note']}") for n, one in enumerate(lines, 1)]


def test_the_vectors_are_there() -> None:
    if not VECTORS.exists() and not REQUIRED:
        pytest.skip(f"no golden vectors in {ROOT} (set GOLDEN_DIR)")
    assert {one.values[0]["config"] for one in cases()} == set(CONFIGS)


class Answering:
    """The store behind recorded answers; the last one repeats."""

    def __init__(self, store: Store, answers: list[int]) -> None:
        self.policy_index = store.policy_index
        self._store, self._answers = store, answers

    async def write(self, batch: WriteBatch) -> Written:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer >= 300:
            raise StoreError(f"answered {answer}")
        return await self._store.write(batch)


def never_storable(registry: Registry) -> bool:
    """Whether the message was refused for what it is."""
    dropped = registry.counter("x_metric_dropped", reason="decode-error")
    return dropped + registry.counter("x_ingest_refused", reason="bad-id") > 0


def name_or_hex(text: str) -> bytes:
    return text.encode().decode("unicode_escape").encode("latin-1") if "\\x" in text else text.encode()


def kept_labels(labels: list[list[str]]) -> list[tuple[bytes, bytes]]:
    """What the embedded store has of labels that M3 writes: a tag without a value is none, and of a name the first one stays."""
    tags = [(name_or_hex(name), name_or_hex(value)) for name, value in reversed(labels) if value]
    return sorted(dict(tags).items())


def same_value(stored: float, recorded: float | str) -> bool:
    if recorded == "StaleNaN":
        return struct.pack(">d", stored).hex() == "7ff0000000000002"
    return stored == float(recorded)


@pytest.mark.parametrize("vector", cases())
async def test_as_the_real_coordinator(vector: dict[str, Any], tmp_path: Path, pack: Callable[..., Any]) -> None:
    config = CONFIGS[vector["config"]]
    if not isinstance(vector["message"], str):
        assert (vector["config"], vector["note"]) in NOT_OURS
        return
    policies = [StoragePolicy.parse(text) for text in config["policies"]]
    options = IngestOptions(
        retry=Backoff(0.0, 1.0, 0.0, False),
        max_retries=3,
        no_namespace_grace_ns=2**62,
        blackhole_policies=tuple(StoragePolicy.parse(text) for text in config.get("blackhole", ())),
    )
    now_s = vector.get("base_time_s", 1_700_000_000)
    path = tmp_path / "m.duckdb"
    async with open_store(path, policies, config.get("options"), clock=lambda: now_s * 10**9) as store:
        sink = Answering(store, list(vector.get("storage_responses", [200])))
        registry = Registry()
        ingester = Ingester(StoreOutlet(sink), policies, options, registry.scope("x"))
        acked = await ingester.ingest(*pack([bytes.fromhex(vector["message"])]))
        if never_storable(registry):
            assert (acked.tolist(), vector["acked"]) == ([True], False)
        else:
            assert acked.tolist() == [vector["acked"]]
        found = await store.select([], -(2**60), 2**60)
        if "stored" in vector:
            judge_m3db(vector, found)
        elif vector["write"] is None or not vector["acked"] or vector["note"] in OUTSIDE_RETENTION:
            assert len(found) == 0
        else:
            endpoint = vector["write"]["endpoint"]
            policy = StoragePolicy.parse(ENDPOINTS[endpoint if isinstance(endpoint, str) else endpoint[0]])
            assert found.windows_ms.tolist() == [policy.window_ns // 10**6]
            (series,) = vector["write"]["series"]
            assert found.tags(0) == kept_labels(series["labels"])
            ((value, time_ms),) = series["samples"]
            assert found.time_ms.tolist() == [time_ms]
            assert same_value(found.values[0], value)


def judge_m3db(vector: dict[str, Any], found: Any) -> None:
    """What M3DB returned afterwards for the series."""
    response = vector["stored"]["fetch_response"]
    if vector["note"] in M3DB_BOUNDS:
        return
    if not vector["acked"]:
        assert len(found) == 0
        return
    tags = found.tags(0)
    assert (graphite_path(tags) or quoted_id(tags).decode()) == vector["stored"]["fetched_series_id"]
    if response["code"] == 200:
        (point,) = response["body"]["datapoints"]
        assert found.time_ms[0] // 1000 == point["timestamp"]
        assert found.values.tolist() == [point["value"]]
    else:
        assert found.values.tolist() == [float("inf")]
