"""Applied pipelines: what still happens to a metric's values after aggregation (docs/m3/metrics.md, applied pipelines).

Leading transformations are executed where the metric is aggregated; at the first rollup the result is forwarded under the rollup's
id with the remaining operations.
"""

from enum import IntEnum

import msgspec

from m3metrics.aggregation import aggregation_id_text

__all__ = ["AppliedPipeline", "RollupOp", "TransformationOp", "TransformationType", "pipeline_text", "with_resets"]


class TransformationType(IntEnum):
    """``TransformationType`` on the wire; 0 is not valid."""

    ABSOLUTE = 1
    PER_SECOND = 2
    INCREASE = 3
    ADD = 4
    RESET = 5

    @property
    def text(self) -> str:
        """M3's name: ``PerSecond``."""
        return "".join(word.capitalize() for word in self.name.split("_"))


class TransformationOp(msgspec.Struct, frozen=True):
    """Transforms the aggregated values."""

    type: TransformationType


class RollupOp(msgspec.Struct, frozen=True):
    """Forwards to another metric, to be aggregated there."""

    id: bytes
    aggregation_id: int = 0
    """Aggregation types there, one bit each (``m3metrics.aggregation``); 0: the defaults."""


AppliedPipeline = tuple[TransformationOp | RollupOp, ...]


def with_resets(pipeline: AppliedPipeline) -> AppliedPipeline:
    """The pipeline with every ``Add`` replaced by ``Reset`` (the aggregator's add-to-reset option)."""
    reset = TransformationOp(TransformationType.RESET)
    return tuple(
        reset if isinstance(op, TransformationOp) and op.type is TransformationType.ADD else op for op in pipeline
    )


def pipeline_text(pipeline: AppliedPipeline) -> str:
    """As M3 prints it: ``{operations: [{transformation: PerSecond}, {rollup: {id: foo, aggregation: Sum}}]}``."""
    ops = (
        f"{{transformation: {op.type.text}}}"
        if isinstance(op, TransformationOp)
        else f"{{rollup: {{id: {op.id.decode(errors='replace')}, aggregation: {aggregation_id_text(op.aggregation_id)}}}}}"
        for op in pipeline
    )
    return f"{{operations: [{', '.join(ops)}]}}"
