"""The YAML keys of M3 (docs/m3/m3msg.md, producer options) and their defaults."""

from pathlib import Path

import pytest

from m3msg.producer.connection import dial_backoff
from m3msg.producer.options import (
    ConnectionOptions,
    MessageRetryOptions,
    ProducerOptions,
    StaticRetryOptions,
    WriterOptions,
)
from m3msg.producer.rows import FRAME_OVERHEAD
from m3x.config import ConfigError, Duration, load
from m3x.sections import RetryConfig

EVERY_KEY = """
buffer:
  onFullStrategy: returnError
  maxBufferSize: 1000000000
  maxMessageSize: 1024
  closeCheckInterval: 2s
  dropOldestInterval: 500ms
  scanBatchSize: 128
  allowedSpilloverRatio: 0.1
  cleanupRetry: {initialBackoff: 1m}
writer:
  topicName: aggregator_ingest
  topicServiceOverride: {zone: z, environment: e, namespace: names}
  topicWatchInitTimeout: 1s
  placement: {isStaged: true, isSharded: true, isMirrored: true, allowPartialReplace: true, allowAllZones: true,
              addAllCandidates: true, shardStateMode: 1, skipPortMirroring: true, validZone: z}
  placementServiceOverride: {namespaces: {placement: /placement, metadata: m}}
  placementWatchInitTimeout: 3s
  messagePool: {size: 5, watermark: {low: 0.1, high: 0.2}}
  messageQueueNewWritesScanInterval: 1s
  messageQueueFullScanInterval: 10s
  messageQueueScanBatchSize: 16
  initialAckMapSize: 1024
  closeCheckInterval: 2s
  ackErrorRetry: {initialBackoff: 2ms}
  encoder: {maxMessageSize: 1000, bytesPool: {watermark: {low: 0.01}}}
  decoder: {maxMessageSize: 2000}
  messageRetry: {initialBackoff: 1m, maxBackoff: 2m}
  ignoreCutoffCutover: true
  withoutConsumerScope: true
  messageWriterGracefulCloseKey: key
  messageWriterGracefulCloseKVOverride: {zone: z}
  connection:
    numConnections: 2
    dialTimeout: 3s
    writeTimeout: 2s
    keepAlivePeriod: 20s
    resetDelay: 1s
    retry: {initialBackoff: 1s, maxBackoff: 10s, forever: true}
    flushInterval: 2s
    writeBufferSize: 100
    readBufferSize: 200
    abortOnServerClose: true
    forcedFlushTimeout: 4s
"""


def read(tmp_path: Path, text: str) -> ProducerOptions:
    path = tmp_path / "producer.yml"
    path.write_text(text)
    return load([path], ProducerOptions).value


def test_every_key_of_m3_loads(tmp_path: Path):
    options = read(tmp_path, EVERY_KEY)
    assert options.buffer.on_full_strategy == "returnError"
    assert options.writer.topic_service_override.namespace == "names"
    assert options.writer.placement.is_staged
    assert options.writer.placement_service_override.namespaces.placement == "/placement"
    assert options.writer.connection.num_connections == 2
    assert options.writer.connection.retry.backoff().max_s == 10.0
    assert options.writer.ignore_cutoff_cutover


def test_defaults_are_those_of_m3(tmp_path: Path):
    options = read(tmp_path, "writer: {topicName: t}")
    assert options.buffer.max_buffer_size == 104857600
    assert options.buffer.max_message_size == 1048576
    assert options.writer.connection.num_connections == 4
    assert options.writer.connection.dial_timeout == Duration.parse("5s")
    assert options.writer.placement_service_override.namespaces.placement == "_sd.placement"
    assert options.writer.encoder.max_message_size == 4194304


@pytest.mark.parametrize(
    ("more", "largest"),
    [
        ("", 1 << 20),
        ("buffer: {maxMessageSize: 1000}", 1000),
        ("writer: {encoder: {maxMessageSize: 1000}}", 1000 - FRAME_OVERHEAD),
    ],
)
def test_the_largest_message_fits_into_buffer_and_frame(tmp_path: Path, more: str, largest: int):
    (tmp_path / "more.yml").write_text(more)
    (tmp_path / "topic.yml").write_text("writer: {topicName: t}")
    options = load([tmp_path / "topic.yml", tmp_path / "more.yml"], ProducerOptions).value
    assert options.largest_message == largest


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("writer: {topicName: ''}", "topicName"),
        ("writer: {topicName: t, connection: {numConnections: 0}}", "numConnections"),
        ("writer: {topicName: t, messageRetry: {}, staticMessageRetry: {backoff: [1s]}}", "exclude each other"),
        ("writer: {topicName: t, staticMessageRetry: {backoff: []}}", "at least one"),
        ("writer: {topicName: t}\nbuffer: {onFullStrategy: panic}", "onFullStrategy"),
        ("writer: {topicName: t}\nbuffer: {maxBufferSize: 10, maxMessageSize: 20}", "exceeds"),
        ("writer: {topicName: t, topicNam: x}", "unknown key"),
    ],
)
def test_impossible_values_are_named(tmp_path: Path, text: str, problem: str):
    with pytest.raises(ConfigError, match=problem):
        read(tmp_path, text)


def test_message_retry_as_pinned_by_m3():
    """docs/m3/m3msg.md, message retry: with jitter 1m..2m gives (0, 1m), [1m, 2m), then exactly 2m; a static list repeats its last."""
    minute = 60 * 10**9
    retry = MessageRetryOptions(initial_backoff=Duration(minute), max_backoff=Duration(2 * minute))
    delay = WriterOptions(topic_name="t", message_retry=retry).retry_delay_ns()
    for _ in range(50):
        assert minute // 2 <= delay(1) < minute
        assert minute <= delay(2) < 2 * minute
        assert delay(3) == 2 * minute
    default = WriterOptions(topic_name="t").retry_delay_ns()
    assert all(2.5e9 <= default(1) <= 5e9 for _ in range(50))
    assert default(200) > 0
    static = StaticRetryOptions(backoff=[Duration(minute), Duration(10), Duration(5)])
    delay = WriterOptions(topic_name="t", static_message_retry=static).retry_delay_ns()
    assert [delay(a) for a in (1, 2, 3, 4, 9)] == [minute, 10, 5, 5, 5]


def test_an_instance_that_is_away_is_dialled_every_second_whatever_the_configured_maximum_is() -> None:
    waits = [dial_backoff(ConnectionOptions()).delay(attempt) for attempt in range(1, 60)]
    assert waits[0] <= 0.1
    assert 0.5 <= min(waits[10:]) <= max(waits) <= 1.0
    slow = ConnectionOptions(retry=RetryConfig(initial_backoff=Duration(4_000_000_000)))
    assert max(dial_backoff(slow).delay(attempt) for attempt in range(1, 60)) <= 4.0, "who wants it rarer has it rarer"
