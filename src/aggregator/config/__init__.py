"""The YAML file of an aggregator instance as typed sections, and what follows from it.

Open ``service`` first: the whole file. ``aggregator``, ``flush`` and ``producer`` hold its larger sections; ``derived`` computes (jitter,
delays, keys, engine options); ``host_id`` says who we are. Imports ``m3x``, ``m3metrics`` and ``aggregator.engine.options`` only; nothing
here opens sockets.
"""

from aggregator.config.aggregator import AggregatorSection, ClientConfig
from aggregator.config.derived import (
    KVKeys,
    buffer_past_ns,
    engine_options,
    forwarding_delay_ns,
    kv_keys,
    max_jitter_ns,
    new_metric_limit,
)
from aggregator.config.flush import DynamicBackendConfig, FlushManagerConfig, HandlerConfig, JitterBucket
from aggregator.config.host_id import host_id, instance_id
from aggregator.config.loading import load_config
from aggregator.config.producer import ProducerConfig, RetryConfig
from aggregator.config.service import KVClientConfig, MetricsConfig, ServiceConfig

__all__ = [
    "AggregatorSection",
    "ClientConfig",
    "DynamicBackendConfig",
    "FlushManagerConfig",
    "HandlerConfig",
    "JitterBucket",
    "KVClientConfig",
    "KVKeys",
    "MetricsConfig",
    "ProducerConfig",
    "RetryConfig",
    "ServiceConfig",
    "buffer_past_ns",
    "engine_options",
    "forwarding_delay_ns",
    "host_id",
    "instance_id",
    "kv_keys",
    "load_config",
    "max_jitter_ns",
    "new_metric_limit",
]
