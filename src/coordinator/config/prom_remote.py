"""``prometheusRemoteBackend``: the endpoints of ``backend: prom-remote`` (docs/m3/coordinator.md, remote write backend).

Keys, defaults and errors are M3's; what an endpoint has beside ``name``, ``address`` and ``storagePolicy`` is ours.
"""

import re
from collections.abc import Mapping, Set
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from coordinator.config.cluster import DownsampleNamespaceConfig, Namespace
from coordinator.config.sinks import QueueOverrides
from m3x.config import Duration, Section, Text
from m3x.tls import ClientTLSConfig

__all__ = [
    "MESSAGE_2",
    "BasicAuthConfig",
    "EndpointConfig",
    "EndpointPolicyConfig",
    "PromRemoteConfig",
    "SecretText",
    "check_headers",
    "check_url",
    "endpoint_namespaces",
    "required_backend",
    "sink_name",
]

MESSAGE_2 = "io.prometheus.write.v2.Request"
_RESERVED_HEADERS = {
    "content-encoding",
    "content-length",
    "content-type",
    "transfer-encoding",
    "x-prometheus-remote-write-version",
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class SecretText(Text):
    """A text that does not show in dumps of a configuration."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class BasicAuthConfig(Section, frozen=True):
    """``basicAuth``: instead of a user in the address."""

    username: str
    password_file: str
    """Its first line; read again when it changes."""

    def __post_init__(self) -> None:
        if not self.username or not self.password_file:
            raise ValueError("username and passwordFile must not be empty")


class EndpointPolicyConfig(Section, frozen=True):
    """``storagePolicy``: which aggregated values the endpoint gets."""

    resolution: Duration = Duration(0)
    retention: Duration = Duration(0)
    downsample: DownsampleNamespaceConfig | None = None
    """None means ``all: true``; a block without ``all`` means false, as in M3."""

    def __post_init__(self) -> None:
        if self.resolution <= 0:
            raise ValueError("endpoint resolution must be positive")
        if self.retention <= 0:
            raise ValueError("endpoint retention must be positive")


class EndpointConfig(Section, frozen=True):
    """``endpoints[]``."""

    name: str = ""
    address: SecretText = SecretText("")
    """The whole URL; a user and a password in it become basic authentication."""
    storage_policy: EndpointPolicyConfig | None = None
    """None: raw samples, and only these."""
    headers: dict[str, SecretText] = {}
    """Sent with every request: the tenant, for example."""
    bearer_token_file: str = ""
    basic_auth: BasicAuthConfig | None = None
    tls: ClientTLSConfig | None = None
    proxy_url: SecretText = msgspec.field(name="proxyURL", default=SecretText(""))
    """Empty: the environment's ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``."""
    ordered: bool = True
    """Whether the store refuses late samples (Prometheus without an out-of-order window does)."""
    lanes: int = 4
    """Requests at a time."""
    max_samples_per_send: int = 5000
    send_metadata: bool = True
    """Whether it is told the types of metrics, where values come with them (``storeMetricsType``)."""
    protobuf_message: Literal["prometheus.WriteRequest", "io.prometheus.write.v2.Request"] = "prometheus.WriteRequest"
    """As in Prometheus: what it is sent, Remote Write 1.0, or 2.0 as long as it takes that."""
    queue: QueueOverrides = QueueOverrides()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("endpoint name must be set")
        if not self.address.strip():
            raise ValueError("endpoint address must be set")
        check_url("address", self.address)
        if self.proxy_url:
            check_url("proxyURL", self.proxy_url)
        if self.lanes < 1 or self.max_samples_per_send < 1:
            raise ValueError("lanes and maxSamplesPerSend must be positive")
        if self.bearer_token_file and self.basic_auth is not None:
            raise ValueError("bearerTokenFile and basicAuth exclude each other")
        check_headers(self.headers, self.bearer_token_file != "" or self.basic_auth is not None)

    @property
    def attributes(self) -> tuple[int, int]:
        """Resolution and retention in ns; (0, 0) for raw samples."""
        policy = self.storage_policy
        return (0, 0) if policy is None else (int(policy.resolution), int(policy.retention))


class PromRemoteConfig(Section, frozen=True):
    """``prometheusRemoteBackend``."""

    endpoints: list[EndpointConfig] = []
    request_timeout: Duration = Duration(60_000_000_000)
    """From connecting to the end of the answer; 0: none."""
    connect_timeout: Duration = Duration(5_000_000_000)
    """TCP and TLS; 0: none."""
    keep_alive: Duration = Duration(60_000_000_000)
    """Period of TCP's probes; 0: the system's."""
    idle_conn_timeout: Duration = Duration(60_000_000_000)
    """Connections unused for longer are closed; 0: never."""
    max_idle_conns: int = 100
    """Accepted as in M3; there are never more connections than ``lanes`` and one for metadata."""

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("at least one endpoint must be configured when using prom-remote backend type")
        spans = {
            "maxIdleConns": self.max_idle_conns,
            "keepAlive": self.keep_alive,
            "idleConnTimeout": self.idle_conn_timeout,
            "requestTimeout": self.request_timeout,
            "connectTimeout": self.connect_timeout,
        }
        for key, value in spans.items():
            if value < 0:
                raise ValueError(f"{key} can't be negative")
        seen: set[str] = set()
        for endpoint in self.endpoints:
            if endpoint.name in seen or sink_name(endpoint.name) in seen:
                raise ValueError(f"endpoint name {endpoint.name} is not unique, ensure all endpoint names are unique")
            seen |= {endpoint.name, sink_name(endpoint.name)}


def required_backend(section: PromRemoteConfig | None) -> PromRemoteConfig:
    """The section of a file with ``backend: prom-remote``. Raises ``ValueError`` with M3's text where there is none."""
    if section is None:
        raise ValueError("prometheusRemoteBackend configuration is required")
    return section


def endpoint_namespaces(section: PromRemoteConfig) -> tuple[Namespace, ...]:
    """Every endpoint as a namespace of storage, in the order of the file; several may be raw, and several have one policy."""
    return tuple(
        Namespace(
            name=endpoint.name,
            resolution_ns=endpoint.attributes[0],
            retention_ns=endpoint.attributes[1],
            downsample_all=endpoint.storage_policy is not None
            and (endpoint.storage_policy.downsample is None or endpoint.storage_policy.downsample.all),
        )
        for endpoint in section.endpoints
    )


def sink_name(endpoint: str) -> str:
    """The name of an endpoint's sink, which is that of a folder too: other characters become ``_`` and their bytes in hex."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_") else f"_{letter.encode().hex()}"
        for letter in endpoint
    )


def check_url(key: str, text: str) -> None:
    """Raises ``ValueError`` without the text: it may have a password in it."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or re.search(r"\s", text):
        raise ValueError(f"{key} must be an URL like http://host:port/path")


def check_headers(headers: Mapping[str, str], authorized: bool, reserved: Set[str] = _RESERVED_HEADERS) -> None:
    """``authorized``: whether something else already proves who we are. Raises ``ValueError``."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise ValueError(f"headers: {name!r} and its value must be printable ASCII without line breaks")
        if name.lower() in reserved:
            raise ValueError(f"headers: {name} belongs to the protocol and cannot be set")
        if name.lower() == "authorization" and authorized:
            raise ValueError(f"headers: {name} and other credentials of the section exclude each other")
