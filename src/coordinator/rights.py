"""Which right each call to a coordinator needs (``m3x.access``, docs/security.md). Pure."""

from collections.abc import Collection

from coordinator.query.routes import POST_PATHS
from m3x.access import Right, RightOf

__all__ = ["rights"]

_NOBODYS = {f"{below}/{name}" for below in ("", "/aggregator") for name in ("health", "ready", "metrics")} | {
    "/-/healthy",
    "/-/ready",
}
"""What load balancers, service managers and Prometheus ask."""
_POSTED_QUESTIONS = POST_PATHS | {"/rules"}
"""The page of a dry run changes nothing."""
_READING = {"GET", "HEAD", "OPTIONS"}


def rights(write_paths: Collection[str]) -> RightOf:
    """``write_paths``: where samples are sent to. What is not known to be something else is administration."""

    def right_of(method: str, path: str) -> Right:
        if path == "/debug" or path.startswith("/debug/"):
            return Right.ADMIN
        if method in _READING:
            return Right.NONE if path in _NOBODYS else Right.READS
        if method == "POST" and path in write_paths:
            return Right.WRITES
        return Right.READS if method == "POST" and path in _POSTED_QUESTIONS else Right.ADMIN

    return right_of
