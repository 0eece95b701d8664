"""Storage policies: which a metric gets when no rule says otherwise (docs/m3/coordinator.md, automatic mapping), and which are stored."""

from collections.abc import Callable, Iterable, Sequence

from coordinator.config import CoordinatorConfig
from coordinator.config.cluster import Namespace
from m3metrics.aggregation import AggregationType, compress
from m3metrics.metadata import PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.policy import UNITS, StoragePolicy, format_duration


def policy_of(resolution_ns: int, retention_ns: int) -> StoragePolicy:
    """Auto-mapping and carbon rules write timestamps to the second, whatever the resolution."""
    return StoragePolicy(resolution_ns, UNITS["s"], retention_ns)


def _staged(pipelines: Iterable[PipelineMetadata]) -> StagedMetadatas:
    return (StagedMetadata(pipelines=tuple(pipelines)),)


def auto_mapping(namespaces: Iterable[Namespace]) -> StagedMetadatas:
    """Last, once per policy of an aggregated namespace that takes all metrics and may be written; empty if there is none."""
    last = compress([AggregationType.LAST])
    # Endpoints of remote write may share a policy.
    policies = dict.fromkeys(
        policy_of(n.resolution_ns, n.retention_ns)
        for n in namespaces
        if n.aggregated and n.downsample_all and not n.read_only
    )
    pipelines = [PipelineMetadata(aggregation_id=last, storage_policies=(policy,)) for policy in policies]
    return _staged(pipelines) if pipelines else ()


def override(kind: AggregationType, policies: Iterable[StoragePolicy]) -> StagedMetadatas:
    """One pipeline with one aggregation type: what a carbon rule makes of a metric."""
    return _staged([PipelineMetadata(aggregation_id=compress([kind]), storage_policies=tuple(policies))])


PolicyJudge = Callable[[StoragePolicy], str]
"""Why values of a policy are not stored; empty: they are, as far as is known."""


def writable_policies(namespaces: Iterable[Namespace]) -> list[StoragePolicy]:
    """Of the aggregated namespaces that may be written."""
    return [policy_of(n.resolution_ns, n.retention_ns) for n in namespaces if n.aggregated and not n.read_only]


def storage_judge(config: CoordinatorConfig, namespaces: Sequence[Namespace] | None = None) -> PolicyJudge:
    """Judges what this coordinator's ingest server would do with values. One that takes none back need not own any namespace.

    ``namespaces``: those that there are now; None: those of the file.
    """
    namespaces = config.namespaces if namespaces is None else namespaces
    if config.ingest is None or config.backend == "noop-etcd" or not namespaces:
        return lambda _: ""
    writable = writable_policies(namespaces)
    placed = [*writable, *config.ingest.m3msg.handler.blackholes]
    listed = ", ".join(f"{format_duration(p.window_ns)}:{format_duration(p.retention_ns)}" for p in writable) or "none"
    known = [policy_of(n.resolution_ns, n.retention_ns) for n in namespaces if n.aggregated]
    advice = "add the namespace to clusters[].namespaces" if config.knows_namespaces else "create the namespace in M3DB"

    def judge(policy: StoragePolicy) -> str:
        if any(policy.equivalent(one) for one in placed):
            return ""
        if any(policy.equivalent(one) for one in known):
            return "its namespace is read-only, so its values are not stored; remove readOnly, or correct the rule"
        return (
            f"no aggregated namespace has this resolution and retention (those that may be written: {listed}), so its values are not "
            f"stored; {advice}, or correct the rule"
        )

    return judge
