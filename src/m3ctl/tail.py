"""``m3ctl tail``: aggregated values as they come out, by asking the coordinator again and again for what is new."""

import json
import time
from collections.abc import Callable

from m3ctl.answers import PointsOfSeries
from m3ctl.cluster import Cluster
from m3ctl.report import clock

__all__ = ["tail"]

_LATE_S = 120
"""A window that reaches the store this much later than its time is still shown."""


def tail(
    cluster: Cluster,
    selector: str,
    *,
    every_s: float,
    since_s: int,
    as_json: bool,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    rounds: int | None = None,
) -> None:
    """Says each point once, in order of time, until it is interrupted, or ``rounds`` times. Raises ``CtlError``.

    ``since_s``: so many seconds before now it begins.
    """
    begin_s = cluster.now_ns() / 1e9 - since_s
    told: dict[str, float] = {}
    while rounds is None or rounds > 0:
        answer = cluster.points(selector, max(since_s, _LATE_S) + round(every_s))
        fresh = []
        for series in answer.data.result:
            name = _name(series)
            after = told.get(name, begin_s)
            fresh += [
                (point.time_s, name, point.value, series.metric) for point in series.values if point.time_s > after
            ]
            told[name] = max([after, *(point.time_s for point in series.values)])
        for time_s, name, value, metric in sorted(fresh, key=lambda one: one[:2]):
            if as_json:
                say(json.dumps({"time": time_s, "metric": metric, "value": value}) + "\n")
            else:
                say(f"{clock(round(time_s * 1e9))}  {value:>16}  {name}\n")
        rounds = None if rounds is None else rounds - 1
        if rounds != 0:
            sleep(every_s)


def _name(series: PointsOfSeries) -> str:
    labels = ",".join(f'{key}="{value}"' for key, value in sorted(series.metric.items()) if key != "__name__")
    return series.metric.get("__name__", "") + (f"{{{labels}}}" if labels else "")
