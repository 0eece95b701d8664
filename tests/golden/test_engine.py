"""Codecs, suffixes, shards and streams against ``golden/engine`` (its README tells the meaning of every field)."""

from typing import Any

import numpy as np
import pytest
from tests.golden.vectors import Vector, bits, cases, from_bits, same_bits

from m3metrics import aggregation, codec, kernels, metric, policy
from m3metrics.aggregation import AggregationType, TypesOptions
from m3metrics.codec.messages import METRIC_WITH_METADATAS
from m3metrics.errors import CodecError, PolicyError
from m3metrics.metadata import ForwardMetadata, PipelineMetadata, StagedMetadata, StagedMetadatas, TimedMetadata
from m3metrics.metric import MetricType
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3metrics.rows import AGGREGATED_ROW, METRIC_ROW, METRIC_TEMPLATE, ROW_ODD, ROW_OK
from m3metrics.shard import shard_of
from m3x.protobuf import unmarshal

CODEC = cases("engine/codec.jsonl", "case")
VALID = [case for case in CODEC if not case.values[0]["err"]]
ENCODED = [case for case in VALID if "/" not in case.values[0]["case"]]
AGGREGATED = [case for case in ENCODED if case.values[0]["message"] == "AggregatedMetric"]
SAMPLES = [case for case in ENCODED if case.values[0]["case"] in ("counter", "batch_timer", "gauge", "timed_staged")]

# What the vectors call the payloads, and ours.
NAMES = {
    codec.CounterWithMetadatas: "counter",
    codec.BatchTimerWithMetadatas: "batch_timer",
    codec.GaugeWithMetadatas: "gauge",
    codec.ForwardedMetricWithMetadata: "forwarded",
    codec.TimedMetricWithMetadata: "timed",
    codec.TimedMetricWithMetadatas: "timed_staged",
    codec.TimedMetricWithStoragePolicy: "passthrough",
    codec.AggregatedMetric: "aggregated",
}


def decode(vector: Vector) -> codec.Metric | codec.AggregatedMetric:
    data = bytes.fromhex(vector["hex"])
    return codec.decode_aggregated(data) if vector["message"] == "AggregatedMetric" else codec.decode_metric(data)


def policy_fields(value: StoragePolicy) -> tuple[str, dict[str, int]]:
    return str(value), {
        "precision_ns": value.precision_ns,
        "retention_ns": value.retention_ns,
        "window_ns": value.window_ns,
    }


def pipeline_fields(pipeline: AppliedPipeline) -> list[dict[str, Any]]:
    return [
        {"transformation": op.type.text}
        if isinstance(op, TransformationOp)
        else {"rollup": {"id": op.id.hex(), "aggregation_id": op.aggregation_id}}
        for op in pipeline
    ]


def staged_fields(metadatas: StagedMetadatas) -> list[dict[str, Any]]:
    return [
        {
            "cutover_nanos": stage.cutover_ns,
            "tombstoned": stage.tombstoned,
            "pipelines": [
                {
                    "aggregation_id": p.aggregation_id,
                    "drop_policy": p.drop_policy,
                    "pipeline": pipeline_fields(p.pipeline),
                    "resend_enabled": p.resend_enabled,
                    "storage_policies": [policy_fields(x)[0] for x in p.storage_policies],
                    "storage_policies_raw": [policy_fields(x)[1] for x in p.storage_policies],
                    "traffic_types": p.traffic_types,
                }
                for p in stage.pipelines
            ],
        }
        for stage in metadatas
    ]


