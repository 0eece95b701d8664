"""Whose turn it is, where only so many of something may begin in a second: TLS handshakes, each of which holds a loop for a millisecond
or two.

Hosts take turns, so whoever floods a port waits behind himself. Pure: time comes as an argument.
"""

from typing import Generic, TypeVar

__all__ = ["HANDSHAKES_PER_S", "Pace", "handshakes"]

HANDSHAKES_PER_S = 100
"""Of one listening port: a fifth of a core at most."""
_AT_ONCE = 10

Who = TypeVar("Who")


class Pace(Generic[Who]):
    """``per_s`` begin in a second, ``at_once`` together where none began before."""

    def __init__(self, per_s: float, at_once: int) -> None:
        self._step_ns = int(1e9 / per_s)
        self._ahead_ns = self._step_ns * (at_once - 1)
        self._next_ns = 0
        """When the next one would begin if all came evenly."""
        self._waiting: dict[str, dict[Who, None]] = {}
        """By host, in the order of their turns; those of a host in the order in which they came."""

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def enter(self, host: str, who: Who, now_ns: int) -> bool:
        """Whether ``who`` may begin now; otherwise it waits, and comes out of ``turns``."""
        if not self._waiting and self._may_begin(now_ns):
            return True
        self._waiting.setdefault(host, {})[who] = None
        return False

    def turns(self, now_ns: int) -> list[Who]:
        """Those that may begin now."""
        begin = []
        while self._waiting and self._may_begin(now_ns):
            host, queue = next(iter(self._waiting.items()))
            del self._waiting[host]
            begin.append(who := next(iter(queue)))
            del queue[who]
            if queue:
                self._waiting[host] = queue
        return begin

    def leave(self, host: str, who: Who) -> None:
        """It waits no more, if it did."""
        queue = self._waiting.get(host, {})
        queue.pop(who, None)
        if not queue:
            self._waiting.pop(host, None)

    def wait_ns(self, now_ns: int) -> int:
        """Until the next turn."""
        return max(self._next_ns - self._ahead_ns - now_ns, 0)

    def _may_begin(self, now_ns: int) -> bool:
        if self.wait_ns(now_ns):
            return False
        self._next_ns = max(self._next_ns, now_ns) + self._step_ns
        return True


def handshakes() -> Pace[Who]:
    """That of a listening port."""
    return Pace(HANDSHAKES_PER_S, _AT_ONCE)
