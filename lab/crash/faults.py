"""What happens to a stack: random deaths and cuts every few seconds, or a situation with its steps."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["SITUATIONS", "Random", "Situation", "Step"]

_WEIGHTS = {
    "front": 3,
    "worker": 4,
    "supervisor": 3,
    "zygote": 1,
    "spare": 1,
    "coordinator": 3,
    "etcd": 2,
    "zookeeper": 2,
}
_CUTS = {"cut producers": 3, "cut aggregator": 2, "cut sink": 2, "cut writer": 1}
_PAUSE_S = (1.0, 5.0)


class Random:
    """Endless faults in an order that ``seed`` gives; what can be killed is asked at each."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def pause_s(self) -> float:
        """How long until the next one."""
        return self._rng.uniform(*_PAUSE_S)

    def seconds(self) -> float:
        """How long something is cut off."""
        return self._rng.uniform(0.05, 1.5)

    def patient(self) -> bool:
        """Whether the next fault waits until what was sent is acked again."""
        return self._rng.random() < 0.7

    def choose(self, roles: list[str], cuts: list[str]) -> str:
        """One of what can be killed (``worker 0 of a``) or cut."""
        weighed: dict[str, float] = {}
        for role in sorted(roles):
            kind = role.split()[0]
            same = sum(other.split()[0] == kind for other in roles)
            weighed[role] = _WEIGHTS[kind] / same
        weighed |= {cut: _CUTS[cut] for cut in cuts}
        return self._rng.choices(list(weighed), list(weighed.values()))[0]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done ``at_s`` seconds after the moment of a situation."""

    at_s: float
    action: str
    """``kill`` (all processes of an instance), ``terminate``, ``start``; ``kill worker``, ``kill front``; ``kill all``, ``start all``;
    ``fill`` and ``room`` of the disk; ``wait`` until everything is acked."""
    who: str = ""
    """``leader`` or ``follower`` at the moment; of one instance alone: ``leader``."""

    @property
    def hurts(self) -> bool:
        """Whether it is a fault, and not the end of one."""
        return self.action not in ("start", "start all", "room", "wait")


@dataclass(frozen=True, slots=True)
class Situation:
    """Some steps, and what they are done to."""

    name: str
    steps: tuple[Step, ...]
    instances: int = 1
    backend: str = "etcd"
    coordinator: bool = False

    @property
    def lasts_s(self) -> float:
        """Until the last step."""
        return max(step.at_s for step in self.steps)


def _loop(action: str, times: int, every_s: float) -> Iterator[Step]:
    for k in range(times):
        yield Step(k * every_s, action, "leader")


def _away(name: str, for_s: float) -> Situation:
    """The follower is away for so long, and the leader dies a second after it is back."""
    back = for_s + 0.1
    steps = (
        Step(0, "kill", "follower"),
        Step(for_s, "start", "follower"),
        Step(back, "wait", "follower"),
        Step(back + 1, "kill", "leader"),
        Step(back + 1.2, "start", "leader"),
    )
    return Situation(f"{name}, leader killed 1 s after it is back", steps, instances=2)


SITUATIONS = (
    Situation("kill -9 of RF 1, restart", (Step(0, "kill", "leader"), Step(0.2, "start", "leader"))),
    Situation("SIGTERM of RF 1, restart", (Step(0, "terminate", "leader"), Step(0.2, "start", "leader"))),
    Situation("a worker killed every 1.5 s, 10 times", tuple(_loop("kill worker", 10, 1.5))),
    Situation("the front killed every 1.5 s, 10 times", tuple(_loop("kill front", 10, 1.5))),
    Situation("a full disk for 8 s", (Step(0, "fill", "leader"), Step(8, "room", "leader"))),
    Situation(
        "a full disk for 8 s, a worker killed meanwhile",
        (Step(0, "fill", "leader"), Step(2, "kill worker", "leader"), Step(8, "room", "leader")),
    ),
    Situation(
        "all processes killed, embedded KV, coordinator",
        (Step(0, "kill all"), Step(1, "start all")),
        backend="embedded",
        coordinator=True,
    ),
    Situation(
        "both of a pair killed at once",
        (
            Step(0, "kill", "leader"),
            Step(0, "kill", "follower"),
            Step(0.2, "start", "leader"),
            Step(0.2, "start", "follower"),
        ),
        instances=2,
    ),
    _away("follower restarted", 0.2),
    _away("follower away for 12 s", 12),
    Situation(
        "rolling restart of a pair, 1 s apart",
        (
            Step(0, "terminate", "follower"),
            Step(0.2, "start", "follower"),
            Step(1, "terminate", "leader"),
            Step(1.2, "start", "leader"),
        ),
        instances=2,
    ),
)
"""Everything is started again by whoever watches over it, a moment later."""
