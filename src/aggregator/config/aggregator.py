"""The ``aggregator:`` section (docs/m3/aggregation.md, aggregator section).

Defaults in the classes are those of a section that is present without the key; ``aggregator_when_absent`` has those of no section at all.
"""

from typing import Literal

import msgspec

from aggregator.config.blocks import MINUTE, SECOND
from aggregator.config.flush import ElectionManagerConfig, FlushConfig, FlushManagerConfig, FlushTimesManagerConfig
from m3cluster.kv.sections import KVOverride, PlacementWatcherSection
from m3metrics.sections import AggregationTypesConfig, BufferPastLimitConfig, PolicyText
from m3msg.producer.client import ClientConfig, M3MsgClientConfig
from m3msg.producer.options import (
    PlacementNamespaces,
    PlacementOptions,
    PlacementServiceOverride,
    ProducerOptions,
    WriterOptions,
)
from m3x.config import Duration, EmptyIsDefault, Meaningless, Rate, Section
from m3x.pools import BucketizedPoolConfig, ObjectPoolConfig


class FileHostIDConfig(Section, frozen=True, kw_only=True):
    """``hostID.file``: the id is in a file, which may appear later."""

    path: str
    timeout: Duration | None = None


class HostnameConfig(Section, frozen=True, kw_only=True):
    """``hostID.hostname``: a format in which ``{{.Hostname}}`` stands for the host name."""

    format: str = ""


class HostIDConfig(Section, frozen=True, kw_only=True):
    """``hostID``."""

    resolver: Literal["hostname", "config", "environment", "file"] = "hostname"
    value: str = ""
    env_var_name: str = ""
    file: FileHostIDConfig | None = None
    hostname: HostnameConfig = HostnameConfig()

    def __post_init__(self) -> None:
        if self.resolver == "config" and not self.value:
            raise ValueError("resolver config needs value")
        if self.resolver == "environment" and not self.env_var_name:
            raise ValueError("resolver environment needs envVarName")
        if self.resolver == "file" and (self.file is None or not self.file.path):
            raise ValueError("resolver file needs file.path")


class InstanceIDConfig(Section, frozen=True, kw_only=True):
    """``instanceID``: the id of this instance in the placement."""

    type: EmptyIsDefault[Literal["host_id", "host_id_port"]] = "host_id_port"


class StreamConfig(Section, frozen=True, kw_only=True):
    """``stream``: M3's sketch; quantiles are exact here, so it only has to be plausible."""

    eps: float = 0.0
    capacity: Meaningless[int] = None
    insert_and_compress_every: Meaningless[int] = None
    flush_every: Meaningless[int] = None
    stream_pool: Meaningless[ObjectPoolConfig] = None
    sample_pool: Meaningless[ObjectPoolConfig] = None
    floats_pool: Meaningless[BucketizedPoolConfig] = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.eps < 0.5:
            raise ValueError(f"eps must be at least 0 and below 0.5, found {self.eps:g}")


class PlacementWatcherConfig(PlacementWatcherSection, frozen=True, kw_only=True):
    """``placementManager.placementWatcher``."""

    key: str = "m3aggregator"

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("key must not be empty")


class PlacementManagerConfig(Section, frozen=True, kw_only=True):
    """``placementManager``."""

    kv_config: KVOverride = KVOverride()
    placement_watcher: PlacementWatcherConfig = PlacementWatcherConfig()


class ForwardingConfig(Section, frozen=True, kw_only=True):
    """``forwarding``: how long a rollup may take (docs/m3/aggregation.md, jitter and delays)."""

    max_single_delay: Duration = Duration(0)
    max_const_delay: Duration = Duration(0)


class PassthroughConfig(Section, frozen=True, kw_only=True):
    """``passthrough``."""

    enabled: bool = False
    num_writers: Meaningless[int] = None


class FlagBundleConfig(Section, frozen=True, kw_only=True):
    """``featureFlags[].flags``."""


class FeatureFlagConfig(Section, frozen=True, kw_only=True):
    """``featureFlags[]``."""

    flags: FlagBundleConfig | None = None
    filter: dict[str, str] = {}


