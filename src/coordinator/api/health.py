"""``/health``: M3's time texts (reference/cluster.md §14)."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from coordinator.api.answers import Handler

__all__ = ["go_duration", "go_time", "health_handler"]

SECOND_NS = 1_000_000_000


def go_duration(duration_ns: int) -> str:
    """A duration as Go prints it: ``1h2m3.5s``, ``1.5ms``, ``250ns``."""
    if duration_ns == 0:
        return "0s"
    sign, rest = ("-", -duration_ns) if duration_ns < 0 else ("", duration_ns)
    if rest < SECOND_NS:
        for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
            if rest < size * 1000:
                return f"{sign}{_fraction(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60 * SECOND_NS)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_fraction(rest, SECOND_NS)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _fraction(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = str(part).rjust(len(str(unit)) - 1, "0").rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)


def go_time(unix_ns: int, since_start_ns: int) -> str:
    """A time as Go prints one that carries its monotonic reading: ``2026-01-02 03:04:05.6 +0000 UTC m=+62.5``."""
    seconds, nanos = divmod(unix_ns, SECOND_NS)
    digits = f".{nanos:09d}".rstrip("0") if nanos else ""
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}{digits} +0000 UTC m=+{since_start_ns // SECOND_NS}.{since_start_ns % SECOND_NS:09d}"


def health_handler(wall_ns: Callable[[], int], monotonic_ns: Callable[[], int]) -> Handler:
    """The handler; uptime counts from this call."""
    started_ns = monotonic_ns()

    async def health(_request: Request) -> Response:
        up_ns = monotonic_ns() - started_ns
        answer = {"uptime": go_duration(up_ns), "now": go_time(wall_ns(), up_ns)}
        return PlainTextResponse(json.dumps(answer, separators=(",", ":"), ensure_ascii=False) + "\n")

    return health
