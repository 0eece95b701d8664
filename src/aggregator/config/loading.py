"""Files in, a configuration without problems out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aggregator.config.service import ServiceConfig
from m3x.config import Loaded, load

__all__ = ["load_config"]


def load_config(files: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> Loaded[ServiceConfig]:
    """Reads and merges ``files``. Raises ``ConfigError`` with one line per problem."""
    return load(files, ServiceConfig, environ)
