"""Accumulators and quantiles against ``golden/engine/aggregations.jsonl`` and ``quantiles.jsonl``.

Quantiles are exact here: the test compares them with an order statistic of its own, and with M3's answer where that is the same by rule
(``exact``). Minimum and maximum leave NaN out, M3 loses samples behind it (docs/compatibility.md).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.golden.vectors import Vector, bits, from_bits, lines, same_bits

from aggregator import ipc
from aggregator.engine import Engine, EngineOptions
from aggregator.engine.tables.grow import addresses, reserve_tables
from aggregator.engine.tables.layout import COUNTER_RECORD, SPEC_EXPENSIVE
from aggregator.engine.windows import records as accumulate
from aggregator.engine.windows import values as values_of
from aggregator.engine.windows.samples import quantile, rank_of, select
from aggregator.lists import KIND_STANDARD, ListId
from m3metrics import codec
from m3metrics.aggregation import AggregationType, compress, parse_type, parse_types
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.policy import StoragePolicy

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def samples_of(vector: Vector) -> list[float]:
    """The listed values, or those of a generator (README of the vectors, "Generators")."""
    generator = vector.get("generator")
    if not generator:
        return [from_bits(b) for b in vector["values_bits"]] if "values_bits" in vector else plain(vector["values"])
    return list(generate(generator["name"], generator["seed"], generator["n"]))


def plain(values: list[Any]) -> list[float]:
    return [float(v.replace("Inf", "inf")) if isinstance(v, str) else float(v) for v in values]


def generate(name: str, seed: int, n: int) -> Iterator[float]:
    x = seed

    def step() -> int:
        nonlocal x
        x = (x * 1103515245 + 12345) % 2**31
        return x

    for i in range(n):
        match name:
            case "uniform":
                yield step() / 2**31 * 1000
            case "int":
                yield float(step() % 1000003)
            case "normal":
                total = 0.0
                for _ in range(12):
                    total += step() / 2**31
                yield (total - 6) * 15 + 100
            case "heavytail":
                yield 1 / (1 - step() / 2**31)
            case "dup10":
                yield float(step() % 10)
            case "sorted":
                yield float(i + 1)
            case "reversed":
                yield float(n - i)
            case "constant":
                yield 4.25
            case "sawtooth":
                yield float(i % 17)
            case "twopoint":
                yield 1e7 if i == n - 1 else 1.0
            case _:
                raise AssertionError(name)


def order_statistic(values: list[float], q: float) -> float:
    """The nearest rank among the values that are numbers; M3 takes the floor of it for up to three (docs/m3/metrics.md, quantiles)."""
    ranked = sorted(v for v in values if not math.isnan(v))
    n = len(ranked)
    if n == 0:
        return 0.0
    return ranked[min(int(q * n), n - 1)] if n <= 3 else ranked[math.ceil(q * n) - 1]


def exact(vector: Vector, quantiles: list[float], values: list[float], q: float) -> bool:
    """Whether M3 answers with the nearest rank (docs/m3/metrics.md, where quantiles are not exact)."""
    n = len(values)
    ranks = {math.ceil(each * n) for each in quantiles}
    return (
        q in quantiles
        and quantiles == sorted(quantiles)
        and vector.get("eps", 0.001) == 0.001
        and n < 499
        and not any(map(math.isnan, values))
        and (n <= 3 or len(ranks) == len(quantiles))
    )


def answer(values: list[float], q: float) -> float:
    """The engine's."""
    ranked = np.array([v for v in values if not math.isnan(v)], np.float64)
    n = len(ranked)
    if n:
        select(ranked, 0, n, rank_of(n, q))
    return float(quantile(ranked, n, q))


def check_quantiles(vector: Vector, values: list[float], outputs: dict[str, Any]) -> int:
    """Compares every quantile that was asked for; returns how many M3 answers alike by rule."""
    alike = 0
    for row in outputs["quantiles"]:
        q = row["q"]
        if q not in vector["quantile_list"]:
            continue
        ours = answer(values, q)
        assert bits(ours) == bits(order_statistic(values, q))
        if exact(vector, vector["quantile_list"], values, q):
            assert bits(ours) == same_bits(row["bits"]), (q, len(values))
            alike += 1
    return alike


def test_streams() -> None:
    alike = 0
    for vector in lines("engine/quantiles.jsonl"):
        if vector["kind"] == "stream":
            alike += check_quantiles(vector, samples_of(vector), vector["outputs"])
        elif vector["kind"] == "stream_interleaved":
            values: list[float] = []
            for step in vector["steps"]:
                values += samples_of(step)
                alike += check_quantiles(vector, values, step["outputs"])
    assert alike > 400


