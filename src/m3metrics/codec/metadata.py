"""Policies, pipelines and metadatas to and from protobuf (docs/m3/metrics.md, messages).

The ``*_from`` functions convert what ``wire.unmarshal`` read and raise ``ConvertError``; the ``*_values`` functions are their
inverse. The bytes of one whole metadata message have ``decode_*`` and ``encode_*``.
"""

from m3metrics.codec.messages import (
    FORWARD_METADATA,
    STAGED_METADATAS,
    STORAGE_POLICY,
    TIMED_METADATA,
    TIMED_METRIC_WITH_STORAGE_POLICY,
)
from m3metrics.errors import ConvertError, PolicyError
from m3metrics.metadata import ForwardMetadata, PipelineMetadata, StagedMetadata, StagedMetadatas, TimedMetadata
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy, unit_of
from m3x.protobuf import MessageValue, marshal, unmarshal

_TRANSFORMATION = 1
_ROLLUP = 2


def storage_policy_from(values: MessageValue) -> StoragePolicy:
    """A policy without resolution or retention, or with a precision that is no unit, is an error."""
    resolution = values.get("resolution", {})
    window_ns = resolution.get("window_size", 0)
    precision_ns = resolution.get("precision", 0)
    if window_ns == 0 and precision_ns == 0:
        raise ConvertError("empty resolution proto message")
    try:
        unit_of(precision_ns)
    except PolicyError as error:
        raise ConvertError(str(error)) from None
    retention_ns = values.get("retention", {}).get("period", 0)
    if retention_ns == 0:
        raise ConvertError("empty retention proto message")
    return StoragePolicy(window_ns, precision_ns, retention_ns)


def storage_policy_values(policy: StoragePolicy) -> MessageValue:
    """Raises ``PolicyError`` for a precision that is no unit."""
    unit_of(policy.precision_ns)
    return {
        "resolution": {"window_size": policy.window_ns, "precision": policy.precision_ns},
        "retention": {"period": policy.retention_ns},
    }


def _aggregation_id(values: MessageValue) -> int:
    word: int = values.get("aggregation_id", {}).get("id", 0)
    return word


def _traffic_types(values: MessageValue) -> int:
    mask: int = values.get("routing_policy", {}).get("traffic_types", 0)
    return mask


def _pipeline_from(values: MessageValue) -> AppliedPipeline:
    return tuple(_op_from(op) for op in values.get("ops", ()))


def _op_from(values: MessageValue) -> TransformationOp | RollupOp:
    kind = values.get("type", 0)
    if kind == _TRANSFORMATION:
        number = values.get("transformation", {}).get("type", 0)
        if number not in TransformationType.__members__.values():
            raise ConvertError(f"unknown transformation type in proto: {number}")
        return TransformationOp(TransformationType(number))
    if kind == _ROLLUP:
        rollup = values.get("rollup", {})
        return RollupOp(rollup.get("id", b""), _aggregation_id(rollup))
    raise ConvertError("unknown op type")


def _pipeline_values(pipeline: AppliedPipeline) -> MessageValue:
    return {
        "ops": [
            {"type": _TRANSFORMATION, "transformation": {"type": op.type}}
            if isinstance(op, TransformationOp)
            else {"type": _ROLLUP, "rollup": {"id": op.id, "aggregation_id": {"id": op.aggregation_id}}}
            for op in pipeline
        ]
    }


def _pipeline_metadata_from(values: MessageValue) -> PipelineMetadata:
    return PipelineMetadata(
        aggregation_id=_aggregation_id(values),
        storage_policies=tuple(storage_policy_from(policy) for policy in values.get("storage_policies", ())),
        pipeline=_pipeline_from(values.get("pipeline", {})),
        drop_policy=values.get("drop_policy", 0),
        resend_enabled=values.get("resend_enabled", False),
        traffic_types=_traffic_types(values),
    )


def _pipeline_metadata_values(pipeline: PipelineMetadata) -> MessageValue:
    return {
        "aggregation_id": {"id": pipeline.aggregation_id},
        "storage_policies": [storage_policy_values(policy) for policy in pipeline.storage_policies],
        "pipeline": _pipeline_values(pipeline.pipeline),
        "drop_policy": pipeline.drop_policy,
        "resend_enabled": pipeline.resend_enabled,
        "routing_policy": {"traffic_types": pipeline.traffic_types},
    }


def staged_metadatas_from(values: MessageValue) -> StagedMetadatas:
    """All stages, in their order on the wire."""
    return tuple(
        StagedMetadata(
            cutover_ns=stage.get("cutover_nanos", 0),
            tombstoned=stage.get("tombstoned", False),
            pipelines=tuple(_pipeline_metadata_from(p) for p in stage.get("metadata", {}).get("pipelines", ())),
        )
        for stage in values.get("metadatas", ())
    )