def fields_of(value: codec.Metric | codec.AggregatedMetric) -> dict[str, Any]:
    """``value`` as the vectors show it: bit patterns in place of numbers."""
    out: dict[str, Any] = {"type": NAMES[type(value)], "id": value.id.hex(), "annotation": value.annotation.hex()}
    if isinstance(value, codec.CounterWithMetadatas):
        out["value"] = value.value
    elif isinstance(value, codec.BatchTimerWithMetadatas | codec.ForwardedMetricWithMetadata):
        out["bits"] = [bits(x) for x in value.values]
    else:
        out["bits"] = bits(value.value)
    if isinstance(value, codec.CounterWithMetadatas | codec.BatchTimerWithMetadatas | codec.GaugeWithMetadatas):
        out["client_time_nanos"] = value.client_time_ns
    else:
        out["time_nanos"] = value.time_ns
        if not isinstance(value, codec.AggregatedMetric):
            out["metric_type"] = metric.metric_type_text(value.metric_type)
    if isinstance(value, codec.ForwardedMetricWithMetadata):
        out["prev_bits"] = [bits(x) for x in value.prev_values]
        out["version"] = value.version
        out["pipeline"] = pipeline_fields(value.metadata.pipeline)
        out["source_id"] = value.metadata.source_id
        out["num_forwarded_times"] = value.metadata.num_forwarded_times
        out["resend_enabled"] = value.metadata.resend_enabled
    if isinstance(value, codec.ForwardedMetricWithMetadata | codec.TimedMetricWithMetadata):
        out["aggregation_id"] = value.metadata.aggregation_id
        out["traffic_types"] = value.metadata.traffic_types
        out["storage_policy"], out["storage_policy_raw"] = policy_fields(value.metadata.storage_policy)
    elif isinstance(value, codec.TimedMetricWithStoragePolicy | codec.AggregatedMetric):
        out["traffic_types"] = value.traffic_types
        out["storage_policy"], out["storage_policy_raw"] = policy_fields(value.storage_policy)
    else:
        out["metadatas"] = staged_fields(value.metadatas)
    if isinstance(value, codec.AggregatedMetric):
        out["metric_type_number"] = value.metric_type
        out["encode_nanos"] = value.encode_ns
    return out


def comparable(fields: dict[str, Any]) -> dict[str, Any]:
    """The vector's fields without the decimal numbers that the bit patterns say better."""
    out = {key: value for key, value in fields.items() if key not in ("values", "prev_values")}
    if "bits" in out:
        out.pop("value", None)
    for key in ("bits", "prev_bits"):
        if key in out:
            out[key] = same_bits(out[key]) if isinstance(out[key], str) else [same_bits(x) for x in out[key]]
    return out


@pytest.mark.parametrize("vector", CODEC)
def test_decode(vector: Vector) -> None:
    if vector["err"]:
        with pytest.raises(CodecError) as caught:
            decode(vector)
        assert (caught.value.stage, str(caught.value)) == (vector["err_stage"], vector["err_text"])
    else:
        assert fields_of(decode(vector)) == comparable(vector["fields"])


def policies_from(texts: list[dict[str, int]]) -> tuple[StoragePolicy, ...]:
    return tuple(StoragePolicy(x["window_ns"], x["precision_ns"], x["retention_ns"]) for x in texts)


def pipeline_from(ops: list[dict[str, Any]]) -> AppliedPipeline:
    transformations = {kind.text: kind for kind in TransformationType}
    return tuple(
        TransformationOp(transformations[op["transformation"]])
        if "transformation" in op
        else RollupOp(bytes.fromhex(op["rollup"]["id"]), op["rollup"]["aggregation_id"])
        for op in ops
    )


def staged_from(stages: list[dict[str, Any]]) -> StagedMetadatas:
    return tuple(
        StagedMetadata(
            cutover_ns=stage["cutover_nanos"],
            tombstoned=stage["tombstoned"],
            pipelines=tuple(
                PipelineMetadata(
                    aggregation_id=p["aggregation_id"],
                    storage_policies=policies_from(p["storage_policies_raw"]),
                    pipeline=pipeline_from(p["pipeline"]),
                    drop_policy=p["drop_policy"],
                    resend_enabled=p["resend_enabled"],
                    traffic_types=p["traffic_types"],
                )
                for p in stage["pipelines"]
            ),
        )
        for stage in stages
    )


