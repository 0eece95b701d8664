"""Metrics as M3 knows them: types, policies, pipelines, metadatas, ids, and the messages that carry them.

Open ``metadata`` first (what is to be done with a metric), then ``metric`` (types), ``policy``, ``aggregation`` and ``pipeline`` (its
parts), and ``past_limits`` (how late a sample may be). ``rules`` say what is to be done with which metrics, ``filters`` which ones a rule
is for. ``codec`` holds the plain codecs, ``kernels`` the compiled ones that batches go through (encoders: ``encode_kernels``), ``rows``
the columns these fill. ``ids`` are the encoded tags that a coordinator uses as metric ids (compiled: ``tag_kernels``), ``series_ids`` the
ids of M3DB, ``shard`` the shard of an id, ``growth`` tells which names new ids have, ``traffic`` which send most
(both keep ``top_names``). ``sections`` are parts of configuration files,
``errors`` is the hierarchy.

May import ``m3x``; services and the other ``m3*`` packages import from here. ``kernels`` and ``codec`` are imported by their own names.
"""

from m3metrics.aggregation import (
    AggregationType,
    TypesOptions,
    aggregation_id_text,
    compress,
    decompress,
    parse_type,
    parse_types,
)
from m3metrics.errors import CodecError, ConvertError, IdError, MetricsError, PolicyError, UnmarshalError
from m3metrics.ids import coordinator_id, decode_tags, encode_tags, is_rollup_id, rollup_id
from m3metrics.metadata import (
    DEFAULT_STAGED_METADATAS,
    ForwardMetadata,
    PipelineMetadata,
    StagedMetadata,
    StagedMetadatas,
    TimedMetadata,
)
from m3metrics.metric import MetricType
from m3metrics.pipeline import AppliedPipeline, RollupOp, TransformationOp, TransformationType
from m3metrics.policy import DropPolicy, Resolution, StoragePolicy, format_duration, parse_duration
from m3metrics.shard import shard_of

__all__ = [
    "DEFAULT_STAGED_METADATAS",
    "AggregationType",
    "AppliedPipeline",
    "CodecError",
    "ConvertError",
    "DropPolicy",
    "ForwardMetadata",
    "IdError",
    "MetricType",
    "MetricsError",
    "PipelineMetadata",
    "PolicyError",
    "Resolution",
    "RollupOp",
    "StagedMetadata",
    "StagedMetadatas",
    "StoragePolicy",
    "TimedMetadata",
    "TransformationOp",
    "TransformationType",
    "TypesOptions",
    "UnmarshalError",
    "aggregation_id_text",
    "compress",
    "coordinator_id",
    "decode_tags",
    "decompress",
    "encode_tags",
    "format_duration",
    "is_rollup_id",
    "parse_duration",
    "parse_type",
    "parse_types",
    "rollup_id",
    "shard_of",
]
