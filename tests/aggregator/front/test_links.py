"""The front's end of the pair to the supervisor, while that does not read."""

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from aggregator import ipc
from aggregator.front import links

EXPIRE = ipc.Expire()
HELD = 4
"""Messages that the pair and the outbox may hold, each."""


@pytest.fixture
def ends(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[links.SupervisorLink, Any]]:
    monkeypatch.setattr(links, "_SUPERVISOR_MESSAGES", HELD)
    context = links.context()
    supervisor = context.socket(zmq.PAIR)
    supervisor.set_hwm(HELD)
    supervisor.bind(ipc.front_address(str(tmp_path), 1))
    link = links.SupervisorLink(context, str(tmp_path), 1)
    try:
        yield link, supervisor
    finally:
        link.close(0)
        supervisor.close(linger=0)
        context.term()


def stale(number: int) -> ipc.Stale:
    return ipc.Stale(0, number, EXPIRE)


def stats(number: int) -> ipc.FrontStats:
    return ipc.FrontStats({"number": number}, {})


def hear(link: links.SupervisorLink, supervisor: Any, last: ipc.FromFront) -> list[ipc.FromFront]:
    """What the supervisor reads up to ``last``, while the front turns."""
    heard: list[ipc.FromFront] = []
    for _ in range(3000):
        link.flush()
        if supervisor.poll(10):
            heard.append(ipc.decode_from_front(supervisor.recv()))
            if heard[-1] == last:
                return heard
    raise AssertionError(f"{last} does not come, only {heard}")


def test_answers_all_arrive_and_of_the_figures_the_newest(ends: Any) -> None:
    link, supervisor = ends
    link.send(ipc.Listening("a:1", 1))
    for number in range(500):
        link.send(stale(number))
        link.send(stats(number))
    heard = hear(link, supervisor, stats(499))
    assert [message for message in heard if not isinstance(message, ipc.FrontStats)] == [
        ipc.Listening("a:1", 1),
        *map(stale, range(500)),
    ]
    assert len(heard) < 600


def test_figures_alone_do_not_heap_up(ends: Any) -> None:
    link, supervisor = ends
    for number in range(500):
        link.send(stats(number))
    assert len(hear(link, supervisor, stats(499))) < 100


def test_no_command_is_taken_while_answers_wait_and_none_is_lost(ends: Any) -> None:
    link, supervisor = ends
    for number in range(100):
        link.send(stale(number))
    supervisor.send(ipc.encode(ipc.Drain(5)))
    assert not link.readable()
    assert list(link.receive()) == []
    hear(link, supervisor, stale(99))
    taken: list[Any] = []
    for _ in range(1000):
        taken += link.receive()
        if taken:
            break
        supervisor.poll(10)
    assert taken == [ipc.Drain(5)]