def metric_from(fields: dict[str, Any]) -> codec.Metric | codec.AggregatedMetric:
    """The metric that ``fields`` describe."""
    kind = next(cls for cls, name in NAMES.items() if name == fields["type"])
    known: dict[str, Any] = {"id": bytes.fromhex(fields["id"]), "annotation": bytes.fromhex(fields["annotation"])}
    if fields["type"] == "counter":
        known["value"] = fields["value"]
    elif isinstance(fields["bits"], list):
        known["values"] = tuple(map(from_bits, fields["bits"]))
    else:
        known["value"] = from_bits(fields["bits"])
    if "client_time_nanos" in fields:
        known["client_time_ns"] = fields["client_time_nanos"]
    if "time_nanos" in fields:
        known["time_ns"] = fields["time_nanos"]
    if "metric_type" in fields:
        known["metric_type"] = MetricType[fields["metric_type"].upper()]
    if "metadatas" in fields:
        known["metadatas"] = staged_from(fields["metadatas"])
    elif fields["type"] in ("passthrough", "aggregated"):
        known["storage_policy"] = policies_from([fields["storage_policy_raw"]])[0]
        known["traffic_types"] = fields["traffic_types"]
    else:
        shared = {
            "aggregation_id": fields["aggregation_id"],
            "storage_policy": policies_from([fields["storage_policy_raw"]])[0],
            "traffic_types": fields["traffic_types"],
        }
        if fields["type"] == "timed":
            known["metadata"] = TimedMetadata(**shared)
        else:
            known["metadata"] = ForwardMetadata(
                **shared,
                pipeline=pipeline_from(fields["pipeline"]),
                source_id=fields["source_id"],
                num_forwarded_times=fields["num_forwarded_times"],
                resend_enabled=fields["resend_enabled"],
            )
            known["prev_values"] = tuple(map(from_bits, fields["prev_bits"]))
            known["version"] = fields["version"]
    if fields["type"] == "aggregated":
        known["metric_type"] = fields["metric_type_number"]
        known["encode_ns"] = fields["encode_nanos"]
    return kind(**known)


def client_time(vector: Vector) -> int:
    """The client time that a batch timer's bytes carry though no decoder shows it."""
    values = unmarshal(METRIC_WITH_METADATAS, bytes.fromhex(vector["hex"]))
    time_ns: int = values["batch_timer_with_metadatas"]["batch_timer"].get("client_time_nanos", 0)
    return time_ns


@pytest.mark.parametrize("vector", ENCODED)
def test_encode(vector: Vector) -> None:
    fields = vector["fields"]
    if fields["type"] == "batch_timer":
        fields = fields | {"client_time_nanos": client_time(vector)}
    value = metric_from(fields)
    written = (
        codec.encode_aggregated(value) if isinstance(value, codec.AggregatedMetric) else codec.encode_metric(value)
    )
    assert written.hex() == vector["hex"]


def row_of(vector: Vector) -> tuple[np.void, bytes]:
    """What the kernel makes of the bytes, with other bytes around them; and all the bytes."""
    data = bytes.fromhex(vector["hex"])
    whole = b"\xff" * 3 + data + b"\x00" * 9
    buffer = np.frombuffer(whole, np.uint8)
    starts = np.array([3])
    ends = np.array([3 + len(data)])
    if vector["message"] == "AggregatedMetric":
        rows = np.zeros(1, AGGREGATED_ROW)
        odd = kernels.decode_aggregated(buffer, starts, ends, 1, rows)
    else:
        rows = np.zeros(1, METRIC_ROW)
        odd = kernels.decode_metrics(buffer, starts, ends, 1, rows)
    assert odd == (rows[0]["status"] == ROW_ODD)
    return rows[0], whole


def row_fields(row: np.void, whole: bytes) -> dict[str, Any]:
    """A metric row as the vectors show it; metadata is read by the plain codec."""

    def part(name: str) -> bytes:
        return whole[int(row[f"{name}_at"]) :][: int(row[f"{name}_size"])]

    def doubles(name: str) -> tuple[float, ...]:
        return tuple(np.frombuffer(part(name), "<f8").tolist())

    kind = int(row["payload"])
    known: dict[str, Any] = {"id": part("id"), "annotation": part("annotation")}
    if kind in (1, 3):
        known["client_time_ns"] = int(row["time_ns"])
    if kind >= 4:
        known["time_ns"] = int(row["time_ns"])
        known["metric_type"] = MetricType(int(row["metric_type"]))
    if kind in (1, 2, 3):
        assert row["metric_type"] == kind
    if kind == 2:
        assert row["time_ns"] == 0
    if kind == 1:
        known["value"] = int(row["count"])
    elif kind in (2, 4):
        known["values"] = doubles("values")
    else:
        known["value"] = float(row["value"])
    if kind in (1, 2, 3, 6):
        known["metadatas"] = codec.decode_staged_metadatas(part("meta"))
    elif kind == 4:
        known["prev_values"] = doubles("previous")
        known["version"] = int(row["version"])
        known["metadata"] = codec.decode_forward_metadata(part("meta"))
    elif kind == 5:
        known["metadata"] = codec.decode_timed_metadata(part("meta"))
    else:
        known["storage_policy"], known["traffic_types"] = codec.decode_passthrough_policies(part("meta"))
    return fields_of(list(NAMES)[kind - 1](**known))


