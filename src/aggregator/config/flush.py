"""Flushing, election and output in YAML (docs/m3/aggregation.md, aggregator section; flush handlers)."""

from typing import Literal, Self

import msgspec

from aggregator.config.blocks import MILLISECOND, MINUTE, SECOND, ServiceIDConfig
from m3cluster.kv.sections import KVOverride
from m3metrics.sections import PolicyText
from m3msg.producer.filters import PolicyTable, ShardSetFilter, StoragePolicyFilter
from m3msg.producer.options import ProducerOptions, WriterOptions
from m3x.config import Duration, EmptyIsDefault, Meaningless, Rate, Section
from m3x.pools import BucketizedPoolConfig
from m3x.sections import RetryConfig


class FlushTimesManagerConfig(Section, frozen=True, kw_only=True):
    """``flushTimesManager``."""

    kv_config: KVOverride = KVOverride()
    flush_times_key_fmt: str = "shardset/%d/flush"
    flush_times_persist_retrier: RetryConfig = RetryConfig(
        initial_backoff=Duration(100 * MILLISECOND), max_backoff=Duration(2 * SECOND), max_retries=3
    )

    def __post_init__(self) -> None:
        _check_format("flushTimesKeyFmt", self.flush_times_key_fmt)


class ElectionTimingConfig(Section, frozen=True, kw_only=True):
    """``electionManager.election``."""

    leader_timeout: Duration = Duration(10 * SECOND)
    resign_timeout: Duration = Duration(10 * SECOND)
    ttl_seconds: int = 0
    """0: 60, as etcd's library has it."""

    def __post_init__(self) -> None:
        if self.ttl_seconds < 0 or self.ttl_seconds in (1, 2):
            raise ValueError("ttlSeconds must be at least 3: a leader stops 1 s before its lease ends")

    @property
    def ttl_s(self) -> int:
        """Time to live of the lease in seconds."""
        return self.ttl_seconds or 60


class ElectionManagerConfig(Section, frozen=True, kw_only=True):
    """``electionManager``."""

    election: ElectionTimingConfig = ElectionTimingConfig()
    service_id: ServiceIDConfig = msgspec.field(default=ServiceIDConfig(), name="serviceID")
    leader_value: str = ""
    """Empty: the instance id."""
    election_key_fmt: str = "shardset/%d/lock"
    campaign_retrier: RetryConfig = RetryConfig()
    change_retrier: RetryConfig = RetryConfig()
    resign_retrier: RetryConfig = RetryConfig()
    campaign_state_check_interval: Duration = Duration(SECOND)
    shard_cutoff_check_offset: Duration = Duration(30 * SECOND)

    def __post_init__(self) -> None:
        _check_format("electionKeyFmt", self.election_key_fmt)

    @classmethod
    def when_absent(cls, campaign_max: Duration, change_max: Duration) -> Self:
        """M3's values when there is no ``aggregator`` section."""
        first = Duration(100 * MILLISECOND)
        return cls(
            election=ElectionTimingConfig(ttl_seconds=10),
            service_id=ServiceIDConfig(name="m3aggregator", environment="default_env", zone="embedded"),
            campaign_retrier=RetryConfig(initial_backoff=first, max_backoff=campaign_max),
            change_retrier=RetryConfig(initial_backoff=first, max_backoff=change_max),
            resign_retrier=RetryConfig(initial_backoff=first, max_backoff=change_max),
        )


class JitterBucket(Section, frozen=True, kw_only=True):
    """``maxJitters[]``."""

    flush_interval: Duration
    max_jitter_percent: float = 1.0
    """A fraction: 0.5 is half of the interval."""

    def __post_init__(self) -> None:
        if self.flush_interval <= 0:
            raise ValueError("flushInterval must be above 0")
        if not 0.0 <= self.max_jitter_percent <= 1.0:
            raise ValueError(f"maxJitterPercent is a fraction between 0 and 1, found {self.max_jitter_percent:g}")


DEFAULT_MAX_JITTERS = (
    JitterBucket(flush_interval=Duration(5 * SECOND), max_jitter_percent=1.0),
    JitterBucket(flush_interval=Duration(10 * SECOND), max_jitter_percent=0.5),
    JitterBucket(flush_interval=Duration(MINUTE), max_jitter_percent=0.5),
    JitterBucket(flush_interval=Duration(10 * MINUTE), max_jitter_percent=0.5),
    JitterBucket(flush_interval=Duration(60 * MINUTE), max_jitter_percent=0.25),
)
"""M3's table; M3 itself crashes at the first list when jitter is on and a present section has no table."""


