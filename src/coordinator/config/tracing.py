"""``tracing``: the keys of M3's three tracers, without effect here."""

from typing import Any

import msgspec

from coordinator.config.prom_remote import SecretText
from m3x.config import Duration, Section

__all__ = ["TracingConfig"]


class BaggageRestrictionsConfig(Section, frozen=True, kw_only=True):
    """``jaeger.baggage_restrictions``."""

    deny_baggage_on_initialization_failure: bool = False
    host_port: str = ""
    refresh_interval: Duration = Duration(0)


class ReporterConfig(Section, frozen=True, kw_only=True):
    """``jaeger.reporter``."""

    queue_size: int = 0
    bufferflushinterval: Duration = Duration(0)
    log_spans: bool = False
    local_agent_host_port: str = ""
    disable_attempt_reconnecting: bool = False
    attemptreconnectinterval: Duration = Duration(0)
    collector_endpoint: str = ""
    user: str = ""
    password: SecretText = SecretText("")
    http_headers: dict[str, SecretText] = msgspec.field(name="http_headers", default_factory=dict)


class SamplerConfig(Section, frozen=True, kw_only=True):
    """``jaeger.sampler``."""

    type: str = ""
    param: float = 0.0
    sampling_server_url: str = msgspec.field(name="samplingServerURL", default="")
    sampling_refresh_interval: Duration = Duration(0)
    max_operations: int = 0
    operation_name_late_binding: bool = False
    options: list[None] = []


class ThrottlerConfig(Section, frozen=True, kw_only=True):
    """``jaeger.throttler``."""

    host_port: str = ""
    refresh_interval: Duration = Duration(0)
    synchronous_initialization: bool = False


class HeadersConfig(Section, frozen=True, kw_only=True):
    """``jaeger.headers``."""

    jaeger_debug_header: str = ""
    jaeger_baggage_header: str = ""
    trace_context_header_name: str = msgspec.field(name="TraceContextHeaderName", default="")
    trace_baggage_header_prefix: str = ""


class JaegerTagConfig(Section, frozen=True, kw_only=True):
    """``jaeger.tags[]``."""

    key: str = ""
    value: Any = None


class JaegerConfig(Section, frozen=True, kw_only=True):
    """``tracing.jaeger``."""

    service_name: str = ""
    disabled: bool = False
    rpc_metrics: bool = msgspec.field(name="rpc_metrics", default=False)
    traceid_128bit: bool = msgspec.field(name="traceid_128bit", default=False)
    tags: list[JaegerTagConfig] = []
    sampler: SamplerConfig | None = None
    reporter: ReporterConfig | None = None
    headers: HeadersConfig | None = None
    baggage_restrictions: BaggageRestrictionsConfig | None = msgspec.field(name="baggage_restrictions", default=None)
    throttler: ThrottlerConfig | None = None


class LightstepEndpointConfig(Section, frozen=True, kw_only=True, rename=None):
    """``lightstep.collector``."""

    scheme: str = ""
    host: str = ""
    port: int = 0
    plaintext: bool = False
    custom_ca_cert_file: str = ""


class LightstepConfig(Section, frozen=True, kw_only=True, rename=None):
    """``tracing.lightstep``."""

    access_token: SecretText = SecretText("")
    collector: LightstepEndpointConfig | None = None
    tags: dict[str, Any] = {}
    lightstep_api: LightstepEndpointConfig | None = None
    max_buffered_spans: int = 0
    max_log_key_len: int = 0
    max_log_value_len: int = 0
    max_logs_per_span: int = 0
    grpc_max_call_send_msg_size_bytes: int = 0
    reporting_period: Duration = Duration(0)
    min_reporting_period: Duration = Duration(0)
    report_timeout: Duration = Duration(0)
    drop_span_logs: bool = False
    verbose: bool = False
    use_http: bool = False
    usegrpc: bool = False
    reconnect_period: Duration = Duration(0)
    meta_event_reporting_enabled: bool = False


class OpenTelemetryConfig(Section, frozen=True, kw_only=True):
    """``tracing.opentelemetry``."""

    service_name: str = ""
    endpoint: str = ""
    insecure: bool = False
    attributes: dict[str, str] = {}


class TracingConfig(Section, frozen=True, kw_only=True):
    """``tracing``."""

    service_name: str = ""
    backend: str = ""
    opentelemetry: OpenTelemetryConfig | None = None
    jaeger: JaegerConfig | None = None
    lightstep: LightstepConfig | None = None
