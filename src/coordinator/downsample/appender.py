"""The appender without rules: one series → what is sent for each of its samples (reference/coordinator.md §3.1, §3.2).

Rules will add pipelines and ids of their own here; until then a metric is mapped to the aggregated namespaces (``auto_mapping``) or, for
carbon, to what its rule says (``metadatas`` given).
"""

from collections.abc import Sequence

import msgspec

from coordinator.config.cluster import Namespace
from coordinator.downsample.policies import auto_mapping
from m3metrics.codec import encode_staged_metadatas
from m3metrics.ids import coordinator_id
from m3metrics.metadata import StagedMetadatas
from m3metrics.metric import MetricType


class TemplateSpec(msgspec.Struct, frozen=True):
    """What all samples that are sent for one series and id have in common."""

    id: bytes
    metadatas: bytes
    """Content of the StagedMetadatas message."""
    metric_type: MetricType = MetricType.GAUGE
    annotation: bytes = b""


class Downsampler:
    """Maps series for one set of namespaces."""

    def __init__(self, namespaces: Sequence[Namespace]) -> None:
        self._enabled = any(n.aggregated for n in namespaces)
        staged = auto_mapping(namespaces)
        self._auto = encode_staged_metadatas(staged) if staged else None

    @property
    def enabled(self) -> bool:
        """Whether there is any aggregated namespace; without one nothing is sent, whatever rules say."""
        return self._enabled

    @property
    def auto_metadatas(self) -> bytes | None:
        """Metadatas of a metric that no rule matches; None: such metrics are not sent."""
        return self._auto

    def append(
        self,
        tags: Sequence[tuple[bytes, bytes]],
        metric_type: MetricType = MetricType.GAUGE,
        *,
        annotation: bytes = b"",
        metadatas: StagedMetadatas | None = None,
    ) -> list[TemplateSpec]:
        """What to send for a series with these tags, in any order; ``metadatas`` overrides the mapping (carbon).

        Raises ``ValueError`` for no tags, and ``m3metrics.errors.IdError`` for tags that cannot be encoded.
        """
        if not tags:
            raise ValueError("no tags provided")
        if not self._enabled:
            return []
        encoded = self._auto if metadatas is None else encode_staged_metadatas(metadatas)
        if encoded is None:
            return []
        return [TemplateSpec(coordinator_id(tags, metric_type.name.lower()), encoded, metric_type, annotation)]
