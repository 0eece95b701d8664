"""Which aggregations and storage policies a metric gets when no rule says otherwise (reference/coordinator.md §3.2, §3.6, §10)."""

from collections.abc import Iterable

from coordinator.config.cluster import Namespace
from m3metrics.aggregation import AggregationType, compress
from m3metrics.metadata import PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.policy import UNITS, StoragePolicy


def policy_of(resolution_ns: int, retention_ns: int) -> StoragePolicy:
    """Auto-mapping and carbon rules write timestamps to the second, whatever the resolution."""
    return StoragePolicy(resolution_ns, UNITS["s"], retention_ns)


def _staged(pipelines: Iterable[PipelineMetadata]) -> StagedMetadatas:
    return (StagedMetadata(pipelines=tuple(pipelines)),)


def auto_mapping(namespaces: Iterable[Namespace]) -> StagedMetadatas:
    """Last, once per aggregated namespace that takes all metrics and may be written; empty if there is none."""
    last = compress([AggregationType.LAST])
    pipelines = [
        PipelineMetadata(aggregation_id=last, storage_policies=(policy_of(n.resolution_ns, n.retention_ns),))
        for n in namespaces
        if n.aggregated and n.downsample_all and not n.read_only
    ]
    return _staged(pipelines) if pipelines else ()


def override(kind: AggregationType, policies: Iterable[StoragePolicy]) -> StagedMetadatas:
    """One pipeline with one aggregation type: what a carbon rule makes of a metric."""
    return _staged([PipelineMetadata(aggregation_id=compress([kind]), storage_policies=tuple(policies))])
