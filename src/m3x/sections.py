"""Sections of configuration files that every service has: logging, and how figures are named and shown."""

from typing import Any

from m3x.config import Meaningless, Section
from m3x.log import LEVELS

__all__ = ["LoggingConfig", "PrometheusConfig", "ScopeConfig"]


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
