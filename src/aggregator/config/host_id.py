"""Who we are in the placement: host id and instance id (docs/m3/aggregation.md, instance id)."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from aggregator.config.aggregator import AggregatorSection, HostIDConfig
from m3x.config import ConfigError, parse_address

__all__ = ["host_id", "instance_id"]


def host_id(config: HostIDConfig, environ: Mapping[str, str], *, sleep: Callable[[float], None] = time.sleep) -> str:
    """Resolves ``hostID``; for resolver ``file`` waits up to its timeout. Raises ``ConfigError`` saying what is missing."""
    match config.resolver:
        case "config":
            return config.value
        case "environment":
            value = environ.get(config.env_var_name, "")
            if not value:
                raise ConfigError(
                    [
                        f"aggregator.hostID: the environment variable {config.env_var_name} is not set; "
                        f"set it to the id of this instance in the placement"
                    ]
                )
            return value
        case "file":
            return _from_file(config, sleep)
    name = socket.gethostname()
    return config.hostname.format.replace("{{.Hostname}}", name) if config.hostname.format else name


def _from_file(config: HostIDConfig, sleep: Callable[[float], None]) -> str:
    assert config.file is not None
    left = int((config.file.timeout.seconds if config.file.timeout is not None else 0.0) + 0.999)
    while True:
        try:
            value, why = Path(config.file.path).read_text(encoding="utf-8").strip(), "is empty"
        except (OSError, UnicodeDecodeError) as error:
            value, why = "", f"cannot be read: {error}"
        if value:
            return value
        if left <= 0:
            raise ConfigError([f"aggregator.hostID.file: {config.file.path} {why}"])
        sleep(1.0)
        left -= 1


def instance_id(section: AggregatorSection, listen_address: str, environ: Mapping[str, str] | None = None) -> str:
    """The id of this instance in the placement: the host id, with ``:port`` of a listener for type ``host_id_port``.

    That is ``rawtcp``'s, as in M3; where there is none, ``m3msg``'s (docs/compatibility.md).
    """
    name = host_id(section.host_id, os.environ if environ is None else environ)
    return name if section.instance_id.type == "host_id" else f"{name}:{parse_address(listen_address)[1]}"
