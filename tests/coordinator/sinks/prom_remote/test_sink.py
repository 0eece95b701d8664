"""The sink against an endpoint that answers as it is told."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from lab.receiver import Received, Receiver, Reply
from tests.coordinator.sinks.prom_remote.batches import T0_NS, id_of, sink_of, values_of

from coordinator.sinks.prom_remote.splitting import bound
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import HeldError, RefusedWhy, TryAgainError
from coordinator.sinks.values import UNAGGREGATED, Destination
from m3metrics.policy import StoragePolicy


def names(received: Received) -> list[str]:
    """The series of a request."""
    return [dict(labels)[b"__name__"].decode() for labels, _ in received.series]


def refusing(*bad: str, text: str = "bad", status: int = 400) -> Callable[[Received], Reply]:
    """As Prometheus: all or nothing."""
    return lambda received: Reply(status, text) if set(bad) & set(names(received)) else Reply(204)


async def test_a_batch_is_one_request_with_a_series_for_each_series() -> None:
    async with Receiver() as receiver:
        sink = sink_of(f"{receiver.url}/write?a=b")
        batch = values_of([
            (id_of("a"), 1.5, T0_NS), (id_of("b", x="y"), 2.5, T0_NS), (id_of("a"), 3.5, T0_NS + 1_999_999),
        ])  # fmt: skip
        delivered = await sink.deliver(batch, again=False)
        await sink.close()
    assert delivered.refused == []
    (received,) = receiver.requests
    assert (received.method, received.path) == ("POST", "/write?a=b")
    assert received.series == [
        ([(b"__name__", b"a")], [(1.5, T0_NS // 1_000_000), (3.5, T0_NS // 1_000_000 + 1)]),
        ([(b"__name__", b"b"), (b"x", b"y")], [(2.5, T0_NS // 1_000_000)]),
    ]
    assert received.header("content-encoding") == "snappy"
    assert received.header("content-type") == "application/x-protobuf"
    assert received.header("x-prometheus-remote-write-version") == "0.1.0"
    assert received.header("accept-encoding") is None


async def test_bad_samples_take_no_neighbour_with_them() -> None:
    bad = {"m3", "m77", "m78", "m199"}
    async with Receiver(refusing(*bad, text="out of order sample")) as receiver:
        sink = sink_of(receiver.url)
        batch = values_of((id_of(f"m{i}"), i, T0_NS) for i in range(1000))
        (refused,) = (await sink.deliver(batch, again=False)).refused
        await sink.close()
    assert (refused.why, refused.rows.tolist()) == (RefusedWhy.OUT_OF_ORDER, [3, 77, 78, 199])
    assert refused.text == "status 400: out of order sample"
    stored = [name for received in receiver.requests if not set(names(received)) & bad for name in names(received)]
    assert sorted(stored) == sorted({f"m{i}" for i in range(1000)} - bad)
    assert len(receiver.requests) <= bound(1000)


async def test_what_was_there_before_is_no_loss() -> None:
    async with Receiver(refusing("a", text="duplicate sample for timestamp")) as receiver:
        sink = sink_of(receiver.url)
        batch = values_of([(id_of("a"), 1, T0_NS), (id_of("b"), 1, T0_NS)])
        first = await sink.deliver(batch, again=False)
        second = await sink.deliver(batch, again=True)
        await sink.close()
    assert [(one.why, one.rows.tolist()) for one in first.refused] == [(RefusedWhy.DUPLICATE, [0])]
    assert [(one.why, one.rows.tolist()) for one in second.refused] == [(RefusedWhy.ALREADY_THERE, [0])]


async def test_ids_that_are_no_tag_set_are_refused_without_the_store() -> None:
    async with Receiver() as receiver:
        sink = sink_of(receiver.url)
        rows = [(b"plain", 1.0, T0_NS), (id_of("a"), 1.0, T0_NS), (id_of("b", x=""), 1.0, T0_NS)]
        (refused,) = (await sink.deliver(values_of(rows), again=False)).refused
        only_bad = await sink.deliver(values_of(rows[:1]), again=False)
        await sink.close()
    assert (refused.why, refused.rows.tolist()) == (RefusedWhy.BAD_ID, [0, 2])
    assert refused.text == "header magic number does not match expected value"
    assert only_bad.refused[0].rows.tolist() == [0]
    assert [names(received) for received in receiver.requests] == [["a"]]


async def test_a_batch_that_is_too_large_is_halved() -> None:
    def answer(received: Received) -> Reply:
        return Reply(413, "too big") if len(received.series) > 40 or "m42" in names(received) else Reply()

    async with Receiver(answer) as receiver:
        sink = sink_of(receiver.url)
        (refused,) = (
            await sink.deliver(values_of((id_of(f"m{i}"), i, T0_NS) for i in range(200)), again=False)
        ).refused
        await sink.close()
    assert (refused.why, refused.rows.tolist(), refused.text) == (RefusedWhy.TOO_LARGE, [42], "status 413: too big")


async def test_many_bad_samples_are_settled_in_several_bounded_deliveries() -> None:
    bad = {f"m{i}" for i in range(0, 800, 3)}
    async with Receiver(refusing(*bad)) as receiver:
        sink = sink_of(receiver.url)
        batch = values_of((id_of(f"m{i}"), i, T0_NS) for i in range(800))
        deliveries = 0
        while True:
            before, deliveries = len(receiver.requests), deliveries + 1
            try:
                (refused,) = (await sink.deliver(batch, again=deliveries > 1)).refused
                break
            except TryAgainError as error:
                assert error.retry_after_s is not None
                assert len(receiver.requests) - before == bound(800)
        await sink.close()
    assert refused.rows.tolist() == list(range(0, 800, 3))
    accepted = [name for received in receiver.requests if not set(names(received)) & bad for name in names(received)]
    assert len(accepted) == len(set(accepted)) == 800 - len(bad)
    assert 1 < deliveries <= 1 + 2 * 800 / bound(800)


async def test_a_pause_in_splitting_makes_no_refusal_an_arrival() -> None:
    bad = {f"m{i}" for i in range(0, 200, 2)}
    async with Receiver(refusing(*bad, text="out of order sample")) as receiver:
        sink = sink_of(receiver.url)
        batch = values_of((id_of(f"m{i}"), i, T0_NS) for i in range(200))
        deliveries = 0
        while True:
            deliveries += 1
            try:
                (refused,) = (await sink.deliver(batch, again=deliveries > 1)).refused
                break
            except TryAgainError:
                continue
        await sink.close()
    assert deliveries > 1
    assert (refused.why, refused.rows.tolist()) == (RefusedWhy.OUT_OF_ORDER, list(range(0, 200, 2)))


async def test_series_that_stay_bad_do_not_cost_the_others_anything() -> None:
    bad = {f"m{i}" for i in range(0, 1000, 20)}
    table = SeriesTable()
    async with Receiver(refusing(*bad)) as receiver:
        sink = sink_of(receiver.url)
        deliveries = [0, 0, 0]
        for window in range(3):
            if window == 2:
                receiver.answer = lambda _: Reply()
            batch = values_of(((id_of(f"m{i}"), i, T0_NS + window) for i in range(1000)), table)
            before = len(receiver.requests)
            while True:
                deliveries[window] += 1
                try:
                    refused = (await sink.deliver(batch, again=deliveries[window] > 1)).refused
                    break
                except TryAgainError:
                    continue
            first = receiver.requests[before]
            if window == 1:
                assert len(first.series) == 950
                assert len(receiver.requests) - before <= 1 + 2 * 50
            if window == 2:
                assert [len(one.series) for one in receiver.requests[before:]] == [950, 50]
            assert [one.rows.tolist() for one in refused] == ([list(range(0, 1000, 20))] if window < 2 else [])
        before = len(receiver.requests)
        await sink.deliver(values_of(((id_of(f"m{i}"), i, T0_NS + 9) for i in range(1000)), table), again=False)
        assert len(receiver.requests) == before + 1
        await sink.close()
    assert deliveries[0] > deliveries[1] == 1


@pytest.mark.parametrize(
    ("reply", "kind", "retry_after_s"),
    [
        (Reply(500, "down"), TryAgainError, None),
        (Reply(429, "slow", {"Retry-After": "7"}), TryAgainError, 7.0),
        (Reply(503, "", {"Retry-After": "100000"}), TryAgainError, 300.0),
        (Reply(401, "who"), HeldError, None),
        (Reply(404, "where"), HeldError, None),
        (Reply(close=True), TryAgainError, None),
        (Reply(delay_s=60), TryAgainError, None),
    ],
)
async def test_what_may_be_cured_by_waiting_holds_the_batch(
    reply: Reply, kind: type[TryAgainError], retry_after_s: float | None
) -> None:
    async with Receiver(lambda _: reply) as receiver:
        sink = sink_of(f"{receiver.url}/w", request_timeout_s=0.3 if reply.delay_s else 60.0)
        with pytest.raises(TryAgainError) as caught:
            await sink.deliver(values_of([(id_of("a"), 1, T0_NS)]), again=False)
        await sink.close()
    assert type(caught.value) is kind
    assert caught.value.retry_after_s == retry_after_s
    assert f"store ({receiver.url}/w)" in str(caught.value)


async def test_nobody_there_and_unknown_hosts_are_tried_again() -> None:
    async with Receiver() as receiver:
        url = receiver.url
    for address in (url, "http://no-such-host.invalid/write"):
        sink = sink_of(address)
        with pytest.raises(TryAgainError) as caught:
            await sink.deliver(values_of([(id_of("a"), 1, T0_NS)]), again=False)
        await sink.close()
        assert type(caught.value) is TryAgainError
        assert not caught.value.arrived


async def test_an_outage_in_the_middle_of_a_split_batch_does_not_begin_anew() -> None:
    down = {"m9"}

    def answer(received: Received) -> Reply:
        if names(received)[0] in down:
            return Reply(503)
        return refusing("m2")(received)

    async with Receiver(answer) as receiver:
        sink = sink_of(receiver.url)
        batch = values_of((id_of(f"m{i}"), i, T0_NS) for i in range(18))
        with pytest.raises(TryAgainError):
            await sink.deliver(batch, again=False)
        down.clear()
        before = len(receiver.requests)
        (refused,) = (await sink.deliver(batch, again=True)).refused
        await sink.close()
    assert refused.rows.tolist() == [2]
    assert [names(received) for received in receiver.requests[before:]] == [[f"m{i}" for i in range(9, 18)]]


async def test_lanes_are_sent_beside_each_other() -> None:
    all_there = asyncio.Event()

    async def answer(_: Received) -> Reply:
        if len(receiver.requests) == 3:
            all_there.set()
        await all_there.wait()
        return Reply()

    async with Receiver(answer) as receiver:
        sink = sink_of(receiver.url, lanes=3)
        batches = [values_of([(id_of(f"m{i}"), 1, T0_NS)]) for i in range(3)]
        await asyncio.gather(*(sink.deliver(batch, again=False) for batch in batches))
        assert len(receiver.connections) == 3
        await sink.deliver(batches[0], again=False)
        assert len(receiver.connections) == 3
        await sink.close()
    assert sink.lanes == 3


def test_which_values_it_takes() -> None:
    policy = StoragePolicy.parse("1m:40d")
    raw = sink_of("http://h/")
    assert raw.takes(UNAGGREGATED)
    assert not raw.takes(Destination.of(policy))
    assert np.dtype(np.uint16) == values_of([(id_of("a"), 1, 0)]).destination.dtype
