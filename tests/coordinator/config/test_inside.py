"""When aggregation happens inside, and what follows from it."""

from pathlib import Path

import pytest

from coordinator.config import CoordinatorConfig, load_coordinator
from coordinator.config.inside import EmbeddedAggregatorConfig
from coordinator.config.memory import memory_shares
from m3metrics.past_limits import DEFAULT_PAST_LIMITS, PastLimits
from m3x.config import ConfigError
from m3x.memory import memory_limit

S = 1_000_000_000
AGGREGATED = "clusters: [{namespaces: [{namespace: n, type: aggregated, resolution: 10s, retention: 48h}]}]\n"
RAW = "clusters: [{namespaces: [{namespace: n, retention: 48h}]}]\n"
REMOTE = "downsample: {remoteAggregator: {client: {type: m3msg, m3msg: {producer: {writer: {topicName: t}}}}}}\n"


def loaded(folder: Path, text: str) -> CoordinatorConfig:
    path = folder / "c.yml"
    path.write_text(text)
    return load_coordinator([path]).value


@pytest.mark.parametrize(
    ("text", "inside", "waits"),
    [
        (AGGREGATED, True, True),
        (AGGREGATED + "downsample: {rules: {mappingRules: []}}\n", True, True),
        (AGGREGATED + "writes: {ack: buffered}\n", True, False),
        (AGGREGATED + REMOTE, False, False),
        (AGGREGATED + REMOTE + "writes: {ack: aggregated}\n", False, True),
        (AGGREGATED + "embeddedAggregator: {enabled: false}\n", False, False),
        (RAW, False, False),
        ("backend: noop-etcd\n" + AGGREGATED, False, False),
    ],
)
def test_when_aggregation_happens_inside(tmp_path: Path, text: str, inside: bool, waits: bool) -> None:
    config = loaded(tmp_path, text)
    assert (config.aggregates_inside, config.waits_for_aggregators) == (inside, waits)
    assert (config.past_limits is not None) == inside


def test_why_there_are_no_aggregators(tmp_path: Path) -> None:
    assert loaded(tmp_path, AGGREGATED).no_aggregators is None
    text = loaded(tmp_path, AGGREGATED + "embeddedAggregator: {enabled: false}\n").no_aggregators
    assert text is not None
    assert "embeddedAggregator.enabled" in text


def test_past_limits_of_the_file_replace_those_of_m3(tmp_path: Path) -> None:
    assert loaded(tmp_path, AGGREGATED).past_limits == DEFAULT_PAST_LIMITS
    empty = loaded(tmp_path, AGGREGATED + "downsample: {bufferPastLimits: []}\n")
    assert empty.past_limits == DEFAULT_PAST_LIMITS
    given = loaded(tmp_path, AGGREGATED + "downsample: {bufferPastLimits: [{bufferPast: 3s}, {resolution: 1m}]}\n")
    assert given.past_limits == PastLimits(((0, 3 * S), (60 * S, 0)))


def test_options_of_the_embedded_aggregator_beside_a_remote_one_are_said_to_be_in_vain(tmp_path: Path) -> None:
    remote = REMOTE.replace(
        "{remote", "{entryTTL: 2h, aggregationTypes: {}, bufferPastLimits: [{bufferPast: 1s}], remote"
    )
    lines = loaded(tmp_path, AGGREGATED + remote).in_vain
    assert [line.split(" is ")[0] for line in lines] == [
        "downsample.aggregationTypes",
        "downsample.bufferPastLimits",
        "downsample.entryTTL",
    ]
    assert loaded(tmp_path, AGGREGATED + remote.replace("remoteAggregator", "x")[:0]).in_vain == []


@pytest.mark.parametrize("limit", [256 << 20, 1 << 30, 64 << 30])
@pytest.mark.parametrize("sinks", [0, 1, 7])
def test_shares_of_memory_are_at_most_the_limit(limit: int, sinks: int) -> None:
    shares = memory_shares(limit, sinks, inside=True)
    taken = (
        shares.windows + shares.store + shares.write_cache + shares.buffer + sinks * shares.sink_window + shares.bodies
    )
    assert limit // 2 < taken <= limit * 3 // 4


@pytest.mark.parametrize(
    "section",
    [
        "{workers: -1}",
        "{directory: ''}",
        "{memoryLimitBytes: 1000}",
        f"{{runDirectory: /{40 * 'x'}}}",
        "{enable: true}",
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError, match="embeddedAggregator"):
        loaded(tmp_path, f"{AGGREGATED}embeddedAggregator: {section}\n")


def test_zero_means_what_the_machine_has() -> None:
    section = EmbeddedAggregatorConfig()
    assert section.worker_count >= 1
    assert CoordinatorConfig().memory.nbytes == memory_limit(0).nbytes
    assert EmbeddedAggregatorConfig(workers=3, memory_limit_bytes=1 << 30).worker_count == 3
