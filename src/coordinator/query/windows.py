"""``GET /api/v1/windows?since=N`` (our own): the windows that reached storage since the last question.

    {"windows": [{"policy": "10s:2d", "time_ms": …, "count": 200, "samples": [{"series": "up{job=\\"a\\"}", "value": 1.0}]}], "next": 17}

``count``: points written with that timestamp so far; ``samples``: some series of it (a number that JSON lacks is given as text).
``next`` is the ``since`` of the next question; 0 asks for all that is remembered (1024 windows at most). A window is told when
nothing was written to it for half a second, and again if more comes later.
"""

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coordinator.query.errors import QueryError
from coordinator.query.graphite import graphite_path
from coordinator.query.rendering import encode, label_set, number_text
from coordinator.store import Store
from m3metrics.ids import NAME_TAG, Tags

__all__ = ["Windows", "series_text"]


def series_text(tags: Tags) -> str:
    """A series as people write it: ``name{label="value"}``, or the path of a graphite series."""
    path = graphite_path(tags)
    if path is not None:
        return path
    labels = label_set([tag for tag in tags if tag[0] != NAME_TAG])
    name = next((value.decode(errors="replace") for key, value in tags if key == NAME_TAG), "")
    inside = ",".join(f"{key}={encode(value).decode()}" for key, value in labels.items())
    return f"{name}{{{inside}}}" if inside or not name else name


class Windows:
    """The handler; it raises ``QueryError``."""

    def __init__(self, store: Store | None) -> None:
        self._store = store

    async def get(self, request: Request) -> Response:
        """See the module."""
        store = self._store
        if store is None:
            raise QueryError("windows are told of the embedded store only, and this coordinator has none", status=404)
        since = request.query_params.get("since", "0")
        if not since.isdecimal() or len(since) > 18:
            raise QueryError(f"invalid parameter 'since': {since!r}; expected 0 or the 'next' of an earlier answer")
        windows, following = store.windows(int(since))
        shown: list[dict[str, Any]] = []
        for window in windows:
            samples = [
                {
                    "series": series_text(store.index.tags(entry)),
                    "value": value if math.isfinite(value) else number_text(value),
                }
                for entry, value in window.samples
            ]
            policy = str(store.policies[window.policy])
            shown.append({"policy": policy, "time_ms": window.time_ms, "count": window.count, "samples": samples})
        return Response(encode({"windows": shown, "next": following}), media_type="application/json")
