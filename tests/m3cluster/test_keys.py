"""Every key of M3, as text (docs/m3/cluster.md, keys)."""

import pytest

from m3cluster import keys


@pytest.mark.parametrize(
    ("found", "key"),
    [
        (keys.kv_key("e/f", "k"), "_kv/e/f/k"),
        (keys.kv_key("e", "k", namespace="/ns"), "/ns/e/k"),
        (keys.topic_key("namespace/m3db-cluster-name", "aggregator_ingest"), "/topic/namespace/m3db-cluster-name/aggregator_ingest"),
        (keys.placement_key("e", "m3aggregator"), "/placement/e/m3aggregator"),
        (keys.placement_key("e", "m3coordinator"), "_sd.placement/e/m3coordinator"),
        (keys.placement_key("e", "m3db"), "_sd.placement/e/m3db"),
        (keys.placement_key("", "m3db"), "_sd.placement/m3db"),
        (keys.placement_key("e", "x", namespace="/placement"), "/placement/e/x"),
        (keys.topic_key("e", "t", namespace="ns"), "ns/e/t"),
        (keys.topic_key("", "t", namespace=""), "/topic/t"),
        (keys.election_prefix("", "svc", ""), "_ld/svc/default"),
        (keys.election_prefix("env", "svc", "foo"), "_ld/env/svc/foo"),
        (keys.flush_times_key("e", 7), "_kv/e/shardset/7/flush"),
        (keys.flush_times_key("e", 7, "a/%d/b"), "_kv/e/a/7/b"),
        (keys.rule_namespaces_key("e"), "_kv/e//namespaces"),
        (keys.rule_set_key("e", "default"), "_kv/e//ruleset/default"),
    ],
)  # fmt: skip
def test_keys_are_m3s(found, key):
    assert found == key
