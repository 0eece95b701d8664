"""The columns that kernels fill and read: one row per message of a batch, and per series for encoders.

Byte ranges are offsets into the batch buffer, so nothing is copied while decoding. Formats: docs/m3/metrics.md, messages.
"""

from enum import IntEnum

import numpy as np


class Payload(IntEnum):
    """``MetricWithMetadatas.type``. The untimed ones have the numbers of their ``MetricType``."""

    COUNTER = 1
    TIMERS = 2
    GAUGE = 3
    FORWARDED = 4
    TIMED = 5
    STAGED_TIMED = 6
    PASSTHROUGH = 7


METRIC_ROW = np.dtype(
    [
        ("value", np.float64),  # gauge and timed value
        ("count", np.int64),  # counter value
        ("time_ns", np.int64),  # timed/forwarded/passthrough: time_nanos; untimed: client_time_nanos
        ("id_at", np.uint32),  # metric id bytes
        ("id_size", np.uint32),
        (
            "meta_at",
            np.uint32,
        ),  # metadata message: staged metadatas, timed metadata, forward metadata or passthrough's policies
        ("meta_size", np.uint32),
        ("annotation_at", np.uint32),
        ("annotation_size", np.uint32),
        ("values_at", np.uint32),  # packed doubles of a batch timer or forwarded metric
        ("values_size", np.uint32),  # in bytes, a multiple of 8
        ("previous_at", np.uint32),  # packed prev_values of a forwarded metric
        ("previous_size", np.uint32),
        ("message_at", np.uint32),  # the whole MetricWithMetadatas message
        ("message_size", np.uint32),
        ("version", np.uint32),  # of a forwarded metric
        ("payload", np.uint8),  # Payload
        ("metric_type", np.uint8),  # MetricType
        ("status", np.uint8),  # ROW_*
        ("spare", np.uint8),
    ],
    align=True,
)

ROW_OK = 0
"""Decoded; every field above is set."""
ROW_ODD = 1
"""Legal or not, but of a shape that no encoder writes (repeated sub-messages, unpacked doubles, unknown fields …) or broken: the
plain decoder (``m3metrics.codec``) decides, and names the error. Only ``message_at`` and ``message_size`` are set."""

AGGREGATED_ROW = np.dtype(
    [
        ("value", np.float64),
        ("time_ns", np.int64),
        ("encode_ns", np.int64),
        ("traffic_types", np.uint64),  # routing policy
        ("id_at", np.uint32),  # id bytes, prefix and suffix included
        ("id_size", np.uint32),
        ("annotation_at", np.uint32),
        ("annotation_size", np.uint32),
        ("policy_at", np.uint32),  # content of the StoragePolicy message
        ("policy_size", np.uint32),
        ("message_at", np.uint32),  # the whole AggregatedMetric message
        ("message_size", np.uint32),
        ("metric_type", np.uint8),  # 0 in what an aggregator sends
        ("status", np.uint8),  # ROW_*
    ],
    align=True,
)
"""One row per ``AggregatedMetric`` message of a batch (docs/m3/metrics.md, wrappers)."""

METRIC_TEMPLATE = np.dtype(
    [
        ("id_at", np.uint32),  # ranges in one arena of bytes
        ("id_size", np.uint32),
        ("meta_at", np.uint32),  # content of the StagedMetadatas message
        ("meta_size", np.uint32),
        ("annotation_at", np.uint32),
        ("annotation_size", np.uint32),
        ("metric_type", np.uint8),  # MetricType; written in timed metrics only
        ("untimed", np.uint8),  # 1: sent without a time of its own (``encode_samples``)
    ],
    align=True,
)
"""What is the same in every sample that a producer sends of one series."""
