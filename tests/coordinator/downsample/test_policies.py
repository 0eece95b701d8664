"""Which storage policies a coordinator would store."""

from typing import Any

import pytest

from coordinator.config import CoordinatorConfig
from coordinator.config.cluster import ClusterConfig, NamespaceConfig
from coordinator.config.ingest import HandlerConfig, IngestConfig, IngesterConfig, M3MsgServerConfig
from coordinator.downsample.policies import storage_judge
from m3metrics.policy import StoragePolicy
from m3msg.consumer.options import ServerOptions
from m3x.config import Duration


def namespace(resolution: str, retention: str, **more: Any) -> NamespaceConfig:
    return NamespaceConfig(
        namespace=f"n{resolution}", type="aggregated", resolution=Duration.parse(resolution),
        retention=Duration.parse(retention), **more,
    )  # fmt: skip


NAMESPACES = [
    namespace("10s", "48h"),
    namespace("1m", "960h", read_only=True),
    NamespaceConfig(namespace="raw", retention=Duration.parse("1h")),
]
INGEST = IngestConfig(
    ingester=IngesterConfig(worker_pool_size=1),
    m3msg=M3MsgServerConfig(
        server=ServerOptions(listen_address="127.0.0.1:0"), handler=HandlerConfig(blackhole_policies=["5m:1h"])
    ),
)


def config(**more: Any) -> CoordinatorConfig:
    return CoordinatorConfig(**{"clusters": [ClusterConfig(namespaces=NAMESPACES)], "ingest": INGEST, **more})


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("10s:2d", ""),
        ("10s@1ms:2d", ""),
        ("5m:1h", ""),
        ("10s:31d", "no aggregated namespace has this resolution and retention (those that may be written: 10s:2d)"),
        ("1m:40d", "its namespace is read-only"),
    ],
)
def test_a_policy_needs_a_namespace_that_may_be_written_unless_it_is_thrown_away(policy: str, reason: str) -> None:
    found = storage_judge(config())(StoragePolicy.parse(policy))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


@pytest.mark.parametrize("more", [{"ingest": None}, {"backend": "noop-etcd"}, {"clusters": []}])
def test_a_coordinator_that_stores_nothing_or_does_not_know_the_namespaces_judges_nothing(more: dict[str, Any]) -> None:
    assert storage_judge(config(**more))(StoragePolicy.parse("10s:31d")) == ""
