"""Rollup rules from remote write to storage: rates and increases per code, made of counters per host and code."""

import time
from typing import Any

from lab.prometheus import EQUAL, remote_read, remote_write

WINDOW_S = 10
HOSTS, CODES = 3, ("200", "500")


def per_second(host: int, code: str) -> float:
    """How fast a counter grows."""
    return (host + 1) * 2.0 if code == "200" else 0.25


def rule(name: str, transform: str, new_name: str) -> dict[str, Any]:
    return {
        "name": name,
        "filter": "__name__:demo_requests_total",
        "transforms": [
            {"transform": {"type": transform}},
            {"rollup": {"metricName": new_name, "groupBy": ["code"], "aggregations": ["Sum"]}},
        ],
        "storagePolicies": [{"resolution": "10s", "retention": "48h"}],
    }


RULES = {
    "mappingRules": [{"name": "no originals", "filter": "__name__:demo_requests_total", "drop": True}],
    "rollupRules": [rule("rate", "PerSecond", "requests_rate"), rule("increase", "Increase", "requests_increase")],
}


class Feeder:
    """Writes every counter's value of every second once."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._next_s = self.began = int(time.time())

    def feed(self) -> None:
        while self._next_s <= time.time():
            samples = []
            for host in range(HOSTS):
                for code in CODES:
                    labels = {"__name__": "demo_requests_total", "code": code, "host": f"host-{host}"}
                    value = per_second(host, code) * (self._next_s % 100_000)
                    samples.append((tuple(sorted(labels.items())), value, self._next_s * 1000))
            remote_write(self._base, samples)
            self._next_s += 1


def test_rate_and_increase_by_code(deployment, wait) -> None:
    deployment.start_local(
        coordinator={"downsample": {"rules": RULES}},
        # Room for a machine that stands still for some seconds; the forwarding delay of the file would cost half a minute more.
        aggregator={"aggregator": {"bufferDurationForPastTimedMetric": "15s", "forwarding": {"maxConstDelay": "30s"}}},
        processes_s=150,
    )
    feeder = Feeder(deployment.base)

    def stored(name: str) -> dict[str, list[float]]:
        """Values by code, in the order of their windows."""
        span = feeder.began * 1000 - 60_000, (feeder.began + 600) * 1000
        points = remote_read(deployment.base, [("__name__", EQUAL, name)], *span)
        assert all(dict(labels)["__rollup__"] == "true" and len(labels) == 3 for labels in points), points
        return {dict(labels)["code"]: [v for _, v in sorted(one.items())] for labels, one in points.items()}

    def complete() -> bool:
        feeder.feed()
        found = {name: stored(name) for name in ("requests_rate", "requests_increase")}
        return all(len(one.get(code, [])) >= 3 for one in found.values() for code in CODES)

    wait("three windows of both rules are stored", complete, 150)
    for code in CODES:
        total = sum(per_second(host, code) for host in range(HOSTS))
        # The first window has none before it: no rate, and an increase from zero.
        assert set(stored("requests_rate")[code]) == {total}
        assert set(stored("requests_increase")[code][1:]) == {total * WINDOW_S}
    assert deployment.query("demo_requests_total") == []
    assert deployment.stop() == {"coordinator": 0, "aggregator": 0}
