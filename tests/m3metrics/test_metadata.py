"""Predicates and drop policies (docs/m3/metrics.md, metadata), pipelines, aggregation types."""

import pytest

from m3metrics import aggregation, metadata
from m3metrics.aggregation import AggregationType, TypesOptions
from m3metrics.errors import PolicyError
from m3metrics.metadata import DropResult, PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.metric import MetricType, parse_metric_type
from m3metrics.pipeline import RollupOp, TransformationOp, TransformationType, pipeline_text, with_resets
from m3metrics.policy import DropPolicy, StoragePolicy

POLICY = StoragePolicy.parse("10s:2d")
ADD = TransformationOp(TransformationType.ADD)


def staged(**pipeline: object) -> StagedMetadatas:
    return (StagedMetadata(pipelines=(PipelineMetadata(**pipeline),)),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metadatas", "default"),
    [
        (metadata.DEFAULT_STAGED_METADATAS, True),
        ((), False),
        (staged() + staged(), False),
        ((StagedMetadata(),), False),
        ((StagedMetadata(cutover_ns=1, pipelines=(PipelineMetadata(),)),), False),
        ((StagedMetadata(tombstoned=True, pipelines=(PipelineMetadata(),)),), False),
        (staged(aggregation_id=2), False),
        (staged(storage_policies=(POLICY,)), False),
        (staged(pipeline=(ADD,)), False),
        (staged(drop_policy=DropPolicy.MUST), False),
        (staged(traffic_types=1), False),
        (staged(resend_enabled=True), True),
    ],
)
def test_is_default(metadatas: StagedMetadatas, default: bool) -> None:
    assert metadata.is_default(metadatas) == default


def test_a_pipeline_disagrees_about_resending_and_routing() -> None:
    assert PipelineMetadata(traffic_types=1).is_default
    assert not PipelineMetadata(resend_enabled=True).is_default


def test_drop_policy_predicates() -> None:
    dropped = staged(drop_policy=DropPolicy.IF_ONLY_MATCH)
    assert metadata.is_drop_policy_applied(dropped)
    assert metadata.is_drop_policy_applied((StagedMetadata(cutover_ns=5, pipelines=dropped[0].pipelines),))
    assert not metadata.is_drop_policy_applied((StagedMetadata(tombstoned=True, pipelines=dropped[0].pipelines),))
    assert not metadata.is_drop_policy_applied(staged(drop_policy=DropPolicy.MUST, aggregation_id=2))
    assert not metadata.is_drop_policy_applied(dropped + dropped)
    assert metadata.is_drop_policy_set(staged() + dropped)
    assert not metadata.is_drop_policy_set(dropped + staged())
    assert not metadata.is_drop_policy_set(())


PLAIN, OTHER = PipelineMetadata(aggregation_id=2), PipelineMetadata(aggregation_id=4)
MUST, IF_ONLY = PipelineMetadata(drop_policy=DropPolicy.MUST), PipelineMetadata(drop_policy=DropPolicy.IF_ONLY_MATCH)


@pytest.mark.parametrize(
    ("pipelines", "kept", "result"),
    [
        ((), (), DropResult.NONE),
        ((PLAIN, OTHER), (PLAIN, OTHER), DropResult.NONE),
        ((PLAIN, MUST, IF_ONLY), (metadata.DROP_PIPELINE,), DropResult.APPLIED),
        ((IF_ONLY, IF_ONLY), (metadata.DROP_PIPELINE,), DropResult.APPLIED),
        ((PLAIN, IF_ONLY, OTHER), (PLAIN, OTHER), DropResult.REMOVED_INEFFECTIVE),
    ],
)
def test_apply_drop_policies(
    pipelines: tuple[PipelineMetadata, ...], kept: tuple[PipelineMetadata, ...], result: DropResult
) -> None:
    assert metadata.apply_drop_policies(pipelines) == (kept, result)


def test_metadata_keys_a_dictionary() -> None:
    assert {staged(pipeline=(ADD,), storage_policies=(POLICY,)): 1}[staged(pipeline=(ADD,), storage_policies=(POLICY,))]


def test_pipelines() -> None:
    rollup = RollupOp(b"foo", 1 << AggregationType.SUM)
    pipeline = (TransformationOp(TransformationType.PER_SECOND), rollup)
    assert pipeline_text(pipeline) == (
        "{operations: [{transformation: PerSecond}, {rollup: {id: foo, aggregation: Sum}}]}"
    )
    reset = TransformationOp(TransformationType.RESET)
    assert with_resets((ADD, rollup)) == (reset, rollup)
    assert PipelineMetadata(pipeline=(ADD,)).is_mapping_rule
    assert not PipelineMetadata(pipeline=pipeline).is_mapping_rule


def test_types_of_an_id() -> None:
    options = TypesOptions(gauge_types=(AggregationType.MAX,))
    assert options.types_of(MetricType.GAUGE) == (AggregationType.MAX,)
    assert options.types_of(MetricType.GAUGE, 6) == (AggregationType.LAST, AggregationType.MIN)
    with pytest.raises(PolicyError, match="invalid Type"):
        options.types_of(MetricType.GAUGE, 1)
    with pytest.raises(PolicyError, match="invalid transform: 'upper'"):
        TypesOptions(timer_transform="upper")


def test_quantile_names_use_binary_floats() -> None:
    assert [aggregation.quantile_name(q) for q in (0.0, 1.0, 0.001, 0.07, 0.29)] == [
        "p0",
        "p100",
        "p01",
        "p7000000000000001",
        "p28999999999999996",
    ]


def test_metric_types() -> None:
    assert parse_metric_type("timer") is MetricType.TIMER
    for text in ("Timer", "unknown", ""):
        with pytest.raises(PolicyError):
            parse_metric_type(text)
