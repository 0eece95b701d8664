"""The commands that can be typed while the cluster runs."""

import os
import select
from dataclasses import dataclass

__all__ = ["HELP", "KV", "Order", "Typed", "parse"]

KV = 0
"""Stands for the KV server where an order names an instance."""

HELP = """type a command and the number of an instance (or kv: the etcd or ZooKeeper server):
  kill N     kill -9, as a crash; start N brings it back
  term N     SIGTERM, an orderly end
  start N    starts it again
  pause N    SIGSTOP to all its processes, as a machine that hangs; resume N lets it go on
  resign N   hands its leadership over (POST /resign)
  status     who leads; help; quit"""

_OF_AN_INSTANCE = ("kill", "term", "start", "pause", "resume", "resign")
_ALONE = ("status", "help", "quit")


@dataclass(frozen=True)
class Order:
    """A verb, and the instance it is for: its number, or ``KV``; None: it is for all."""

    verb: str
    instance: int | None = None


class Typed:
    """The lines of a file descriptor, read without ever waiting for the end of one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.closed = False

    def lines(self, timeout_s: float) -> list[str]:
        """The whole lines that arrive before the time is up, if any; returns at the first ones. ``closed``: there will be none."""
        try:
            if not select.select([self._descriptor], [], [], timeout_s)[0]:
                return []
            found = os.read(self._descriptor, 4096)
        except (OSError, ValueError):
            found = b""  # It was closed before we came to be, or a terminal that is gone.
        if not found:
            self.closed = True
            return []
        *whole, self._rest = (self._rest + found).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


def parse(line: str, instances: int) -> Order | str | None:
    """The order of a line; a text that says what is wrong with it; None for an empty line."""
    words = line.split()
    if not words:
        return None
    verb = words[0].lower()
    if verb in _ALONE and len(words) == 1:
        return Order(verb)
    if verb not in _OF_AN_INSTANCE:
        return f"{line.strip()!r} is no command; help shows them"
    number = words[1].lower().removeprefix("agg") if len(words) == 2 else ""
    if number == "kv" and verb != "resign":
        return Order(verb, KV)
    if not number.isdecimal() or not 1 <= int(number) <= instances:
        return f"{verb} needs the number of an instance, 1 to {instances}"
    return Order(verb, int(number))
