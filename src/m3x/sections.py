"""Sections of configuration files that every service has: logging, how figures are named and shown, retries."""

from typing import Any

from m3x.config import Duration, Meaningless, Section
from m3x.log import LEVELS
from m3x.retry import Backoff

__all__ = ["LoggingConfig", "PrometheusConfig", "RetryConfig", "ScopeConfig"]


class LoggingConfig(Section, frozen=True, kw_only=True):
    """``logging``."""

    level: str = "info"
    fields: dict[str, Any] = {}
    """On every line."""
    file: Meaningless = None
    encoding: Meaningless = None
    development: Meaningless = None
    disable_caller: Meaningless = None
    disable_stacktrace: Meaningless = None
    sampling: Meaningless = None
    encoder_config: Meaningless = None
    output_paths: Meaningless = None
    error_output_paths: Meaningless = None

    def __post_init__(self) -> None:
        if self.level.lower() not in LEVELS:
            raise ValueError(f"unknown log level {self.level!r}; expected one of {', '.join(LEVELS)}")


class ScopeConfig(Section, frozen=True, kw_only=True):
    """``metrics.scope``."""

    prefix: str = ""
    tags: dict[str, str] = {}
    reporting_interval: Meaningless = None
    common_tags: Meaningless = None


class PrometheusConfig(Section, frozen=True, kw_only=True):
    """``metrics.prometheus``, but for where the page is: each service has an address of its own."""

    handler_path: str = "/metrics"
    timer_type: Meaningless = None
    default_histogram_buckets: Meaningless = None
    default_summary_objectives: Meaningless = None
    on_error: Meaningless = None
    hostname_label: Meaningless = None

    def __post_init__(self) -> None:
        if not self.handler_path.startswith("/"):
            raise ValueError(f"handlerPath must begin with a slash, found {self.handler_path!r}")


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
