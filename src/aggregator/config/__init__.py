"""The YAML file of an aggregator instance as typed sections, and what follows from it.

Open ``service`` first: the whole file. ``aggregator`` and ``flush`` hold its larger sections (the producer's is
``m3msg.producer.options``, the KV's ``m3cluster.kv.sections``), ``blocks`` what several sections share. ``derived`` computes (jitter,
delays, keys, engine options) and says what one section makes wrong in another; ``host_id`` says who we are; ``certificates`` whether
files of TLS can be used; ``loading`` does it all. Imports ``m3x``, ``m3metrics``, sections and keys of ``m3msg`` and ``m3cluster``, and
``aggregator.engine.options``; nothing here opens sockets.
"""

from aggregator.config.aggregator import AggregatorSection
from aggregator.config.blocks import ServiceIDConfig
from aggregator.config.certificates import certificate_problems
from aggregator.config.derived import (
    KVKeys,
    buffer_past_ns,
    engine_options,
    entry_check_interval_ns,
    flush_jitters,
    instance_memory,
    kv_keys,
    new_metric_limit,
    retained_bytes,
    timing,
)
from aggregator.config.flush import DynamicBackendConfig, FlushManagerConfig, HandlerConfig, JitterBucket
from aggregator.config.host_id import host_id, instance_id
from aggregator.config.loading import load_config
from aggregator.config.service import LONGEST_RUN_DIRECTORY, KVClientConfig, MetricsConfig, ServiceConfig
from m3msg.producer.client import ClientConfig

__all__ = [
    "LONGEST_RUN_DIRECTORY",
    "AggregatorSection",
    "ClientConfig",
    "DynamicBackendConfig",
    "FlushManagerConfig",
    "HandlerConfig",
    "JitterBucket",
    "KVClientConfig",
    "KVKeys",
    "MetricsConfig",
    "ServiceConfig",
    "ServiceIDConfig",
    "buffer_past_ns",
    "certificate_problems",
    "engine_options",
    "entry_check_interval_ns",
    "flush_jitters",
    "host_id",
    "instance_id",
    "instance_memory",
    "kv_keys",
    "load_config",
    "new_metric_limit",
    "retained_bytes",
    "timing",
]
