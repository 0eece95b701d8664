"""The load as remote write, one request after the other, and what comes back from the store."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from m3ctl.bench.load import RUN_LABEL, Load, Result, labels_of
from m3ctl.bench.remote_write import write_request
from m3ctl.client import CtlError
from m3ctl.cluster import Cluster

__all__ = ["CameBack", "came_back", "send"]

_EVERY_S = 0.1
_MOST = 2000
"""Samples of a request."""
_LOOK_EVERY_S = 1.0


def send(load: Load, cluster: Cluster) -> Result:
    """Sends it; a request that is refused, or not answered, is not sent again."""
    result = Result(cluster.settings.coordinator)
    began, next_sample = time.monotonic(), 0
    while next_sample < load.total:
        due = min(load.due(time.monotonic() - began), next_sample + _MOST)
        samples = range(next_sample, due)
        if samples:
            _write(load, cluster, samples, result)
            next_sample = due
        time.sleep(max(0.0, min(_EVERY_S, began + next_sample / load.rate - time.monotonic())))
    result.took_s = time.monotonic() - began
    return result


def _write(load: Load, cluster: Cluster, samples: range, result: Result) -> None:
    now_ms = cluster.now_ns() // 1_000_000
    body = write_request((labels_of(load, sample % load.series), float(sample), now_ms) for sample in samples)
    result.sent += len(samples)
    began = time.monotonic()
    try:
        answer = cluster.remote_write(body)
    except CtlError as error:
        result.refused += len(samples)
        result.error = str(error)
        return
    if answer.status // 100 == 2:
        result.acked += len(samples)
        result.latencies_s += [time.monotonic() - began] * len(samples)
    else:
        result.refused += len(samples)
        result.error = f"{answer.status}: {answer.text()}"


@dataclass(slots=True)
class CameBack:
    """What the store has of a run."""

    series: set[int] = field(default_factory=set)
    whole: set[int] = field(default_factory=set)
    """Series whose last sample is there."""
    points: int = 0
    strange: int = 0
    """Points whose value was never sent for their series: sums and means of several, or faults."""

    def as_data(self, load: Load) -> dict[str, int]:
        """As JSON."""
        return {
            "series": len(self.series), "ofSeries": load.sent_series, "lastSamples": len(self.whole), "points": self.points,
            "strange": self.strange,
        }  # fmt: skip


def came_back(load: Load, cluster: Cluster, wait_s: float, sleep: Callable[[float], None] = time.sleep) -> CameBack:
    """Asks until the last sample of every series is there, for ``wait_s`` at most. Raises ``CtlError``."""
    selector = f'{{__name__=~"{load.prefix}.*",{RUN_LABEL}="{load.run}"}}'
    began = time.monotonic()
    while True:
        found = CameBack()
        answer = cluster.points(selector, int(load.seconds + wait_s) + 60)
        for series in answer.data.result:
            number = int(series.metric.get("number") or -1)
            found.series.add(number)
            for point in series.values:
                value = float(point.value)
                found.points += 1
                # NaN is no number of a sample either.
                if not (0 <= value < load.total and value % load.series == number):
                    found.strange += 1
                elif value == load.last(number):
                    found.whole.add(number)
        if len(found.whole) >= load.sent_series or time.monotonic() - began >= wait_s:
            return found
        sleep(_LOOK_EVERY_S)
