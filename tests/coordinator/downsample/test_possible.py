"""What aggregation inside asks for: only what is possible, and one message for each id."""

import pytest

from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler
from coordinator.downsample.possible import joined, possible
from coordinator.not_kept import Reason
from m3metrics.aggregation import AggregationType, compress
from m3metrics.metadata import PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy

S = 1_000_000_000
POLICY = StoragePolicy.parse("10s:48h")
LAST, SUM, P99 = AggregationType.LAST, AggregationType.SUM, AggregationType.P99


def asked(*types: AggregationType, cutover: int = 0) -> StagedMetadatas:
    pipeline = PipelineMetadata(aggregation_id=compress(types), storage_policies=(POLICY,))
    return (StagedMetadata(cutover_ns=cutover, pipelines=(pipeline,)),)


@pytest.mark.parametrize(
    ("kind", "types", "left"),
    [
        (MetricType.GAUGE, (LAST, SUM), (LAST, SUM)),
        (MetricType.GAUGE, (SUM, P99), (SUM,)),
        (MetricType.COUNTER, (LAST, SUM), (SUM,)),
        (MetricType.COUNTER, (LAST,), None),
        (MetricType.TIMER, (LAST, P99), (P99,)),
        (MetricType.TIMER, (), ()),
    ],
)
def test_only_what_is_possible(
    kind: MetricType, types: tuple[AggregationType, ...], left: tuple[AggregationType, ...] | None
) -> None:
    assert possible([(b"id", asked(*types))], kind) == ([] if left is None else [(b"id", asked(*left))])


def test_one_id_is_one_message_and_the_same_is_asked_once() -> None:
    sent = [(b"a", asked(SUM, cutover=1)), (b"b", asked(LAST)), (b"a", asked(LAST, cutover=2)), (b"a", asked(SUM))]
    (stage,) = asked(SUM, cutover=2)
    both = StagedMetadata(cutover_ns=2, pipelines=(*stage.pipelines, *asked(LAST)[0].pipelines))
    assert joined(sent) == [(b"a", (both,)), (b"b", asked(LAST))]
    assert joined(sent[:2]) == sent[:2]


def test_what_has_several_stages_stays_by_itself() -> None:
    staged = (*asked(SUM), *asked(SUM, cutover=5))
    sent = [(b"a", staged), (b"a", asked(LAST))]
    assert joined(sent) == sent


@pytest.mark.parametrize("inside", [False, True])
def test_a_counter_that_is_mapped_automatically(inside: bool) -> None:
    """With aggregators of their own these refuse it, as M3's do."""
    downsampler = Downsampler([Namespace("n", 10 * S, 48 * 3600 * S)], inside=inside)
    appended = downsampler.append([(b"__name__", b"c")], MetricType.COUNTER)
    assert bool(appended.specs) is not inside
    assert appended.unsent == (Reason.AGGREGATION_TYPE if inside else None)
