"""Situations: each leaves all nodes well, and the short run meets each kind."""

import pytest
from lab.m3db.drill.plan import NODES, SPARE, Situation, killed, paced, short, situations

ALL = [*situations(), *(killed(one, 1.5) for one in situations()), *short()]


@pytest.mark.parametrize("situation", ALL, ids=lambda one: one.name)
def test_it_ends_as_it_began(situation: Situation) -> None:
    assert [step.at_s for step in situation.steps] == sorted(step.at_s for step in situation.steps)
    assert all(step.at_s < situation.lasts_s for step in situation.steps)
    down, ill, members = set[str](), set[str](), set(NODES)
    for step in situation.steps:
        assert set(step.nodes) <= {*NODES, SPARE}
        match step.action:
            case "down":
                down |= set(step.nodes)
            case "up":
                down -= set(step.nodes)
            case "fault" | "silent" | "clock":
                ill |= set(step.nodes)
            case "heal":
                ill -= set(step.nodes)
            case "replace":
                members ^= set(step.nodes)
            case "add" | "remove":
                members ^= set(step.nodes)
            case other:
                assert other in ("settle", "kill", "poison", "cure")
    assert (down, ill, members) == (set(), set(), set(NODES))


def test_names_are_different() -> None:
    names = [one.name for one in situations()]
    assert len(set(names)) == len(names) > 40


def test_the_short_run_is_short() -> None:
    assert sum(one.lasts_s for one in short()) < 50
    assert any(one.refuses and any(step.action == "kill" for step in one.steps) for one in short())


def test_pace() -> None:
    (one,) = [one for one in situations() if one.name == "one node is down"]
    assert [step.at_s for step in paced(one, 0.5).steps] == [step.at_s / 2 for step in one.steps]
