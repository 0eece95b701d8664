"""What aggregation inside asks of its aggregator differs from what M3 asks of its own, where M3 loses or spoils values
(docs/compatibility.md, aggregation inside the coordinator).

M3 refuses a sample for ever if one aggregation type is impossible for its metric type, and an entry of its aggregator keeps one set of
metadatas, so that messages of one id with different ones replace each other at every sample.
"""

from collections.abc import Iterable, Sequence

import msgspec

from m3metrics.aggregation import compress, decompress, is_valid_for
from m3metrics.metadata import PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.metric import MetricType

__all__ = ["joined", "possible"]

Sent = tuple[bytes, StagedMetadatas]
"""An id, and what is asked for it."""


def possible(sent: Iterable[Sent], metric_type: MetricType) -> list[Sent]:
    """Without the aggregation types that the metric type cannot have, and without what nothing is left of."""
    found = []
    for ident, stages in sent:
        kept = tuple(_possible(stage, metric_type) for stage in stages)
        if any(stage.pipelines for stage in kept):
            found.append((ident, kept))
    return found


def _possible(stage: StagedMetadata, metric_type: MetricType) -> StagedMetadata:
    pipelines = tuple(found for one in stage.pipelines if (found := _pipeline(one, metric_type)) is not None)
    return stage if pipelines == stage.pipelines else msgspec.structs.replace(stage, pipelines=pipelines)


def _pipeline(pipeline: PipelineMetadata, metric_type: MetricType) -> PipelineMetadata | None:
    if not pipeline.aggregation_id:
        return pipeline
    types = decompress(pipeline.aggregation_id)
    kept = [kind for kind in types if is_valid_for(metric_type, kind)]
    if len(kept) == len(types):
        return pipeline
    return msgspec.structs.replace(pipeline, aggregation_id=compress(kept)) if kept else None


def joined(sent: Sequence[Sent]) -> list[Sent]:
    """One message for each id, which asks for what all of them ask for, the same once; those with several stages stay by themselves."""
    if len({ident for ident, _ in sent}) == len(sent):
        return list(sent)
    found: list[Sent] = []
    at: dict[bytes, int] = {}
    for ident, stages in sent:
        place = at.get(ident)
        if place is None or len(stages) != 1 or len(found[place][1]) != 1:
            at.setdefault(ident, len(found))
            found.append((ident, stages))
            continue
        (one,), (other,) = found[place][1], stages
        stage = StagedMetadata(
            cutover_ns=max(one.cutover_ns, other.cutover_ns),
            tombstoned=one.tombstoned and other.tombstoned,
            pipelines=tuple(dict.fromkeys((*one.pipelines, *other.pipelines))),
        )
        found[place] = (ident, (stage,))
    return found
