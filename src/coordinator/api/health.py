"""``/health``: M3's time texts (docs/m3/cluster.md, other routes)."""

import json
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from coordinator.api.answers import Handler
from m3x.golang import SECOND_NS, go_duration, go_time

__all__ = ["health_handler", "time_since"]


def time_since(unix_ns: int, since_start_ns: int) -> str:
    """A time as Go prints one that carries its monotonic reading: ``2026-01-02 03:04:05.6 +0000 UTC m=+62.5``."""
    return f"{go_time(unix_ns)} m=+{since_start_ns // SECOND_NS}.{since_start_ns % SECOND_NS:09d}"


def health_handler(wall_ns: Callable[[], int], monotonic_ns: Callable[[], int]) -> Handler:
    """The handler; uptime counts from this call."""
    started_ns = monotonic_ns()

    async def health(_request: Request) -> Response:
        up_ns = monotonic_ns() - started_ns
        answer = {"uptime": go_duration(up_ns), "now": time_since(wall_ns(), up_ns)}
        return PlainTextResponse(json.dumps(answer, separators=(",", ":"), ensure_ascii=False) + "\n")

    return health
