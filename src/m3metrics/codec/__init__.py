"""Plain codecs of metric messages: clear Python, the authority on odd and broken input.

The hot paths use ``m3metrics.kernels``, which refuse everything that an encoder would not write; what they refuse comes here. Start
with ``unaggregated`` (what aggregators receive) and ``aggregated`` (what they send); ``messages`` holds the
tables of fields, ``metadata`` the conversions of policies, pipelines and metadatas, ``stream`` the framing of the raw TCP protocol.
"""

from m3metrics.codec.aggregated import AggregatedMetric, decode_aggregated, encode_aggregated
from m3metrics.codec.metadata import (
    aggregated_policy_fields,
    decode_forward_metadata,
    decode_passthrough_policies,
    decode_staged_metadatas,
    decode_storage_policy,
    decode_timed_metadata,
    encode_forward_metadata,
    encode_staged_metadatas,
    encode_storage_policy,
)
from m3metrics.codec.stream import decode_records, encode_record
from m3metrics.codec.unaggregated import (
    BatchTimerWithMetadatas,
    CounterWithMetadatas,
    ForwardedMetricWithMetadata,
    GaugeWithMetadatas,
    Metric,
    TimedMetricWithMetadata,
    TimedMetricWithMetadatas,
    TimedMetricWithStoragePolicy,
    decode_metric,
    encode_metric,
    payload_number,
)

__all__ = [
    "AggregatedMetric",
    "BatchTimerWithMetadatas",
    "CounterWithMetadatas",
    "ForwardedMetricWithMetadata",
    "GaugeWithMetadatas",
    "Metric",
    "TimedMetricWithMetadata",
    "TimedMetricWithMetadatas",
    "TimedMetricWithStoragePolicy",
    "aggregated_policy_fields",
    "decode_aggregated",
    "decode_forward_metadata",
    "decode_metric",
    "decode_passthrough_policies",
    "decode_records",
    "decode_staged_metadatas",
    "decode_storage_policy",
    "decode_timed_metadata",
    "encode_aggregated",
    "encode_forward_metadata",
    "encode_metric",
    "encode_record",
    "encode_staged_metadatas",
    "encode_storage_policy",
    "payload_number",
]
