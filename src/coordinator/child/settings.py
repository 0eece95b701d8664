"""What the aggregator inside is told: its configuration file, made of the coordinator's, and the options of the way there. Pure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.config import CoordinatorConfig
from coordinator.config.memory import MemoryShares
from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE
from m3metrics.past_limits import DEFAULT_PAST_LIMITS
from m3msg.producer.options import (
    BufferOptions,
    ConnectionOptions,
    PlacementNamespaces,
    PlacementOptions,
    PlacementServiceOverride,
    ProducerOptions,
    WriterOptions,
)
from m3x.config import Duration
from m3x.endpoints import UNIX
from m3x.memory import UNLIMITED
from m3x.sections import RetryConfig

__all__ = [
    "AGGREGATOR",
    "COORDINATOR",
    "INGEST_TOPIC",
    "INSTANCE_ID",
    "OUTPUT_TOPIC",
    "Places",
    "document",
    "producer_options",
]

AGGREGATOR, COORDINATOR = "m3aggregator", "m3coordinator"
INGEST_TOPIC, OUTPUT_TOPIC = "aggregator_ingest", "aggregated_metrics"
INSTANCE_ID = "embedded"
_PLACEMENT_NAMESPACE = "/placement"
_TRANSIT = "1s"
"""Between the door, where samples are judged, and the front."""
_FUTURE_SLACK_S = 60
"""Samples from the future are judged at the door, too; clocks may be set between there and the front."""
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are: ``run`` has the sockets and the configuration file, ``data`` what outlives the process."""

    run: Path
    data: Path

    @property
    def samples(self) -> str:
        """Where the aggregator takes m3msg."""
        return f"{UNIX}{self.run / 'samples'}"

    @property
    def values(self) -> str:
        """Where the coordinator takes what is aggregated."""
        return f"{UNIX}{self.run / 'values'}"

    @property
    def pages(self) -> Path:
        """Where the aggregator serves HTTP."""
        return self.run / "pages"

    @property
    def kv(self) -> Path:
        """The embedded KV."""
        return self.data / "kv.sqlite"


def producer_options(shares: MemoryShares) -> ProducerOptions:
    """The way of samples to the aggregator: one connection that is there again at once."""
    default = BufferOptions()
    return ProducerOptions(
        writer=WriterOptions(
            topic_name=INGEST_TOPIC,
            placement=PlacementOptions(is_staged=True),
            placement_service_override=PlacementServiceOverride(
                namespaces=PlacementNamespaces(placement=_PLACEMENT_NAMESPACE)
            ),
            connection=ConnectionOptions(
                num_connections=1,
                retry=RetryConfig(initial_backoff=Duration(_SECOND // 20), max_backoff=Duration(_SECOND // 4)),
            ),
        ),
        buffer=BufferOptions(
            on_full_strategy="returnError",
            max_buffer_size=max(min(default.max_buffer_size, shares.buffer), default.max_message_size),
        ),
    )


def document(config: CoordinatorConfig, places: Places, shares: MemoryShares) -> dict[str, Any]:
    """The configuration file of the aggregator; where M3 has options for its embedded one, they are in effect."""
    inside, section = config.embedded_aggregator, config.downsample
    writer = {"topicName": INGEST_TOPIC, "placement": {"isStaged": True}, "connection": {"numConnections": 1}}
    writer["placementServiceOverride"] = {"namespaces": {"placement": _PLACEMENT_NAMESPACE}}
    output = {"topicName": OUTPUT_TOPIC, "connection": {"numConnections": 1}}
    return {
        "logging": {"level": config.logging.level, "fields": {**config.logging.fields, "part": "aggregator"}},
        "metrics": {
            "scope": {"prefix": f"{config.metrics.scope.prefix}_downsampler", "tags": config.metrics.scope.tags},
            "prometheus": {},
        },
        "m3msg": {"server": {"listenAddress": places.samples}},
        "http": {"listenAddress": f"{UNIX}{places.pages}"},
        "kvClient": {"embedded": {"path": str(places.kv)}},
        "aggregator": {
            "hostID": {"resolver": "config", "value": INSTANCE_ID},
            "instanceID": {"type": "host_id"},
            **dict.fromkeys(("metricPrefix", "counterPrefix", "timerPrefix", "gaugePrefix"), ""),
            "aggregationTypes": _aggregation_types(config),
            "client": {"type": "m3msg", "m3msg": {"producer": {"writer": writer}}},
            "placementManager": {"kvConfig": {"namespace": _PLACEMENT_NAMESPACE}},
            "bufferPastLimits": _past_limits(config),
            "bufferDurationForFutureTimedMetric": f"{60 + _FUTURE_SLACK_S}s",
            "electionManager": {
                "election": {"ttlSeconds": 10},
                "serviceID": {"name": AGGREGATOR, "environment": DEFAULT_ENVIRONMENT, "zone": DEFAULT_ZONE},
            },
            "flushManager": {"jitterEnabled": False},
            "flush": {"handlers": [{"dynamicBackend": {"name": "m3msg", "producer": {"writer": output}}}]},
            "entryTTL": "1h" if section is None or not section.entry_ttl else f"{int(section.entry_ttl)}ns",
            "entryCheckInterval": "10m",
            "timedMetricsFlushOffsetEnabled": True,
        },
        "instance": {
            "workers": inside.worker_count,
            "runDirectory": str(places.run),
            "journalSync": inside.journal_sync,
            "memoryLimitBytes": shares.windows if config.memory.nbytes else UNLIMITED,
            "transitTime": _TRANSIT,
        },
    }


def _aggregation_types(config: CoordinatorConfig) -> dict[str, Any]:
    """What M3 makes of ``downsample.aggregationTypes``: where it is present, what it leaves out is noop."""
    given = config.downsample.aggregation_types if config.downsample is not None else None
    if given is None:
        return {
            "counterTransformFnType": "empty",
            "timerTransformFnType": "suffix",
            "gaugeTransformFnType": "empty",
        }
    return {
        "defaultCounterAggregationTypes": given.default_counter_aggregation_types,
        "defaultTimerAggregationTypes": given.default_timer_aggregation_types,
        "defaultGaugeAggregationTypes": given.default_gauge_aggregation_types,
        "counterTransformFnType": given.counter_transform_fn_type,
        "timerTransformFnType": given.timer_transform_fn_type,
        "gaugeTransformFnType": given.gauge_transform_fn_type,
    }


def _past_limits(config: CoordinatorConfig) -> list[dict[str, str]]:
    limits = config.past_limits or DEFAULT_PAST_LIMITS
    return [{"resolution": f"{resolution}ns", "bufferPast": f"{past}ns"} for resolution, past in limits.limits]
