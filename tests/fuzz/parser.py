"""A row of the table: what is parsed, from which seeds, and what the plain reader says of the same bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["LEFT", "REFUSED", "Difference", "Parser"]

REFUSED = "refused"
"""In place of a result: the input was refused with an error that the parser documents."""
LEFT = "left to the plain reader"
"""In place of a result: the compiled reader leaves the input to the plain one, as it may."""


class Difference(AssertionError):
    """Two readers of the same bytes say different things."""


@dataclass(frozen=True, slots=True)
class Parser:
    """One parser. ``read`` and ``plain`` give values that can be compared."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    """Small good inputs, made by our own encoders."""
    read: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...] = ()
    """What ``read`` and ``plain`` may raise; all else is a fault."""
    plain: Callable[[bytes], Any] | None = None
    words: tuple[bytes, ...] = ()
    """What the format is made of, for texts above all."""
    kernel: bool = False
    """It reads or writes by address: the input lies directly before an unreadable page."""

    def check(self, data: bytes) -> None:
        """Reads one input. Raises ``Difference``, or whatever the parser does not document."""
        found = self._outcome(self.read, data)
        if self.plain is None or found is LEFT:
            return
        expected = self._outcome(self.plain, data)
        if found != expected:
            raise Difference(f"read as {found!r:.2000}, by the plain reader as {expected!r:.2000}")

    def _outcome(self, read: Callable[[bytes], Any], data: bytes) -> Any:
        try:
            return read(data)
        except self.errors:
            return REFUSED