def timers(rows: list[tuple[Vector, list[tuple[list[float], bytes]]]]) -> list[dict[str, tuple[float, bytes]]]:
    """What an engine makes of timers: for each its values by type string, with the annotation."""
    engine = Engine(EngineOptions(num_shards=1, topic_shards=1), max_series=1 << 12)
    engine.set_shards(ipc.Shards(1, 1, [ipc.OwnedShard(0, 0, (1 << 63) - 1)]), 0)
    for number, (vector, batches) in enumerate(rows):
        pipeline = PipelineMetadata(
            aggregation_id=compress(parse_types(vector["types"])),
            storage_policies=(StoragePolicy.parse("10s:2d"),),
        )
        for values, annotation in batches:
            metric = codec.BatchTimerWithMetadatas(
                id=b"%d|" % number,
                values=tuple(values),
                annotation=annotation,
                metadatas=(StagedMetadata(pipelines=(pipeline,)),),
            )
            data = np.frombuffer(frame(codec.encode_metric(metric)), np.uint8)
            engine.ingest(data, np.array([len(data)]), NOW)
    assert engine.recent_errors == []
    found: list[dict[str, tuple[float, bytes]]] = [{} for _ in rows]
    bounds = [ipc.ShardBounds([], NOW + 60 * SECOND, 0, (1 << 63) - 1)]
    for part in engine.flush(ipc.Flush(1, ListId(KIND_STANDARD, 10 * SECOND), True, bounds), NOW):
        batch = part.batch
        for k in range(0 if batch is None else len(batch)):
            assert batch is not None
            m = codec.decode_aggregated(batch.payload[batch.offsets[k] : batch.offsets[k + 1]].tobytes())
            number, _, suffix = m.id.decode().partition("|")
            found[int(number)][suffix] = (m.value, m.annotation)
    return found


def frame(message: bytes) -> bytes:
    size, n = b"", len(message)
    while n > 127:
        size += bytes([n & 127 | 128])
        n >>= 7
    body = b"\x0a\x00\x12" + size + bytes([n]) + message
    return len(body).to_bytes(4, "big") + body


def check_timer(vector: Vector, values: list[float], found: dict[str, tuple[float, bytes]]) -> None:
    number = [v for v in values if not math.isnan(v)]
    for kind in parse_types(vector["types"]):
        wanted = same_bits(vector["values_of"][kind.text]["bits"])
        if kind.quantile is not None:
            ours = order_statistic(values, kind.quantile)
            if exact(vector, vector["quantile_list"], values, kind.quantile):
                assert bits(ours) == wanted
            wanted = bits(ours)
        elif kind in (AggregationType.MIN, AggregationType.MAX) and len(number) < len(values):
            wanted = bits((min if kind is AggregationType.MIN else max)(number, default=math.nan))
        if wanted == "nan":
            assert kind.base_string not in found  # NaN is left out of what is emitted
        else:
            assert zero(bits(found[kind.base_string][0])) == zero(wanted), (kind, vector)


def zero(pattern: str) -> str:
    """The wire knows one zero only."""
    return pattern.replace("8000000000000000", "0000000000000000")


def test_timers_of_quantiles() -> None:
    vectors = [v for v in lines("engine/quantiles.jsonl") if v["kind"] == "timer"]
    rows = [(v, [(samples_of(v), b"")]) for v in vectors]
    for (vector, ((values, _),)), found in zip(rows, timers(rows), strict=True):
        check_timer(vector, values, found)


def test_timers() -> None:
    vectors = [v for v in lines("engine/aggregations.jsonl") if v["kind"] == "timer"]
    rows = [
        (v, [([from_bits(b) for b in op["bits"]], bytes.fromhex(op["annotation"])) for op in v["ops"]]) for v in vectors
    ]
    for (vector, batches), found in zip(rows, timers(rows), strict=True):
        if not batches:
            assert found == {}
            continue
        check_timer(vector, [x for values, _ in batches for x in values], found)
        assert {note for _, note in found.values()} <= {bytes.fromhex(vector["annotation"])}


ACCUMULATED = [v for v in lines("engine/aggregations.jsonl") if v["kind"] != "timer"]


@pytest.fixture(scope="module")
def address() -> tuple[Any, NDArray[np.uint64]]:
    tables = reserve_tables(1)
    return tables, addresses(tables)


def test_counters_and_gauges(address: tuple[Any, NDArray[np.uint64]]) -> None:
    tables, where = address
    t = np.uint64(where.ctypes.data)
    for vector in ACCUMULATED:
        counter = vector["kind"] == "counter"
        accumulate.clear_record(t, 0, 1 if counter else 3)
        flags = SPEC_EXPENSIVE if vector["expensive"] else 0
        for op in vector["ops"]:
            if counter:
                accumulate.add_counter(t, 0, np.int64(op["value"]), flags)
            elif op["op"] == "update":
                accumulate.add_gauge(t, 0, from_bits(op["bits"]), op["t"], 0, flags)
            else:
                accumulate.update_gauge(t, 0, from_bits(op["bits"]), from_bits(op["prev_bits"]), op["t"], flags)
        record = tables.records.view(COUNTER_RECORD)[0] if counter else tables.records[0]
        value = values_of.counter_value if counter else values_of.gauge_value
        for name, wanted in vector["values_of"].items():
            kind = parse_type(name)
            assert bits(float(value(record, int(kind)))) == same_bits(wanted["bits"]), (name, vector)
        if counter:
            names = ("count", "sum", "sum_sq", "min", "max")
            assert [int(record[n]) for n in names] == [vector[n] for n in names]
        elif vector["last_at"] is not None:
            assert record["last_at"] == vector["last_at"]
