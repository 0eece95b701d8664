"""Which windows a fault may cost, derived from its times alone."""

import pytest
from lab.failover.plan import FAULTS, FOLLOWER, LEADER, PHASES, Fault, Plan, Step, Timing, make_plan

TIMING = Timing()


def left_out(plan: Plan) -> list[list[int]]:
    """Windows that are not judged: untimed, timed. Window 1 is the one of the fault."""
    return [sorted(set(range(plan.windows)) - judged) for judged in plan.judged]


def plan(*steps: Step, phase: float = 4.0, timing: Timing = TIMING) -> Plan:
    return make_plan(Fault("a fault", steps, changes=True), phase, timing)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("phase", PHASES)
def test_nine_tenths_of_every_run_are_judged(fault: Fault, phase: float) -> None:
    made = make_plan(fault, phase, TIMING)
    assert made.share >= 0.9
    assert made.windows * TIMING.resolution_s >= phase + made.quiet_s


def test_one_replica_that_is_there_is_enough() -> None:
    for who in (LEADER, FOLLOWER):
        assert left_out(plan(Step(0, "kill", who))) == [[], []]
        assert left_out(plan(Step(0, "stop", who), Step(20, "continue", who))) == [[], []]


def test_both_killed_lose_what_was_not_settled() -> None:
    made = plan(
        Step(0, "kill", LEADER), Step(1, "kill", FOLLOWER), Step(2, "start", LEADER), Step(2, "start", FOLLOWER)
    )
    # The window before the fault is out where it is due at once; timed ones of that time are not. Back after 2 + 20 s, in window 3.
    assert left_out(made) == [[1, 2, 3], [0, 1, 2, 3]]


def test_a_killed_replica_keeps_what_was_settled_before() -> None:
    # The follower lacks window 1; the leader has emitted it before it is killed, in the middle of window 2.
    steps = (Step(0, "kill", FOLLOWER), Step(0, "start", FOLLOWER), Step(11, "kill", LEADER))
    assert 1 not in left_out(plan(*steps))[0]
    # Downstream refuses it until the leader is dead.
    assert 1 in left_out(plan(Step(0, "refuse"), *steps, Step(30, "accept")))[0]


def test_a_stopped_replica_lacks_the_windows_of_that_time_only() -> None:
    steps = (Step(0, "stop", FOLLOWER), Step(3, "continue", FOLLOWER), Step(5, "kill", LEADER))
    assert left_out(plan(*steps)) == [[1], [1]]


def test_who_is_told_to_end_waits_for_one_that_was_just_restarted() -> None:
    steps = (
        Step(0, "terminate", FOLLOWER),
        Step(1, "start", FOLLOWER),
        Step(10, "terminate", LEADER),
        Step(60, "start", LEADER),
    )
    made = plan(*steps)
    assert left_out(made) == [[], []]
    # The follower is back 20 s after its start at the latest, and the timed windows of before that are flushed 25 s later.
    assert [a.begin for a in made.absences if a.who == LEADER] == [1 + 20 + 25]
    assert [a.begin for a in plan(Step(10, "terminate", LEADER)).absences] == [10]


def test_a_value_that_waits_for_a_new_leader_is_settled_later() -> None:
    # Window 0 (timed) is due 15 s after its end, when nobody leads yet; the follower that holds it is killed before it can.
    steps = (Step(0, "kill", LEADER), Step(0, "start", LEADER), Step(12, "kill", FOLLOWER))
    assert 0 in left_out(plan(*steps))[1]
