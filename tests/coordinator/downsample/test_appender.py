"""Auto-mapping of namespaces to staged metadatas (docs/m3/coordinator.md, automatic mapping)."""

import pytest

from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler, auto_mapping, override
from m3metrics.aggregation import AggregationType
from m3metrics.codec import decode_staged_metadatas
from m3metrics.ids import decode_tags
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy

SECOND = 10**9
TEN = Namespace("ten", 10 * SECOND, 48 * 3600 * SECOND)
MINUTE = Namespace("minute", 60 * SECOND, 960 * 3600 * SECOND)
QUIET = Namespace("quiet", 30 * SECOND, 3600 * SECOND, downsample_all=False)
READ_ONLY = Namespace("old", 20 * SECOND, 3600 * SECOND, read_only=True)
RAW = Namespace("raw", 0, 3600 * SECOND)


def test_one_pipeline_for_each_namespace_that_takes_all() -> None:
    (stage,) = auto_mapping([RAW, TEN, QUIET, READ_ONLY, MINUTE])
    assert (stage.cutover_ns, stage.tombstoned) == (0, False)
    assert [p.aggregation_id for p in stage.pipelines] == [2, 2]
    assert [str(p.storage_policies[0]) for p in stage.pipelines] == ["10s:2d", "1m@1s:40d"]


def test_nothing_is_sent_without_a_namespace_that_takes_all() -> None:
    quiet = Downsampler([RAW, QUIET])
    assert quiet.enabled
    assert quiet.append([(b"a", b"b")]).specs == ()
    raw = Downsampler([RAW])
    assert not raw.enabled
    mean = override(AggregationType.MEAN, [StoragePolicy.parse("10s:2d")])
    assert raw.append([(b"a", b"b")], metadatas=[mean]).specs == ()


def test_id_type_and_annotation_of_a_series() -> None:
    tags = [
        (b"status_code", b"500"),
        (b"__name__", b"http_requests"),
        (b"app", b"nginx_edge"),
        (b"endpoint", b"/foo/bar"),
    ]
    (spec,) = Downsampler([TEN]).append(tags, MetricType.COUNTER, annotation=b"x").specs
    assert [name for name, _ in decode_tags(spec.id)] == [b"status_code", b"endpoint", b"__name__", b"app"]
    assert (spec.metric_type, spec.annotation) == (MetricType.COUNTER, b"x")
    assert decode_staged_metadatas(spec.metadatas) == auto_mapping([TEN])


def test_override_replaces_the_mapping() -> None:
    wanted = override(AggregationType.P99, [StoragePolicy.parse("10s:2d"), StoragePolicy.parse("1m@1s:40d")])
    (spec,) = Downsampler([TEN]).append([(b"a", b"b")], metadatas=[wanted]).specs
    assert decode_staged_metadatas(spec.metadatas) == wanted


def test_no_tags() -> None:
    with pytest.raises(ValueError, match="no tags provided"):
        Downsampler([TEN]).append([])
