"""What an instance holds, over deaths of its front and of all its processes."""

from typing import Any

import pytest

from aggregator.supervisor.election import completeness
from aggregator.supervisor.election.completeness import LONGEST_NS, WAIT_NS, Completeness, Remembered
from aggregator.supervisor.flushing.holding import Gap, Holding
from m3cluster.placement.model import NEVER_NS

S = 1_000_000_000
PAST = 3 * S


class World:
    """Two clocks far from each other, and an instance with two workers."""

    def __init__(self) -> None:
        self.now_ns = 100 * S
        self.told: list[Holding] = []
        self.late = [0, 0]
        self.peers: dict[str, tuple[int, int]] = {}
        self.one: Completeness

    def wall_ns(self) -> int:
        return 1_000_000 * S + self.now_ns

    def boot_ns(self) -> int:
        return self.now_ns

    def start(self, remembered: Remembered | None = None, **more: Any) -> Completeness:
        self.one = Completeness(
            lambda: self.told.append(self.one.holding), past_ns=PAST, workers=2, remembered=remembered, **more
        )
        return self.one

    def second(self, times: int = 1, behind_ns: int = 0) -> None:
        """What comes in the next seconds: the workers' figures, then the front's."""
        for _ in range(times):
            self.now_ns += S
            for worker in (0, 1):
                self.one.refused(worker, self.late[worker])
            peers = [(host, *counts) for host, counts in self.peers.items()]
            self.one.connections(peers, self.wall_ns() - behind_ns)

    def warm(self) -> Completeness:
        """It has been there for long, with two hosts, one of which sends."""
        self.start()
        self.one.listening()
        self.peers = {"a": (3, 2), "idle": (1, 0)}
        self.second(20)
        self.told.clear()
        return self.one

    def restart(self, remembered: Remembered, after_s: int = 2, through_ns: int = 0, **more: Any) -> Completeness:
        """Another process, whose workers have all replayed journals that go up to ``through_ns`` or a bit more."""
        self.now_ns += after_s * S
        self.peers = {}
        self.start(remembered, **more)
        self.one.listening()
        for worker in (0, 1):
            self.one.replayed(worker, (through_ns or remembered.through_ns) + worker, 0)
        return self.one


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(completeness, "wall_ns", made.wall_ns)
    monkeypatch.setattr(completeness, "boot_ns", made.boot_ns)
    return made


def test_a_first_process_holds_what_comes_after_the_producers_have_connected(world: World) -> None:
    one = world.start()
    assert one.holding == Holding(world.wall_ns())
    assert not one.replaying
    world.now_ns += S
    one.listening()
    assert world.told == [Holding(world.wall_ns())]
    world.peers = {"a": (1, 1)}
    world.second()
    connected = world.wall_ns()
    assert one.holding == Holding(connected)
    # Nobody new.
    world.second(2)
    assert one.holding == Holding(connected)
    world.peers = {"a": (1, 1), "b": (1, 0)}
    world.second()
    assert one.holding == Holding(world.wall_ns())
    # Long after the front began to listen a connection is that of a producer that is new itself.
    held = one.holding
    world.second(10)
    world.peers["c"] = (5, 5)
    world.second(2)
    assert one.holding == held


def test_what_came_while_the_front_was_away_is_a_gap_until_the_producers_are_back(world: World) -> None:
    one = world.warm()
    held, through = one.holding, world.wall_ns()
    world.now_ns += S // 2
    one.front_gone()
    assert one.holding == held.with_gap(Gap(through, NEVER_NS))
    one.listening()
    world.peers = {"a": (1, 0)}
    world.second(3)
    assert one.holding.gaps[-1].open, "a had two"
    world.peers = {"a": (2, 0)}
    world.second()
    assert one.holding.gaps[-1].open, "what it brings may not be there yet"
    world.second()
    assert one.holding == held.with_gap(Gap(through, world.wall_ns()))
    assert world.told[-1] == one.holding


def test_what_waits_for_a_worker_is_not_there_yet(world: World) -> None:
    one = world.warm()
    one.front_gone()
    one.listening()
    world.second(4, behind_ns=3 * S)
    assert one.holding.gaps[-1].open
    world.second()
    assert not one.holding.gaps[-1].open
    assert not one.holding.gaps[-1].lost


def test_a_worker_that_says_nothing_may_have_refused_something(world: World) -> None:
    one = world.warm()
    one.front_gone()
    one.listening()
    for _ in range(4):
        world.now_ns += S
        one.refused(0, 0)
        one.connections([("a", 3, 2), ("idle", 1, 0)], world.wall_ns())
    assert one.holding.gaps[-1].open
    world.second()
    assert not one.holding.gaps[-1].open


def test_what_was_refused_as_too_late_is_lost(world: World) -> None:
    world.late = [4, 0]
    one = world.warm()
    through = world.wall_ns()
    one.front_gone()
    one.listening()
    world.second()
    world.late = [4, 1]
    world.second()
    assert one.holding.gaps == (Gap(through - PAST, world.wall_ns(), lost=True),)


