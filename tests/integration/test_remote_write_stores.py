"""The remote write sink and real stores: what they refuse costs that sample only, and they answer as ``answers`` says they do."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.http import request
from lab.stores import PrometheusStore, VictoriaMetrics
from tests.coordinator.sinks.prom_remote.batches import id_of, sink_of, values_of
from tests.real_servers import require_binary

from coordinator.sinks.prom_remote.answers import Kind, judge
from coordinator.sinks.prom_remote.splitting import bound
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import RefusedWhy
from m3ctl.bench.remote_write import write_request

pytestmark = pytest.mark.integration

MS = 1_000_000
COUNT = 2000


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[PrometheusStore]:
    """A Prometheus that refuses all late samples."""
    require_binary("prometheus")
    with PrometheusStore(tmp_path) as store:
        assert isinstance(store, PrometheusStore)
        yield store


@pytest.fixture
def lenient(tmp_path: Path) -> Iterator[PrometheusStore]:
    """One that takes samples up to ten minutes late."""
    require_binary("prometheus")
    with PrometheusStore(tmp_path, "10m") as store:
        assert isinstance(store, PrometheusStore)
        yield store


def now_ms() -> int:
    """A whole second, a moment ago."""
    return int(time.time()) * 1000 - 60_000


def rows(at_ms: int, value: float, odd: dict[int, int] | None = None) -> list[tuple[bytes, float, int]]:
    """A sample for each of ``COUNT`` series; ``odd``: other times."""
    return [(id_of(f"m{i}", job="sink"), value + i, (odd or {}).get(i, at_ms) * MS) for i in range(COUNT)]


def stored(store: PrometheusStore | VictoriaMetrics, start_ms: int) -> dict[str, dict[int, float]]:
    """Metric → time in ms → value."""
    found = store.samples('{job="sink"}', start_ms, start_ms + 600_000)
    return {dict(labels)["__name__"]: points for labels, points in found.items()}


async def test_one_late_sample_costs_that_sample_only(strict: PrometheusStore) -> None:
    first = now_ms()
    sink = sink_of(strict.write_url)
    assert (await sink.deliver(values_of(rows(first, 0.0)), again=False)).refused == []
    before = sum(strict.write_requests().values())
    late = values_of(rows(first + 1000, 0.5, {777: first - 1000}))
    (refused,) = (await sink.deliver(late, again=False)).refused
    assert (refused.why, refused.rows.tolist()) == (RefusedWhy.OUT_OF_ORDER, [777])
    assert sum(strict.write_requests().values()) - before <= bound(COUNT)
    assert stored(strict, first - 10_000) == {
        f"m{i}": {first: float(i)} | ({first + 1000: i + 0.5} if i != 777 else {}) for i in range(COUNT)
    }

    # The same again, as after a crash of ours: nothing changes, nothing is lost.
    (again,) = (await sink.deliver(late, again=True)).refused
    assert (again.why, again.rows.tolist()) == (RefusedWhy.ALREADY_THERE, [777])
    # And another value for a time that is there.
    other = values_of([*rows(first + 1000, 0.5)[:5], (id_of("m9", job="sink"), 77.0, (first + 1000) * MS)])
    (duplicate,) = (await sink.deliver(other, again=False)).refused
    assert (duplicate.why, duplicate.rows.tolist()) == (RefusedWhy.DUPLICATE, [5])
    assert stored(strict, first - 10_000)["m9"][first + 1000] == 9.5
    await sink.close()


async def test_samples_beyond_all_limits_of_age_cost_themselves_in_a_few_requests(
    strict: PrometheusStore, lenient: PrometheusStore
) -> None:
    first = now_ms()
    days = 86_400_000
    for store in (strict, lenient):
        sink = sink_of(store.write_url)
        await sink.deliver(values_of(rows(first, 0.0)), again=False)
        before = sum(store.write_requests().values())
        odd = {i: first - 3 * days + i % 3 for i in range(0, COUNT, 2)}
        (refused,) = (await sink.deliver(values_of(rows(first + 1000, 0.5, odd)), again=False)).refused
        await sink.close()
        assert (refused.why, refused.rows.tolist()) == (RefusedWhy.TOO_OLD, sorted(odd))
        assert sum(store.write_requests().values()) - before <= 3 * (2 * COUNT.bit_length() + 2)
        assert {name for name, points in stored(store, first - 10_000).items() if first + 1000 in points} == {
            f"m{i}" for i in range(1, COUNT, 2)
        }


async def test_a_backlog_that_is_late_as_a_whole_is_given_up_quickly(strict: PrometheusStore) -> None:
    first = now_ms()
    table = SeriesTable()
    sink = sink_of(strict.write_url)
    await sink.deliver(values_of(rows(first, 0.0), table), again=False)
    for window, most in ((1, bound(COUNT)), (2, 40), (3, 40)):
        before = sum(strict.write_requests().values())
        late = values_of(rows(first - 10_000 + 1000 * window, 0.5), table)
        (refused,) = (await sink.deliver(late, again=False)).refused
        assert (refused.why, len(refused.rows)) == (RefusedWhy.OUT_OF_ORDER, COUNT)
        assert sum(strict.write_requests().values()) - before <= most
    # What comes after it is stored at once.
    before = sum(strict.write_requests().values())
    assert (await sink.deliver(values_of(rows(first + 1000, 0.5), table), again=False)).refused == []
    assert sum(strict.write_requests().values()) - before == 1
    await sink.close()
    assert stored(strict, first - 20_000) == {f"m{i}": {first: float(i), first + 1000: i + 0.5} for i in range(COUNT)}


async def test_late_samples_within_the_window_are_taken(lenient: PrometheusStore) -> None:
    first = now_ms()
    sink = sink_of(lenient.write_url, ordered=False)
    for at in (first, first - 120_000, first + 1000):
        assert (await sink.deliver(values_of(rows(at, 0.0)), again=False)).refused == []
    await sink.close()
    assert stored(lenient, first - 200_000)["m3"] == dict.fromkeys((first - 120_000, first, first + 1000), 3.0)


def post(store: PrometheusStore, *samples: tuple[str, float, int]) -> tuple[int, str]:
    """Status and text."""
    body = write_request([((("__name__", name), ("job", "sink")), value, at_ms) for name, value, at_ms in samples])
    status, text = request("POST", store.write_url, body, {"Content-Encoding": "snappy"})
    return status, text.decode()


def test_prometheus_answers_as_we_think(strict: PrometheusStore) -> None:
    """A request with one bad sample is rolled back as a whole, and the answer does not name the series."""
    first = now_ms()
    assert post(strict, ("a", 1, first), ("b", 1, first)) == (204, "")
    assert post(strict, ("a", 2, first + 1), ("b", 2, first - 1), ("c", 2, first)) == (400, "out of order sample\n")
    assert stored(strict, first - 1000) == {"a": {first: 1.0}, "b": {first: 1.0}}
    assert post(strict, ("a", 1, first)) == (204, "")
    assert post(strict, ("a", 2, first)) == (400, "duplicate sample for timestamp\n")
    # Of one request, what is late within it is dropped without a word.
    assert post(strict, ("d", 1, first), ("d", 2, first - 1)) == (204, "")
    assert stored(strict, first - 1000)["d"] == {first: 1.0}
    assert post(strict, ("e", 1, first - 3 * 86_400_000)) == (400, "out of bounds\n")


def test_prometheus_with_a_window_answers_500_for_good(lenient: PrometheusStore) -> None:
    first = now_ms()
    assert post(lenient, ("a", 1, first))[0] == 204
    status, text = post(lenient, ("a", 1, first - 3 * 86_400_000))
    assert (status, text) == (500, "too old sample\n")
    assert judge(status, text).kind is Kind.REFUSED
    twice = write_request([((("__name__", "a"), ("x", "1"), ("x", "2")), 1.0, first)])
    status, body = request("POST", lenient.write_url, twice, {"Content-Encoding": "snappy"})
    assert status == 500
    assert judge(status, body.decode()).kind is Kind.REFUSED


async def test_victoria_metrics_has_every_value_once(tmp_path: Path) -> None:
    require_binary("victoria-metrics")
    first = now_ms()
    with VictoriaMetrics(tmp_path) as store:
        assert isinstance(store, VictoriaMetrics)
        sink = sink_of(store.write_url, ordered=False)
        for at, value in ((first, 0.0), (first + 1000, 0.5), (first - 5000, 0.25)):
            for again in (False, True):
                assert (await sink.deliver(values_of(rows(at, value)), again=again)).refused == []
        await sink.close()
        assert stored(store, first - 10_000) == {
            f"m{i}": {first: float(i), first + 1000: i + 0.5, first - 5000: i + 0.25} for i in range(COUNT)
        }
