"""``prometheusRemoteBackend``: M3's keys, defaults and start errors, and our keys."""

from pathlib import Path

import pytest

from coordinator.config.cluster import Namespace
from coordinator.config.prom_remote import (
    EndpointConfig,
    PromRemoteConfig,
    SecretText,
    endpoint_namespaces,
    required_backend,
    sink_name,
)
from coordinator.sinks.prom_remote import LabelRules
from coordinator.sinks.prom_remote.opening import open_sinks
from coordinator.sinks.values import UNAGGREGATED, Destination
from m3metrics.policy import StoragePolicy
from m3x.config import ConfigError, load
from m3x.tls import TLSError

SECOND = 1_000_000_000
RAW = "{name: raw, address: 'http://h/w'}"


def read(text: str, tmp_path: Path) -> PromRemoteConfig:
    """The section of that text."""
    file = tmp_path / "section.yml"
    file.write_text(text)
    return load([file], PromRemoteConfig).value


def test_defaults_of_m3(tmp_path: Path) -> None:
    section = read(f"endpoints: [{RAW}]", tmp_path)
    assert (section.request_timeout, section.connect_timeout) == (60 * SECOND, 5 * SECOND)
    assert (section.keep_alive, section.idle_conn_timeout, section.max_idle_conns) == (60 * SECOND, 60 * SECOND, 100)
    (endpoint,) = section.endpoints
    assert (endpoint.attributes, endpoint.ordered, endpoint.lanes, endpoint.max_samples_per_send) == (
        (0, 0),
        True,
        4,
        5000,
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "at least one endpoint must be configured when using prom-remote backend type"),
        ("endpoints: []", "at least one endpoint must be configured when using prom-remote backend type"),
        ("endpoints: [{address: 'http://h/'}]", "endpoint name must be set"),
        ("endpoints: [{name: ' ', address: 'http://h/'}]", "endpoint name must be set"),
        ("endpoints: [{name: a}]", "endpoint address must be set"),
        ("endpoints: [{name: a, address: ' '}]", "endpoint address must be set"),
        (
            f"endpoints: [{RAW}, {RAW}]",
            "endpoint name raw is not unique, ensure all endpoint names are unique",
        ),
        (
            "endpoints: [{name: a, address: 'http://h/', storagePolicy: {retention: 1h}}]",
            "endpoint resolution must be positive",
        ),
        (
            "endpoints: [{name: a, address: 'http://h/', storagePolicy: {resolution: 1m}}]",
            "endpoint retention must be positive",
        ),
        *(
            (f"{{endpoints: [{RAW}], {key}: -1}}", f"{key} can't be negative")
            for key in ("maxIdleConns", "keepAlive", "idleConnTimeout", "requestTimeout", "connectTimeout")
        ),
        (f"{{endpoints: [{RAW}], queueSize: 1}}", "unknown key"),
        ("endpoints: [{name: a, address: 'http://h/', lanes: 0}]", "lanes and maxSamplesPerSend must be positive"),
        (
            "endpoints: [{name: a, address: 'http://h/', bearerTokenFile: f, basicAuth: {username: u, passwordFile: p}}]",
            "exclude each other",
        ),
        ("endpoints: [{name: a, address: 'http://h/', headers: {content-type: x}}]", "belongs to the protocol"),
        ('endpoints: [{name: a, address: "http://h/", headers: {a: "b\\r\\nc: d"}}]', "printable ASCII"),
        (
            "endpoints: [{name: a, address: 'http://h/', headers: {Authorization: x}, bearerTokenFile: f}]",
            "exclude each other",
        ),
        (
            "endpoints: [{name: a, address: 'http://h/', basicAuth: {username: u, passwordFile: ''}}]",
            "must not be empty",
        ),
    ],
)
def test_start_errors(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["h/w?s3cret", "ftp://u:s3cret@h/", "http://u:s3cret@/w", "http://u:s3cret@h:x/w", "http://u:s3 cret@h/w", "http://[u:s3cret"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["address", "proxyURL"])
def test_broken_urls_are_refused_and_not_shown(address: str, key: str, tmp_path: Path) -> None:
    keys = {"address": "http://h/", key: address}
    text = ", ".join(f"{name}: '{value}'" for name, value in keys.items())
    with pytest.raises(ConfigError) as caught:
        read(f"endpoints: [{{name: a, {text}}}]", tmp_path)
    assert f"{key} must be an URL" in str(caught.value)
    assert "s3" not in str(caught.value)


def test_a_file_without_the_section() -> None:
    with pytest.raises(ValueError, match="^prometheusRemoteBackend configuration is required$"):
        required_backend(None)


def test_secrets_do_not_show_in_dumps(tmp_path: Path) -> None:
    section = read(
        "endpoints: [{name: a, address: 'http://u:s3cret@h/', headers: {X-Token: s3cret}, proxyURL: 'http://u:s3cret@p/'}]",
        tmp_path,
    )
    assert "s3cret" not in repr(section)
    assert section.endpoints[0].headers == {"X-Token": "s3cret"}


POLICIES = """
endpoints:
  - {name: raw, address: 'http://h/a'}
  - {name: raw.2, address: 'http://h/b'}
  - {name: all, address: 'http://h/c', storagePolicy: {resolution: 1m, retention: 960h}}
  - {name: block, address: 'http://h/d', storagePolicy: {resolution: 1m, retention: 960h, downsample: {}}}
  - {name: said, address: 'http://h/e', storagePolicy: {resolution: 10s, retention: 6h, downsample: {all: true}}}
"""


def test_endpoints_are_namespaces(tmp_path: Path) -> None:
    minute, days, ten, hours = 60 * SECOND, 960 * 3600 * SECOND, 10 * SECOND, 6 * 3600 * SECOND
    assert endpoint_namespaces(read(POLICIES, tmp_path)) == (
        Namespace("raw", 0, 0, downsample_all=False),
        Namespace("raw.2", 0, 0, downsample_all=False),
        Namespace("all", minute, days, downsample_all=True),
        Namespace("block", minute, days, downsample_all=False),
        Namespace("said", ten, hours, downsample_all=True),
    )


async def test_sinks_take_what_their_endpoint_is_for(tmp_path: Path) -> None:
    sinks = open_sinks(read(POLICIES, tmp_path), LabelRules())
    taken = {
        str(policy): [
            sink.name for sink in sinks if sink.takes(UNAGGREGATED if policy is None else Destination.of(policy))
        ]
        for policy in (
            None,
            StoragePolicy.parse("1m@1s:40d"),
            StoragePolicy.parse("10s:6h"),
            StoragePolicy.parse("1m:1h"),
        )
    }
    assert list(taken.values()) == [["raw", "raw_2e2"], ["all", "block"], ["said"], []]
    assert sinks[0].takes(UNAGGREGATED)
    for sink in sinks:
        await sink.close()


def test_names_of_sinks_are_names_of_folders() -> None:
    assert [sink_name(name) for name in ("a-B_9", "a.b/c", "é", "..")] == ["a-B_9", "a_2eb_2fc", "_c3a9", "_2e_2e"]


def test_certificates_that_cannot_be_loaded(tmp_path: Path) -> None:
    section = read(f"endpoints: [{{name: a, address: 'https://h/', tls: {{caFile: {tmp_path}/no.pem}}}}]", tmp_path)
    with pytest.raises(TLSError, match=r"no\.pem"):
        open_sinks(section, LabelRules())
    off = read(
        f"endpoints: [{{name: a, address: 'https://h/', tls: {{enabled: false, caFile: {tmp_path}/no.pem}}}}]", tmp_path
    )
    assert len(open_sinks(off, LabelRules())) == 1


def test_other_keys_of_an_endpoint(tmp_path: Path) -> None:
    section = read(
        "endpoints: [{name: a, address: 'http://h/', ordered: false, lanes: 2, maxSamplesPerSend: 7, queue: {maxBytes: 99999999}}]",
        tmp_path,
    )
    (sink,) = open_sinks(section, LabelRules())
    assert (sink.ordered, sink.lanes, sink.batch_rows) == (False, 2, 7)
    assert section.endpoints[0].queue.max_bytes == 99999999
    assert EndpointConfig(name="a", address=SecretText("http://h/")).queue.max_bytes is None