def test_who_does_not_come_back_is_not_waited_for_without_end(world: World) -> None:
    one = world.warm()
    through = world.wall_ns()
    one.front_gone()
    world.now_ns += 5 * S
    one.listening()
    world.peers = {"b": (7, 7)}
    world.second(WAIT_NS // S - 1)
    assert one.holding.gaps[-1].open
    world.second()
    assert one.holding.gaps == (Gap(through, world.wall_ns(), lost=True),)
    assert one.remembered().peers == {"b": 7}
    # The next time it is b who is waited for.
    one.front_gone()
    one.listening()
    world.second(2)
    assert not one.holding.gaps[-1].open


def test_a_front_that_was_stopped_has_read_late_what_came_meanwhile(world: World) -> None:
    one = world.warm()
    world.now_ns += 4 * S
    one.stopped(3.5)
    assert one.holding.gaps == (Gap(world.wall_ns() - 4 * S, NEVER_NS),)
    world.second(2)
    [gap] = one.holding.gaps
    assert (gap.open, gap.lost) == (False, False)


def test_a_worker_that_is_lost_takes_everything_with_it(world: World) -> None:
    one = world.warm()
    one.front_gone()
    one.worker_gone(0)
    one.lost()
    assert one.holding == Holding(world.wall_ns())
    one.listening()
    world.second()
    assert one.holding == Holding(world.wall_ns()), "they have connected again"


def test_another_process_holds_what_the_journals_have(world: World) -> None:
    one = world.warm()
    held, known = one.holding, one.remembered()
    assert known.peers == {"a": 2}
    through = world.wall_ns() + S // 2
    world.now_ns += 2 * S
    again = world.start(known)
    # The others are told at once what is hoped for.
    assert again.replaying
    assert again.holding == held.with_gap(Gap(known.through_ns + 2 * S, NEVER_NS)), "the end of the process, at best"
    assert again.remembered().holding == held.with_gap(Gap(known.through_ns, NEVER_NS)), (
        "the next one is not told of hopes"
    )
    again.listening()
    again.replayed(1, through + 5, 0)
    assert again.replaying
    world.peers = {"a": (2, 1)}
    world.second(3)
    again.replayed(0, through, 0)
    assert not again.replaying
    assert again.holding == held.with_gap(Gap(through, NEVER_NS))
    world.second()
    assert again.holding == held.with_gap(Gap(through, world.wall_ns()))
    # It has had nothing to send since it is back.
    world.peers = {"a": (2, 0), "idle": (1, 0)}
    world.second(3)
    assert again.remembered().peers == {"a": 2}
    world.peers = {"idle": (1, 0)}
    world.second()
    assert again.remembered().peers == {}


@pytest.mark.parametrize("moment", ["before the replay", "after it"])
def test_a_gap_in_which_the_process_dies_again_goes_on(world: World, moment: str) -> None:
    known = world.warm().remembered()
    if moment == "before the replay":
        world.now_ns += S
        between = world.start(known)
    else:
        between = world.restart(known)
    again = world.restart(between.remembered(), through_ns=world.wall_ns())
    assert again.holding.gaps == (Gap(known.through_ns, NEVER_NS),)
    world.peers = {"a": (2, 0)}
    world.second(2)
    assert again.holding.gaps == (Gap(known.through_ns, world.wall_ns()),)


def test_what_happens_after_the_front_was_told_to_end_is_no_news(world: World) -> None:
    one = world.warm()
    one.ending()
    known = one.remembered()
    world.peers = {}
    world.second()
    one.front_gone()
    one.worker_gone(0)
    one.worker_gone(1)
    assert one.remembered() == known


def test_where_it_is_not_known_who_was_connected_the_gap_has_losses(world: World) -> None:
    first = world.start()
    first.listening()
    world.second(2)
    assert first.remembered().peers is None
    again = world.restart(first.remembered())
    world.second(WAIT_NS // S + 1)
    assert [gap.lost for gap in again.holding.gaps] == [True]
    world.peers = {"b": (1, 1)}
    world.second()
    assert again.remembered().peers == {"b": 1}


@pytest.mark.parametrize(("boot_id", "synced", "lost"), [("1", False, False), ("2", False, True), ("2", True, False)])
def test_a_host_that_was_started_anew_has_lost_what_no_disk_had(
    world: World, boot_id: str, synced: bool, lost: bool
) -> None:
    world.warm()
    world.one._boot_id = "1"
    world.restart(world.one.remembered(), boot_id=boot_id, synced=synced)
    world.peers = {"a": (2, 0)}
    world.second(2)
    assert [gap.lost for gap in world.one.holding.gaps] == [lost]


def test_producers_do_not_keep_samples_for_ever(world: World) -> None:
    known = world.warm().remembered()
    world.restart(known, after_s=LONGEST_NS // S)
    world.peers = {"a": (2, 0)}
    world.second(2)
    assert [gap.lost for gap in world.one.holding.gaps] == [True]


def test_a_worker_that_dies_within_a_gap_takes_its_figures_with_it(world: World) -> None:
    world.restart(world.warm().remembered())
    world.one.worker_gone(1)
    world.peers = {"a": (2, 0)}
    world.one.replayed(1, 5, 0)
    world.second(2)
    assert [gap.lost for gap in world.one.holding.gaps] == [True]


def test_a_journal_with_nothing_in_it_has_lost_everything(world: World) -> None:
    known = world.warm().remembered()
    world.start(known)
    world.one.replayed(0, 0, 0)
    assert world.one.holding == Holding(world.wall_ns())
    assert not world.one.replaying
    world.one.replayed(1, known.through_ns, 0)
    assert world.one.holding == Holding(world.wall_ns())
