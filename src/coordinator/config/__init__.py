"""The YAML file of a coordinator as typed sections.

Open ``coordinator`` first: the whole file. ``cluster`` has KV and namespaces, ``client`` the way to the aggregators, ``inside`` the one
of its own that it has without such a way, ``rules`` what is sent there, ``carbon`` and ``ingest`` their listeners, ``sinks``,
``prom_remote`` and ``m3db`` where values are written to, ``forwarding`` where remote writes go as well, ``query`` what holds for queries,
``write_limits`` what tenants may send, ``memory`` how the memory limit is shared out, ``workers`` how many processes take writes;
``idle``, ``tracing`` and ``m3db_idle`` what M3 has and we take without effect. Imports ``m3x``, ``m3metrics``, options of ``m3db`` and the
YAML sections of ``m3msg`` and ``m3cluster``; nothing here reads files or opens sockets.
"""

from coordinator.config.carbon import AggregationConfig, CarbonIngesterConfig, CarbonRuleConfig
from coordinator.config.cluster import Namespace, namespaces_of
from coordinator.config.coordinator import CoordinatorConfig, load_coordinator
from coordinator.config.ingest import IngestConfig
from coordinator.config.query import LimitsConfig

__all__ = [
    "AggregationConfig",
    "CarbonIngesterConfig",
    "CarbonRuleConfig",
    "CoordinatorConfig",
    "IngestConfig",
    "LimitsConfig",
    "Namespace",
    "load_coordinator",
    "namespaces_of",
]
