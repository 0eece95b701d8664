"""What a test needs on this machine: it is skipped where that is missing, unless REQUIRE_SERVERS says that it must be there."""

import os
import shutil
from typing import Never

import pytest
from lab.kv_servers import KVServer, ServerMissing

__all__ = ["require_binary", "require_server"]


def require_binary(binary: str) -> str:
    """Path of a real server's binary."""
    path = shutil.which(binary)
    if path is None:
        _missing(f"{binary} is not installed")
    return path


def require_server(server: type[KVServer]) -> None:
    """A KV server that can be started."""
    try:
        server.require()
    except ServerMissing as error:
        _missing(str(error))


def _missing(reason: str) -> Never:
    if os.environ.get("REQUIRE_SERVERS"):
        pytest.fail(f"{reason}, and REQUIRE_SERVERS is set")
    pytest.skip(reason)
