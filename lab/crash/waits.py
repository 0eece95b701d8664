"""How long instances take after each start: until they are ready, could lead, and lead; read from their status pages again and again."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from lab.http import try_get
from lab.instances import Aggregator

__all__ = ["Life", "Waits"]

_EVERY_S = 0.1


@dataclass(slots=True)
class Life:
    """A process of an instance; times in seconds since it was started, None: not seen."""

    name: str
    pid: int
    began: float
    """Monotonic."""
    ready_s: float | None = None
    can_lead_s: float | None = None
    leads_s: float | None = None

    def __str__(self) -> str:
        def text(seconds: float | None) -> str:
            return "–" if seconds is None else f"{seconds:.1f} s"

        return f"{self.name}: ready {text(self.ready_s)}, canLead {text(self.can_lead_s)}, leads {text(self.leads_s)}"


class Waits:
    """Reads the pages of ``aggregators`` in a thread until it is closed."""

    def __init__(self, aggregators: Iterable[Aggregator]) -> None:
        self.lives: list[Life] = []
        """In the order in which they were seen; those that ran already when this began are the first."""
        self._aggregators = list(aggregators)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waits", daemon=True)
        self._thread.start()

    def since(self, monotonic_s: float) -> list[Life]:
        """The processes that were started since then."""
        return [life for life in self.lives if life.began >= monotonic_s]

    def close(self) -> None:
        """Ends reading."""
        self._end.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._end.wait(_EVERY_S):
            for one in self._aggregators:
                if one.running:
                    self._look(one)

    def _look(self, one: Aggregator) -> None:
        pid = one.process.pid
        life = next((life for life in self.lives if life.pid == pid), None)
        if life is None:
            self.lives.append(life := Life(one.name, pid, time.monotonic()))
        if None not in (life.ready_s, life.can_lead_s, life.leads_s):
            return
        said, ready = one.flush_status(), try_get(one.http + "/ready", 2.0)[0] == 200
        after = time.monotonic() - life.began
        if ready and life.ready_s is None:
            life.ready_s = after
        if said.get("canLead") and life.can_lead_s is None:
            life.can_lead_s = after
        if said.get("electionState") == "leader" and life.leads_s is None:
            life.leads_s = after
