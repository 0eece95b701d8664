"""``writeForwarding``: M3's keys and defaults, and what is refused, with file and line."""

import socket
from pathlib import Path

import pytest

from coordinator.config import load_coordinator
from coordinator.config.forwarding import ForwardingConfig, leads_to
from m3x.config import ConfigError

M3_FILE = """
writeForwarding:
  promRemoteWrite:
    targets:
    - url: http://coordinator02:7201/api/v1/prom/remote/write
"""


def read(tmp_path: Path, text: str) -> ForwardingConfig:
    """The section of a file with that text."""
    file = tmp_path / "a.yml"
    file.write_text(text)
    loaded = load_coordinator([file])
    assert loaded.value.unsupported() == []
    return loaded.value.write_forwarding.prom_remote_write


def test_defaults_of_m3(tmp_path: Path) -> None:
    section = read(tmp_path, M3_FILE)
    assert (section.timeout_s, section.max_retries, section.max_concurrency) == (15.0, 1, 0)
    assert (section.backoff.initial_s, section.backoff.factor, section.backoff.jitter) == (2.0, 2.0, True)
    (target,) = section.targets
    assert (target.method, target.headers, target.no_retry, target.shadow) == ("", {}, False, None)
    assert read(tmp_path, "{}").targets == read(tmp_path, "writeForwarding: {promRemoteWrite: null}").targets == []


def test_a_retry_block_has_defaults_of_its_own(tmp_path: Path) -> None:
    section = read(tmp_path, "writeForwarding: {promRemoteWrite: {timeout: 3s, retry: {}}}")
    assert (section.timeout_s, section.max_retries, section.backoff.initial_s) == (3.0, 2, 1.0)
    section = read(tmp_path, "writeForwarding: {promRemoteWrite: {retry: {forever: true, maxBackoff: 1m}}}")
    assert (section.max_retries, section.backoff.max_s) == (float("inf"), 60.0)


def test_all_keys(tmp_path: Path) -> None:
    text = (
        "writeForwarding: {promRemoteWrite: {maxConcurrency: 7, targets: [{url: 'https://u:geheim@h/w?t=x', method: PUT, noRetry: true, "
        "headers: {X-Scope-OrgID: t, Content-Type: a/b}, shadow: {percent: 0.25, hash: murmur3}}]}}"
    )
    section = read(tmp_path, text)
    (target,) = section.targets
    assert (section.max_concurrency, target.method, target.no_retry) == (7, "PUT", True)
    assert target.headers == {"X-Scope-OrgID": "t", "Content-Type": "a/b"}
    assert target.shadow is not None
    assert (target.shadow.percent, target.shadow.hash) == (0.25, "murmur3")
    assert "geheim" not in repr(section)


@pytest.mark.parametrize(
    ("target", "key", "why"),
    [
        ("{}", ".url", "must be an URL like http://host:port/path"),
        ("{url: 'h:7201/w'}", ".url", "must be an URL"),
        ("{url: 'http://h:77777/w'}", ".url", "must be an URL"),
        ("{url: 'http://h/', method: 'GET /'}", ".method", "is not a method of HTTP"),
        ("{url: 'http://h/', headers: {'a b': c}}", ".headers", "printable ASCII"),
        ("{url: 'http://h/', headers: {Host: c}}", ".headers", "belongs to the protocol"),
        ("{url: 'http://u:geheim@h/', headers: {authorization: c}}", ".headers", "exclude each other"),
        ("{url: 'http://h/', shadow: {percent: 1.5}}", ".shadow.percent", "from 0 to 1"),
        ("{url: 'http://h/', shadow: {percent: -0.1}}", ".shadow.percent", "from 0 to 1"),
        ("{url: 'http://h/', shadow: {hash: md5}}", ".shadow.hash", "murmur3"),
        ("{url: 'http://localhost:7201/api/v1/prom/remote/write'}", ".url", "leads to this coordinator itself"),
        ("{uri: 'http://h/'}", "", "uri"),
    ],
)
def test_errors_name_file_line_and_key(tmp_path: Path, target: str, key: str, why: str) -> None:
    file = tmp_path / "a.yml"
    file.write_text(f"writeForwarding:\n  promRemoteWrite:\n    targets:\n    - {target}\n")
    with pytest.raises(ConfigError) as caught:
        load_coordinator([file])
    (line,) = str(caught.value).splitlines()
    assert f"{file}:4: " in line
    assert f"writeForwarding.promRemoteWrite.targets[0]{key}" in line
    assert why in line
    assert "geheim" not in line


@pytest.mark.parametrize("text", ["timeout: -1s", "maxConcurrency: -1", "retry: {maxRetries: -1}"])
def test_negative_numbers_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yml"
    file.write_text(f"writeForwarding: {{promRemoteWrite: {{{text}}}}}")
    with pytest.raises(ConfigError, match="a.yml:1: "):
        load_coordinator([file])


@pytest.mark.parametrize(
    ("url", "listens", "itself"),
    [
        ("http://localhost:7201/w", "0.0.0.0:7201", True),
        ("http://127.0.0.1:7201/w", "0.0.0.0:7201", True),
        ("http://[::1]:7201/w", "[::]:7201", True),
        (f"http://{socket.gethostname()}:7201/w", "0.0.0.0:7201", True),
        ("http://10.0.0.1:7201/w", "10.0.0.1:7201", True),
        ("http://localhost:7201/w", "127.0.0.1:7201", True),
        ("http://localhost/w", "0.0.0.0:80", True),
        ("http://localhost:7202/w", "0.0.0.0:7201", False),
        ("http://localhost:7201/w", "10.0.0.1:7201", False),
        ("http://other:7201/w", "0.0.0.0:7201", False),
    ],
)
def test_what_certainly_leads_back(url: str, listens: str, *, itself: bool) -> None:
    assert leads_to(url, listens) is itself


def test_without_samples_it_is_in_vain(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text(f"backend: noop-etcd\n{M3_FILE}")
    (line,) = load_coordinator([file]).value.in_vain
    assert line.startswith("writeForwarding is without effect")
