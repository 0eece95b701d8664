"""Sections of configuration files that every service has: logging, how figures are named and shown, retries."""

from typing import Any, Literal

from m3x.config import Duration, EmptyIsDefault, Int32, Meaningless, Nonzero, Section, Unsigned
from m3x.log import LEVELS
from m3x.retry import Backoff

__all__ = [
    "DebugConfig",
    "LoggingConfig",
    "MetricsConfig",
    "PrometheusConfig",
    "RetryConfig",
    "ScopeConfig",
]


class EncoderConfig(Section, frozen=True, kw_only=True):
    """``logging.encoderConfig``."""

    message_key: str = ""
    level_key: str = ""
    time_key: str = ""
    name_key: str = ""
    caller_key: str = ""
    function_key: str = ""
    stacktrace_key: str = ""
    line_ending: str = ""
    level_encoder: str = ""
    time_encoder: str = ""
    duration_encoder: str = ""
    caller_encoder: str = ""
    name_encoder: str = ""


class M3ReporterConfig(Section, frozen=True, kw_only=True):
    """``metrics.m3``."""

    host_port: Nonzero[str]
    host_ports: list[str] = []
    service: Nonzero[str]
    env: Nonzero[str]
    tags: dict[str, str] = {}
    queue: int = 0
    packet_size: Int32 = 0
    include_host: bool = False
    histogram_bucket_tag_precision: Unsigned = 0
    internal_tags: dict[str, str] = {}


class HistogramBucketConfig(Section, frozen=True, kw_only=True):
    """``defaultHistogramBuckets[]``."""

    upper: float = 0.0


class SummaryObjectiveConfig(Section, frozen=True, kw_only=True):
    """``defaultSummaryObjectives[]``."""

    percentile: float = 0.0
    allowed_error: float = 0.0


class DebugConfig(Section, frozen=True, kw_only=True):
    """``debug``."""

    mutex_profile_fraction: int = 0
    block_profile_rate: int = 0


class LoggingConfig(Section, frozen=True, kw_only=True):
    """``logging``."""

    level: str = "info"
    fields: dict[str, Any] = {}
    """On every line."""
    file: Meaningless[str] = None
    encoder_config: Meaningless[EncoderConfig] = None

    def __post_init__(self) -> None:
        if self.level.lower() not in LEVELS:
            raise ValueError(f"unknown log level {self.level!r}; expected one of {', '.join(LEVELS)}")


class ScopeConfig(Section, frozen=True, kw_only=True):
    """``metrics.scope``."""

    prefix: str = ""
    tags: dict[str, str] = {}
    reporting_interval: Meaningless[Duration] = None


class PrometheusConfig(Section, frozen=True, kw_only=True):
    """``metrics.prometheus``, but for where the page is: each service has an address of its own."""

    handler_path: str = "/metrics"
    timer_type: Meaningless[str] = None
    default_histogram_buckets: Meaningless[list[HistogramBucketConfig]] = None
    default_summary_objectives: Meaningless[list[SummaryObjectiveConfig]] = None
    on_error: Meaningless[str] = None

    def __post_init__(self) -> None:
        if not self.handler_path.startswith("/"):
            raise ValueError(f"handlerPath must begin with a slash, found {self.handler_path!r}")


class MetricsConfig(Section, frozen=True, kw_only=True):
    """``metrics``, but for the page."""

    scope: ScopeConfig = ScopeConfig()
    m3: Meaningless[M3ReporterConfig] = None
    sampling_rate: float = 1.0
    """Checked, without effect: all figures are exact."""
    extended: Meaningless[EmptyIsDefault[Literal["simple", "none", "moderate", "detailed", "runtime"]]] = None
    sanitization: Meaningless[EmptyIsDefault[Literal["none", "m3", "prometheus"]]] = None

    def __post_init__(self) -> None:
        if not 0.0 < self.sampling_rate <= 1.0:
            raise ValueError(f"samplingRate must be above 0 and at most 1, found {self.sampling_rate:g}")


class RetryConfig(Section, frozen=True, kw_only=True):
    """M3's generic retry block (docs/m3/m3msg.md, backoff): a zero in YAML means the default."""

    initial_backoff: Duration = Duration(0)
    backoff_factor: float = 0.0
    max_backoff: Duration = Duration(0)
    """0: unbounded."""
    max_retries: int = 0
    forever: bool | None = None
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.initial_backoff < 0 or self.max_backoff < 0 or self.backoff_factor < 0 or self.max_retries < 0:
            raise ValueError("initialBackoff, maxBackoff, backoffFactor and maxRetries must not be negative")

    def backoff(self) -> Backoff:
        """The delays that this block asks for."""
        return Backoff(
            initial_s=self.initial_backoff.seconds or 1.0,
            factor=self.backoff_factor or 2.0,
            max_s=self.max_backoff.seconds or float("inf"),
            jitter=self.jitter,
        )
