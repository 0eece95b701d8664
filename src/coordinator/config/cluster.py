"""``clusterManagement`` and ``clusters``: where KV is, and which namespaces storage has (docs/m3/coordinator.md, namespaces)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from coordinator.config.m3db import M3DBClientConfig
from m3cluster.kv.sections import StoreSection
from m3msg.producer.options import PlacementOptions
from m3x.config import Duration, Meaningless, Section


class ClusterManagementConfig(StoreSection, frozen=True):
    """``clusterManagement``: where KV is; with nothing said, a file in the data directory."""

    placement: Meaningless[PlacementOptions] = None


class DownsampleNamespaceConfig(Section, frozen=True):
    """``namespaces[].downsample``: whether metrics that no rule maps are aggregated into it."""

    all: bool = False


class NamespaceConfig(Section, frozen=True):
    """``clusters[].namespaces[]``."""

    former = {"storageMetricsType": "write type: aggregated, or type: unaggregated"}
    namespace: str
    retention: Duration
    type: Literal["unaggregated", "aggregated"] = "unaggregated"
    resolution: Duration = Duration(0)
    downsample: DownsampleNamespaceConfig | None = None
    """None means ``all: true``; a block without ``all`` means false, as in M3."""
    read_only: bool = False
    data_latency: Duration = Duration(0)
    """How long after their time values of an aggregated namespace may come: until then queries take the unaggregated one."""

    def __post_init__(self) -> None:
        if not self.namespace:
            raise ValueError("namespace must not be empty")
        if self.retention <= 0:
            raise ValueError(f"retention must be positive, found {self.retention}")
        if self.data_latency < 0:
            raise ValueError(f"negative dataLatency: {self.data_latency}")
        if self.type == "aggregated" and self.resolution <= 0:
            raise ValueError("an aggregated namespace needs a positive resolution")
        if self.type == "unaggregated" and self.resolution != 0:
            raise ValueError("an unaggregated namespace has no resolution")


class ClusterConfig(Section, frozen=True):
    """``clusters[]``."""

    namespaces: list[NamespaceConfig] = []
    client: M3DBClientConfig | None = None
    """None: namespaces of another storage than M3DB."""

    def __post_init__(self) -> None:
        if self.client is not None and self.client.config.fixed and not self.namespaces:
            raise ValueError("a static topology has no registry of namespaces: list them under namespaces")


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace of storage."""

    name: str
    resolution_ns: int
    """0: unaggregated."""
    retention_ns: int
    downsample_all: bool = True
    read_only: bool = False
    data_latency_ns: int = 0
    """0: values are there at once."""

    @property
    def aggregated(self) -> bool:
        """Whether it holds aggregated values."""
        return self.resolution_ns > 0


def namespaces_of(clusters: Sequence[ClusterConfig]) -> tuple[Namespace, ...]:
    """All namespaces in the order of the file. Raises ``ValueError`` with M3's text for what cannot be.

    docs/m3/coordinator.md, namespaces.
    """
    result: list[Namespace] = []
    for section in (namespace for cluster in clusters for namespace in cluster.namespaces):
        namespace = Namespace(
            name=section.namespace,
            resolution_ns=int(section.resolution),
            retention_ns=int(section.retention),
            downsample_all=section.downsample is None or section.downsample.all,
            read_only=section.read_only,
            data_latency_ns=int(section.data_latency),
        )
        if namespace.aggregated and any(
            (n.resolution_ns, n.retention_ns) == (namespace.resolution_ns, namespace.retention_ns) for n in result
        ):
            raise ValueError(
                f"duplicate aggregated namespace exists for: retention={section.retention}, resolution={section.resolution}"
            )
        result.append(namespace)
    unaggregated = sum(not n.aggregated for n in result)
    if unaggregated > 1:
        raise ValueError(f"only one unaggregated cluster namespace can be specified: specified {unaggregated}")
    return tuple(result)