def aggregated_row_fields(row: np.void, whole: bytes) -> dict[str, Any]:
    def part(name: str) -> bytes:
        return whole[int(row[f"{name}_at"]) :][: int(row[f"{name}_size"])]

    return fields_of(
        codec.AggregatedMetric(
            id=part("id"),
            time_ns=int(row["time_ns"]),
            value=float(row["value"]),
            annotation=part("annotation"),
            storage_policy=codec.decode_storage_policy(part("policy")),
            metric_type=int(row["metric_type"]),
            traffic_types=int(row["traffic_types"]),
            encode_ns=int(row["encode_ns"]),
        )
    )


@pytest.mark.parametrize("vector", CODEC)
def test_decode_by_kernel(vector: Vector) -> None:
    row, whole = row_of(vector)
    size = len(bytes.fromhex(vector["hex"]))
    assert (row["message_at"], row["message_size"]) == (3, size)
    if row["status"] == ROW_ODD:
        assert "/" in vector["case"] or vector["err"], "a shape that the encoder writes must not be odd"
        return
    assert row["status"] == ROW_OK
    show = aggregated_row_fields if vector["message"] == "AggregatedMetric" else row_fields
    if vector["err"]:
        # What the row tells is right; its metadata is broken, which is found when that is read.
        with pytest.raises(CodecError) as caught:
            show(row, whole)
        assert (caught.value.stage, str(caught.value)) == (vector["err_stage"], vector["err_text"])
    else:
        assert show(row, whole) == comparable(vector["fields"])


@pytest.mark.parametrize("vector", AGGREGATED)
def test_encode_aggregated_by_kernel(vector: Vector) -> None:
    fields = vector["fields"]
    ident = np.frombuffer(b"?" + bytes.fromhex(fields["id"]), np.uint8)
    cut = (len(ident) - 1) // 3
    annotation = np.frombuffer(b"?" + bytes.fromhex(fields["annotation"]), np.uint8)
    policies = codec.aggregated_policy_fields(policies_from([fields["storage_policy_raw"]])[0], fields["traffic_types"])
    tail = np.frombuffer(policies, np.uint8)
    bound = kernels.aggregated_size_bound(len(ident) - 1, len(annotation) - 1, len(tail))
    out = np.full(7 + bound, 0xEE, np.uint8)
    end = kernels.encode_aggregated(
        out, 7, fields["metric_type_number"],
        ident, 1, cut, ident, 1 + cut, cut, ident, 1 + 2 * cut, len(ident) - 1 - 2 * cut,
        fields["time_nanos"], from_bits(fields["bits"]),
        annotation, 1, len(annotation) - 1, tail, 0, len(tail),
    )  # fmt: skip
    if fields["encode_nanos"]:
        pytest.fail("the encoder leaves encode_nanos out: this vector cannot be written by it")
    assert out[7:end].tobytes().hex() == vector["hex"]
    assert set(out[:7].tolist()) == {0xEE}
    assert end <= len(out)


