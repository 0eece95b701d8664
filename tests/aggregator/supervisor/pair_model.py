"""Two instances that replicate each other, in a time that only tests move: who has which forwarded metric, and what comes of it.

Real are both engines, flush machines, forwarders, sinks and the cores of their producers (``output_model``). Models are the KV (a message
that both see), the election (``lead`` names who leads) and the journals: a process that is started again goes on with the engine that the
one before had. What is forwarded goes to both over connections that tests cut and join; whoever is away gets samples when it is back.
"""

from collections import defaultdict
from collections.abc import Callable

from tests.aggregator.supervisor.output_model import ALL, NOON, STEP_NS, S, Tier, Wire

from aggregator import ipc
from m3cluster.flush_times import ShardSetFlushTimes
from m3cluster.topic import ConsumptionType

NAMES = "ab"


class Member(Tier):
    """One of the two; what it forwards, and the flush times that it writes, go through the pair."""

    def __init__(self, name: str, pair: "Pair", single_ns: int) -> None:
        self.name = name
        self.alive = True
        self.kept: list[bytes] = []
        """Samples that wait until it is back."""
        self._pair = pair
        self._lists: list[ipc.NewList] = []
        output, rollups = self._wires()
        super().__init__(output, rollups=rollups, single_ns=single_ns)

    @staticmethod
    def _wires() -> tuple[Wire, Wire]:
        output = Wire({"coordinator": (ConsumptionType.SHARED, {"c": ALL})})
        return output, Wire({"aggregator": (ConsumptionType.REPLICATED, dict.fromkeys(NAMES, ALL))})

    def restart(self) -> None:
        """A process goes on with what the one before had; nobody is connected to the other one yet."""
        output, rollups = self._wires()
        rollups.pair.disconnect(*(name for name in NAMES if name != self.name))
        self.begin([output], rollups)
        self.flushing.worker_up(0, 1, self.owned[0], replays=True)
        self.alive = True
        self.carry_out(self.flushing.follow())
        self.carry_out(self.flushing.kv_changed(self._pair.times))
        self.carry_out(self.flushing.worker_ready(0, self._lists, self.now))
        kept, self.kept = self.kept, []
        self.take(*kept)

    def made(self, worker: int, lists: list[ipc.NewList]) -> None:
        self._lists += lists
        super().made(worker, lists)

    def forward(self, instance: str, value: bytes) -> None:
        self._pair.members[instance].take(value)

    def save(self) -> None:
        self._pair.delivered = self.flushing.delivered(ALL) or self._pair.delivered
        super().save()
        self._pair.saved(self)


class Pair:
    """See the module; ``a`` leads at first. ``single_ns``: ``forwarding.maxSingleDelay``."""

    def __init__(self, single_ns: int = 60 * S) -> None:
        self.now = self.began_ns = NOON
        self.times = ShardSetFlushTimes()
        self.delivered: ShardSetFlushTimes | None = None
        self.members = {name: Member(name, self, single_ns) for name in NAMES}
        self.lead("a")

    def lead(self, name: str) -> None:
        """The lead goes to that one, or over to it."""
        for member in self.members.values():
            if member.alive and member.name != name:
                for sink in member.rollups.sinks:
                    sink.forget()  # type: ignore[attr-defined]
                member.rollup_wire.pair.core.drop_unsent_fenced()
                member.carry_out(member.flushing.follow())
        leader = self.members[name]
        leader.carry_out(leader.flushing.lead(self.times, self.now, self.delivered))

    def kill(self, name: str) -> None:
        """All processes of one end at once."""
        self.members[name].alive = False
        for other in self._others(name):
            self.cut(other.name, name)

    def start(self, name: str, *, connected: bool = True) -> None:
        """It is back; ``connected``: the other one has noticed already."""
        member = self.members[name]
        member.now = self.now
        member.restart()
        for other in self._others(name):
            self.join(name, other.name)
            if connected:
                self.join(other.name, name)

    def cut(self, name: str, other: str) -> None:
        """What one forwards does not reach the other one, which may be itself."""
        self.members[name].rollup_wire.pair.disconnect(other)

    def join(self, name: str, other: str) -> None:
        """It does again."""
        self.members[name].rollup_wire.pair.connect(other)

    def _others(self, name: str) -> list[Member]:
        return [member for member in self.members.values() if member.name != name and member.alive]

    def send(self, *samples: bytes) -> None:
        """To both."""
        for member in self.members.values():
            if member.alive:
                member.take(*samples)
            else:
                member.kept += samples

    def run(self, seconds: float, each_second: Callable[[], None] = lambda: None) -> None:
        """Everything that goes on; ``each_second`` sends samples."""
        for _ in range(round(seconds * S / STEP_NS)):
            self.now += STEP_NS
            for member in self.members.values():
                member.now = self.now
            # In the middle between two ends of windows, as seconds go.
            if (self.now - S // 5) % S == 0:
                each_second()
            for member in self.members.values():
                if member.alive:
                    member.turn()

    def saved(self, by: Member) -> None:
        """One has written the flush times."""
        self.times = by.times
        for other in self._others(by.name):
            other.carry_out(other.flushing.kv_changed(self.times))

    def came(self, ident: bytes) -> dict[int, set[float]]:
        """Start of the window, in seconds since noon → what arrived of a series downstream."""
        found: dict[int, set[float]] = defaultdict(set)
        for member in self.members.values():
            for start, values in member.got("c", ident).items():
                found[start] |= values
        return dict(found)