class FlushManagerConfig(Section, frozen=True, kw_only=True):
    """``flushManager``."""

    check_every: Duration = Duration(SECOND)
    jitter_enabled: bool = True
    max_jitters: list[JitterBucket] | None = None
    """None: ``DEFAULT_MAX_JITTERS``."""
    num_workers_per_cpu: Meaningless[Rate] = msgspec.field(default=None, name="numWorkersPerCPU")
    flush_times_persist_every: Meaningless[Duration] = None
    max_buffer_size: Duration = Duration(5 * MINUTE)
    forced_flush_window_size: Duration = Duration(10 * SECOND)

    def __post_init__(self) -> None:
        if self.check_every <= 0 or self.max_buffer_size <= 0 or self.forced_flush_window_size <= 0:
            raise ValueError("checkEvery, maxBufferSize and forcedFlushWindowSize must be above 0")
        if self.max_jitters is not None and not self.max_jitters:
            raise ValueError("maxJitters must not be empty; leave the key out for the defaults")

    @property
    def jitters(self) -> tuple[JitterBucket, ...]:
        """The table in order of interval."""
        return tuple(sorted(self.max_jitters or DEFAULT_MAX_JITTERS, key=lambda bucket: bucket.flush_interval))


class StaticBackendConfig(Section, frozen=True, kw_only=True):
    """``staticBackend``: output that goes nowhere, or into the log."""

    type: Literal["blackhole", "logging"]
    name: str = ""


class ShardSetFilterConfig(Section, frozen=True, kw_only=True):
    """``filters[]``: a consumer service gets only these shards."""

    service_id: ServiceIDConfig = msgspec.field(name="serviceID")
    shard_set: str | list[str]
    """``7``, ``0..31``, or a list of these."""


class StoragePolicyFilterConfig(Section, frozen=True, kw_only=True):
    """``storagePolicyFilters[]``."""

    service_id: ServiceIDConfig = msgspec.field(name="serviceID")
    storage_policies: list[PolicyText]


class PercentageFilterConfig(Section, frozen=True, kw_only=True):
    """``percentageFilters[]``."""

    service_id: ServiceIDConfig = msgspec.field(name="serviceID")
    percentage: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.percentage <= 1.0:
            raise ValueError(f"percentage is a fraction between 0 and 1, found {self.percentage:g}")


class RoutingPolicyFilterConfig(Section, frozen=True, kw_only=True):
    """``routingPolicyFilters[]``."""

    service_id: ServiceIDConfig = msgspec.field(name="serviceID")
    is_default: bool = False
    allowed_traffic_types: list[str] = []


class BackendWriterConfig(Section, frozen=True, kw_only=True):
    """``dynamicBackend.writer``."""

    bytes_pool: BucketizedPoolConfig | None = None
    encoding_time_sampling_rate: Rate = 0.0


class RoutingPolicyConfig(Section, frozen=True, kw_only=True):
    """``routingPolicyConfig``: where traffic types are listed, which nothing here looks at."""

    kv_config: KVOverride = KVOverride()
    kv_key: str = ""


class DynamicBackendConfig(Section, frozen=True, kw_only=True):
    """``dynamicBackend``: an m3msg producer."""

    former = {
        "totalShards": "remove it; the topic in KV says how many shards there are",
        "protobufEnabled": "remove it; messages are always encoded so",
    }
    name: str = ""
    hash_type: EmptyIsDefault[Literal["murmur32"]] = "murmur32"
    producer: ProducerOptions
    filters: list[ShardSetFilterConfig] = []
    storage_policy_filters: list[StoragePolicyFilterConfig] = []
    percentage_filters: list[PercentageFilterConfig] = []
    routing_policy_filters: list[RoutingPolicyFilterConfig] = []
    routing_policy_config: RoutingPolicyConfig | None = None
    """Kept to be refused with a reason when filters would need it; without it M3 applies none of them either."""
    writer: Meaningless[BackendWriterConfig] = None

    def __post_init__(self) -> None:
        if self.routing_policy_config is not None and self.routing_policy_filters:
            raise ValueError("routingPolicyFilters are not available: remove them, or routingPolicyConfig")
        for one in self.filters:
            ShardSetFilter.parse(one.shard_set)
        for policies in self.storage_policy_filters:
            StoragePolicyFilter(policies.storage_policies, PolicyTable())


class HandlerConfig(Section, frozen=True, kw_only=True):
    """``handlers[]``: exactly one of both."""

    static_backend: StaticBackendConfig | None = None
    dynamic_backend: DynamicBackendConfig | None = None

    def __post_init__(self) -> None:
        if self.static_backend is None and self.dynamic_backend is None:
            raise ValueError("neither dynamic nor static backend was configured")
        if self.static_backend is not None and self.dynamic_backend is not None:
            raise ValueError("both dynamic and static backend were configured")


class FlushConfig(Section, frozen=True, kw_only=True):
    """``flush``: where aggregated metrics go; all handlers get everything."""

    former = {"writer": "write it into the handler, as handlers: [{dynamicBackend: {writer: …}}]"}
    handlers: list[HandlerConfig]

    def __post_init__(self) -> None:
        if not self.handlers:
            raise ValueError("no handler configuration")

    @classmethod
    def when_absent(cls) -> Self:
        """M3's output when there is no ``aggregator`` section."""
        writer = WriterOptions(topic_name="aggregated_metrics")
        backend = DynamicBackendConfig(name="m3msg", producer=ProducerOptions(writer=writer))
        return cls(handlers=[HandlerConfig(dynamic_backend=backend)])


def _check_format(name: str, text: str) -> None:
    if text.count("%d") != 1 or text.replace("%d", "").count("%"):
        raise ValueError(f"{name} must contain %d once, for the shard set id, found {text!r}")