@pytest.mark.parametrize("vector", SAMPLES)
def test_encode_sample_by_kernel(vector: Vector) -> None:
    fields = vector["fields"]
    ident, annotation = bytes.fromhex(fields["id"]), bytes.fromhex(fields["annotation"])
    metadata = codec.encode_staged_metadatas(staged_from(fields["metadatas"]))
    arena = np.frombuffer(ident + metadata + annotation + b"?", np.uint8)
    template = np.zeros(1, METRIC_TEMPLATE)
    at = len(ident) + len(metadata)
    number = MetricType[fields["metric_type"].upper()] if "metric_type" in fields else 0
    template[0] = (0, len(ident), len(ident), len(metadata), at, len(annotation), number, 0)
    which, offsets = np.zeros(1, np.int64), np.full(2, -1, np.int64)
    values = np.array([from_bits(x) for x in fields["bits"]] if isinstance(fields.get("bits"), list) else [], float)
    out = np.zeros(kernels.samples_size_bound(template, which) + values.nbytes, np.uint8)
    shared = (arena, template, which)
    if fields["type"] == "counter":
        times, count = np.array([fields["client_time_nanos"]]), np.array([fields["value"]])
        used = kernels.encode_counter_samples(*shared, times, count, out, offsets)
    elif fields["type"] == "batch_timer":
        times, bounds = np.array([client_time(vector)]), np.array([0, len(values)])
        used = kernels.encode_timer_samples(*shared, times, values, bounds, out, offsets)
    elif fields["type"] == "gauge":
        times, value = np.array([fields["client_time_nanos"]]), np.array([from_bits(fields["bits"])])
        used = kernels.encode_gauge_samples(*shared, times, value, out, offsets)
    else:
        times, value = np.array([fields["time_nanos"]]), np.array([from_bits(fields["bits"])])
        used = kernels.encode_timed_samples(*shared, times, value, out, offsets)
    assert out[:used].tobytes().hex() == vector["hex"]
    assert offsets.tolist() == [0, used]


@pytest.mark.parametrize("vector", cases("engine/frames.jsonl", "case"))
def test_records(vector: Vector) -> None:
    decoded = []
    error = "EOF"
    try:
        for value in codec.decode_records(bytes.fromhex(vector["hex"]), vector["max_message_size"]):
            number = codec.payload_number(value)
            decoded.append({"type_number": number} | ({"id": value.id.hex()} if number <= 3 else {}))
    except CodecError as raised:
        error = str(raised)
    assert decoded == vector["messages"]
    assert error == vector["err_text"]
    assert (error == "EOF") == vector["eof"]


@pytest.mark.parametrize("vector", cases("engine/shards.jsonl", "id"))
def test_shard(vector: Vector) -> None:
    ident = bytes.fromhex(vector["id"])
    whole = np.frombuffer(b"??" + ident, np.uint8)
    for count, shard in vector["shards"].items():
        assert shard_of(ident, int(count)) == shard
        found = np.zeros(1, np.uint32)
        kernels.shards_of(whole, np.array([2]), np.array([len(ident)]), int(count), found)
        assert found[0] == shard
    assert shard_of(b"".join(map(bytes.fromhex, vector["chunks"])), 1024) == vector["aggregated_shard_1024"]


KINDS = {"counter": MetricType.COUNTER, "timer": MetricType.TIMER, "gauge": MetricType.GAUGE}


def check_default_types(vector: Vector) -> None:
    for name, kind in KINDS.items():
        assert aggregation.types_text(TypesOptions().types_of(kind)) == vector[name]
    assert list(aggregation.quantiles_of(TypesOptions().timer_types)) == vector["timer_quantiles"]


def options(transform: str) -> TypesOptions:
    return TypesOptions(counter_transform=transform, timer_transform=transform, gauge_transform=transform)


def check_type_string(vector: Vector) -> None:
    for name, kind in KINDS.items():
        chosen = options(vector["transform"])
        string = b""
        if vector["type_number"]:
            string = chosen.type_string(kind, AggregationType(vector["type_number"]))
        assert string.decode() == (vector[name] or "")
        found = chosen.type_for(kind, string)
        assert (found.text if found else "UnknownType") == vector[f"reverse_{name}"]


def check_type(vector: Vector) -> None:
    number = vector["type_number"]
    for name, kind in KINDS.items():
        assert aggregation.is_valid_for(kind, number) == vector[f"valid_{name}"]
    assert (number in AggregationType.__members__.values()) == vector["valid"]
    if vector["valid"]:
        kind = AggregationType(number)
        assert (kind.text, kind.base_string) == (vector["type"], vector["name"])
        assert (kind.quantile or 0, kind.quantile is not None) == (vector["quantile"], vector["has_quantile"])
        assert kind.quantile_text == (vector["quantile_text"] if vector["has_quantile_text"] else None)


def check_default_config_suffix(vector: Vector) -> None:
    shipped = TypesOptions(counter_transform="empty", timer_transform="suffix", gauge_transform="empty")
    for name, kind in KINDS.items():
        assert shipped.type_string(kind, aggregation.parse_type(vector["type"])).decode() == vector[name]