class AggregatorSection(Section, frozen=True, kw_only=True):
    """``aggregator``."""

    host_id: HostIDConfig = msgspec.field(default=HostIDConfig(), name="hostID")
    instance_id: InstanceIDConfig = msgspec.field(default=InstanceIDConfig(), name="instanceID")
    verbose_errors: bool = False
    """Without effect: what is wrong with a sample is always told in full."""
    metric_prefix: str = "stats."
    counter_prefix: str = "counts."
    timer_prefix: str = "timers."
    gauge_prefix: str = "gauges."
    aggregation_types: AggregationTypesConfig = AggregationTypesConfig()
    stream: StreamConfig = StreamConfig()
    client: ClientConfig = ClientConfig()
    placement_manager: PlacementManagerConfig = PlacementManagerConfig()
    hash_type: EmptyIsDefault[Literal["murmur32"]] = "murmur32"
    buffer_duration_before_shard_cutover: Duration = Duration(0)
    """This and the other buffers: 0 means the default."""
    buffer_duration_after_shard_cutoff: Duration = Duration(0)
    buffer_duration_for_past_timed_metric: Duration = Duration(0)
    buffer_duration_for_future_timed_metric: Duration = Duration(0)
    buffer_past_limits: list[BufferPastLimitConfig] = []
    """Ours, as in a coordinator's ``downsample``: how late timed samples may be by resolution, instead of one time to which the resolution
    is added. Forwarded ones then have this and their resolution as often as they were forwarded (``forwarding`` does not count)."""
    resign_timeout: Duration = Duration(5 * MINUTE)
    shutdown_wait_timeout: Duration = Duration(0)
    flush_times_manager: FlushTimesManagerConfig = FlushTimesManagerConfig()
    election_manager: ElectionManagerConfig = ElectionManagerConfig()
    flush_manager: FlushManagerConfig = FlushManagerConfig()
    flush: FlushConfig
    passthrough: PassthroughConfig | None = None
    forwarding: ForwardingConfig = ForwardingConfig()
    entry_ttl: Duration = msgspec.field(default=Duration(0), name="entryTTL")
    entry_check_interval: Duration = Duration(0)
    entry_check_batch_percent: Meaningless[Rate] = None
    max_timer_batch_size_per_write: int = 0
    default_storage_policies: list[PolicyText] = []
    max_num_cached_source_sets: Meaningless[int] = None
    discard_nan_aggregated_values: bool = msgspec.field(default=True, name="discardNaNAggregatedValues")
    entry_pool: Meaningless[ObjectPoolConfig] = None
    counter_elem_pool: Meaningless[ObjectPoolConfig] = None
    timer_elem_pool: Meaningless[ObjectPoolConfig] = None
    gauge_elem_pool: Meaningless[ObjectPoolConfig] = None
    add_to_reset: bool = False
    timed_metrics_flush_offset_enabled: bool = False
    writes_ignore_cutoff_cutover: bool = False
    feature_flags: Meaningless[list[FeatureFlagConfig]] = None

    def __post_init__(self) -> None:
        self.refuse_negative(
            "buffer_duration_before_shard_cutover", "buffer_duration_after_shard_cutoff",
            "buffer_duration_for_past_timed_metric", "buffer_duration_for_future_timed_metric",
            "resign_timeout", "shutdown_wait_timeout", "entry_ttl", "entry_check_interval",
            "max_timer_batch_size_per_write",
        )  # fmt: skip


def aggregator_when_absent() -> AggregatorSection:
    """What M3 uses when the file has no ``aggregator`` section."""
    election_retry, change_retry = Duration(2 * SECOND), Duration(5 * SECOND)
    return AggregatorSection(
        host_id=HostIDConfig(resolver="config", value="m3aggregator_local"),
        instance_id=InstanceIDConfig(type="host_id"),
        metric_prefix="",
        counter_prefix="",
        timer_prefix="",
        gauge_prefix="",
        aggregation_types=AggregationTypesConfig(
            counter_transform_fn_type="empty", timer_transform_fn_type="suffix", gauge_transform_fn_type="empty"
        ),
        stream=StreamConfig(eps=0.001),
        client=ClientConfig(
            type="m3msg",
            m3msg=M3MsgClientConfig(
                producer=ProducerOptions(
                    writer=WriterOptions(
                        topic_name="aggregator_ingest",
                        placement=PlacementOptions(is_staged=True),
                        placement_service_override=PlacementServiceOverride(
                            namespaces=PlacementNamespaces(placement="/placement")
                        ),
                    )
                )
            ),
        ),
        placement_manager=PlacementManagerConfig(kv_config=KVOverride(namespace="/placement")),
        buffer_duration_after_shard_cutoff=Duration(10 * MINUTE),
        buffer_duration_for_past_timed_metric=Duration(10 * MINUTE),
        buffer_duration_for_future_timed_metric=Duration(10 * MINUTE),
        resign_timeout=Duration(MINUTE),
        election_manager=ElectionManagerConfig.when_absent(election_retry, change_retry),
        flush=FlushConfig.when_absent(),
        passthrough=PassthroughConfig(enabled=True),
        forwarding=ForwardingConfig(max_const_delay=Duration(MINUTE)),
        entry_check_interval=Duration(10 * MINUTE),
        max_timer_batch_size_per_write=140,
    )