def staged_metadatas_values(metadatas: StagedMetadatas) -> MessageValue:
    """Inverse of ``staged_metadatas_from``."""
    return {
        "metadatas": [
            {
                "cutover_nanos": stage.cutover_ns,
                "tombstoned": stage.tombstoned,
                "metadata": {"pipelines": [_pipeline_metadata_values(p) for p in stage.pipelines]},
            }
            for stage in metadatas
        ]
    }


def forward_metadata_from(values: MessageValue) -> ForwardMetadata:
    """A missing storage policy is an error."""
    return ForwardMetadata(
        aggregation_id=_aggregation_id(values),
        storage_policy=storage_policy_from(values.get("storage_policy", {})),
        pipeline=_pipeline_from(values.get("pipeline", {})),
        source_id=values.get("source_id", 0),
        num_forwarded_times=values.get("num_forwarded_times", 0),
        resend_enabled=values.get("resend_enabled", False),
        traffic_types=_traffic_types(values),
    )


def forward_metadata_values(metadata: ForwardMetadata) -> MessageValue:
    """Inverse of ``forward_metadata_from``."""
    return {
        "aggregation_id": {"id": metadata.aggregation_id},
        "storage_policy": storage_policy_values(metadata.storage_policy),
        "pipeline": _pipeline_values(metadata.pipeline),
        "source_id": metadata.source_id,
        "num_forwarded_times": metadata.num_forwarded_times,
        "resend_enabled": metadata.resend_enabled,
        "routing_policy": {"traffic_types": metadata.traffic_types},
    }


def timed_metadata_from(values: MessageValue) -> TimedMetadata:
    """A missing storage policy is an error."""
    return TimedMetadata(
        aggregation_id=_aggregation_id(values),
        storage_policy=storage_policy_from(values.get("storage_policy", {})),
        traffic_types=_traffic_types(values),
    )


def timed_metadata_values(metadata: TimedMetadata) -> MessageValue:
    """Inverse of ``timed_metadata_from``."""
    return {
        "aggregation_id": {"id": metadata.aggregation_id},
        "storage_policy": storage_policy_values(metadata.storage_policy),
        "routing_policy": {"traffic_types": metadata.traffic_types},
    }


def passthrough_from(values: MessageValue) -> tuple[StoragePolicy, int]:
    """Storage policy and traffic types of a TimedMetricWithStoragePolicy."""
    return storage_policy_from(values.get("storage_policy", {})), _traffic_types(values)


def passthrough_values(policy: StoragePolicy, traffic_types: int) -> MessageValue:
    """Inverse of ``passthrough_from``."""
    return {"storage_policy": storage_policy_values(policy), "routing_policy": {"traffic_types": traffic_types}}


def decode_staged_metadatas(data: bytes) -> StagedMetadatas:
    """The content of a StagedMetadatas message. Raises ``CodecError``."""
    return staged_metadatas_from(unmarshal(STAGED_METADATAS, data))


def encode_staged_metadatas(metadatas: StagedMetadatas) -> bytes:
    """Inverse of ``decode_staged_metadatas``; the empty list gives no bytes."""
    return marshal(STAGED_METADATAS, staged_metadatas_values(metadatas))


def decode_forward_metadata(data: bytes) -> ForwardMetadata:
    """The content of a ForwardMetadata message. Raises ``CodecError``."""
    return forward_metadata_from(unmarshal(FORWARD_METADATA, data))


def encode_forward_metadata(metadata: ForwardMetadata) -> bytes:
    """Inverse of ``decode_forward_metadata``."""
    return marshal(FORWARD_METADATA, forward_metadata_values(metadata))


def decode_timed_metadata(data: bytes) -> TimedMetadata:
    """The content of a TimedMetadata message. Raises ``CodecError``."""
    return timed_metadata_from(unmarshal(TIMED_METADATA, data))


def decode_storage_policy(data: bytes) -> StoragePolicy:
    """The content of a StoragePolicy message. Raises ``CodecError``."""
    return storage_policy_from(unmarshal(STORAGE_POLICY, data))


def encode_storage_policy(policy: StoragePolicy) -> bytes:
    """Inverse of ``decode_storage_policy``."""
    return marshal(STORAGE_POLICY, storage_policy_values(policy))


def decode_passthrough_policies(data: bytes) -> tuple[StoragePolicy, int]:
    """Storage policy and traffic types from the fields 2 and 3 of a TimedMetricWithStoragePolicy. Raises ``CodecError``."""
    return passthrough_from(unmarshal(TIMED_METRIC_WITH_STORAGE_POLICY, data))


def aggregated_policy_fields(policy: StoragePolicy, traffic_types: int = 0) -> bytes:
    """The fields 2 and 3 of a TimedMetricWithStoragePolicy, tags included: what ``kernels.encode_aggregated`` appends."""
    whole = marshal(TIMED_METRIC_WITH_STORAGE_POLICY, passthrough_values(policy, traffic_types))
    return whole.removeprefix(b"\x0a\x00")