def check_quantile_name(vector: Vector) -> None:
    assert aggregation.quantile_name(vector["quantile"]) == vector["text"]


def check_types(vector: Vector, types: tuple[AggregationType, ...]) -> None:
    assert [int(kind) for kind in types] == vector["numbers"]
    assert list(aggregation.quantiles_of(types)) == (vector["quantiles"] or [])
    assert aggregation.types_text(types) == vector["text"]


def check_parse_type(vector: Vector) -> None:
    if vector["err"]:
        refused(vector, lambda: aggregation.parse_type(vector["input"]))
    else:
        kind = aggregation.parse_type(vector["input"])
        assert (int(kind), kind.text) == (vector["number"], vector["type"])


def check_parse_types(vector: Vector) -> None:
    if vector["err"]:
        refused(vector, lambda: aggregation.parse_types(vector["input"]))
        return
    types = aggregation.parse_types(vector["input"])
    check_types(vector, types)
    for name, kind in KINDS.items():
        assert all(aggregation.is_valid_for(kind, number) for number in types) == vector[f"valid_{name}"]


def check_decompress(vector: Vector) -> None:
    word = int(vector["word"])
    assert (word == 0) == vector["is_default"]
    if vector["err"]:
        refused(vector, lambda: aggregation.decompress(word))
    else:
        check_types(vector, aggregation.decompress(word))


def check_compress(vector: Vector) -> None:
    if vector["err"]:
        refused(vector, lambda: aggregation.compress(vector["numbers"]))
    else:
        assert aggregation.compress(vector["numbers"]) == int(vector["word"])


def check_storage_policy(vector: Vector) -> None:
    if vector["err"]:
        refused(vector, lambda: StoragePolicy.parse(vector["input"]))
        return
    parsed = StoragePolicy.parse(vector["input"])
    assert policy_fields(parsed) == (vector["text"], vector["raw"])
    assert parsed.precision_unit == vector["precision_unit"]
    assert (StoragePolicy.parse(str(parsed)) == parsed) == vector["is_round_trip_equal"]


def check_duration_parse(vector: Vector) -> None:
    if vector["err"]:
        refused(vector, lambda: policy.parse_duration(vector["input"]))
    else:
        assert policy.parse_duration(vector["input"]) == vector["ns"]
        assert policy.format_duration(vector["ns"]) == vector["text"]


def check_duration_print(vector: Vector) -> None:
    assert policy.format_duration(vector["ns"]) == vector["text"]
    count, unit = policy.max_unit(vector["ns"])
    assert f"{count} {unit}" == vector["max_unit"]


def check_drop_policy(vector: Vector) -> None:
    if vector["err"]:
        refused(vector, lambda: policy.parse_drop_policy(vector["input"]))
    else:
        number = policy.parse_drop_policy(vector["input"])
        assert (int(number), policy.drop_policy_text(number)) == (vector["number"], vector["text"])


def check_drop_policy_print(vector: Vector) -> None:
    assert policy.drop_policy_text(vector["number"]) == vector["text"]
    assert (vector["number"] in policy.DropPolicy.__members__.values()) == vector["valid"]


def check_metric_type_print(vector: Vector) -> None:
    assert metric.metric_type_text(vector["number"]) == vector["text"]


def refused(vector: Vector, attempt: Any) -> None:
    with pytest.raises(PolicyError) as caught:
        attempt()
    if "err_text" in vector:
        assert str(caught.value) == vector["err_text"]


CHECKS = {
    "default_types": check_default_types,
    "type_string": check_type_string,
    "type": check_type,
    "default_config_suffix": check_default_config_suffix,
    "quantile_name": check_quantile_name,
    "parse_type": check_parse_type,
    "parse_types": check_parse_types,
    "aggregation_id_decompress": check_decompress,
    "aggregation_id_compress": check_compress,
    "storage_policy": check_storage_policy,
    "duration_parse": check_duration_parse,
    "duration_print": check_duration_print,
    "drop_policy": check_drop_policy,
    "drop_policy_print": check_drop_policy_print,
    "metric_type_print": check_metric_type_print,
}


@pytest.mark.parametrize("vector", cases("engine/suffixes.jsonl", "kind"))
def test_text(vector: Vector) -> None:
    CHECKS[vector["kind"]](vector)
