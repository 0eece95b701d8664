"""What can be wrong with a node, switched on and off while it runs."""

import enum
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Error", "Fault", "Kind"]


class Kind(enum.StrEnum):
    """What a node does with the calls of a method."""

    HANG = "hang"
    """No answer."""
    SLOW = "slow"
    """Begins ``delay_s`` later."""
    FRAME = "frame"
    """An error frame of ``code``."""
    ELEMENTS = "elements"
    """``error`` for the elements at ``indices``; an exception of that kind for calls without elements."""
    EMPTY_ERROR = "empty_error"
    """Code 1 without an exception."""
    CLOSE = "close"
    """The connection is closed instead."""
    HALF = "half"
    """Half of the answer, then the connection is closed."""
    HALF_HANG = "half_hang"
    """Half of the answer, and nothing any more on this connection."""
    WRONG_ID = "wrong_id"
    """The answer has an id that nobody waits for."""
    TWICE = "twice"
    """The answer comes two times."""
    REVERSED = "reversed"
    """Answers are held for ``delay_s`` and sent in reverse order."""
    TRICKLE = "trickle"
    """A byte at a time."""
    FRAGMENTS = "fragments"
    """In frames of one byte of an argument each."""
    GARBAGE = "garbage"
    """The struct of the answer cannot be read."""
    NOT_OK = "not_ok"
    """``health`` says that it is not; others answer as ever."""
    BLIND = "blind"
    """Says that all is well without having looked: for benchmarks of clients."""


class Error(enum.StrEnum):
    """Kinds of the errors that elements get."""

    BAD_REQUEST = "bad_request"
    INTERNAL = "internal"
    EXHAUSTED = "exhausted"
    """A bad request with the flag of exhausted resources."""
    SERVER_TIMEOUT = "server_timeout"
    """Internal, with the flag of a timeout."""

    @property
    def numbers(self) -> tuple[int, int]:
        """Type and flags."""
        return {"bad_request": (1, 0), "internal": (0, 0), "exhausted": (1, 1), "server_timeout": (0, 2)}[self.value]


@dataclass(frozen=True, slots=True)
class Fault:
    """One of the kinds and what belongs to it."""

    kind: Kind
    delay_s: float = 0.0
    code: int = 5
    error: Error = Error.INTERNAL
    indices: tuple[int, ...] | None = None
    """None: all elements."""
    text: str = "told to fail"
    applied: bool = False
    """Where there is no answer, or an error frame: whether the call is carried out all the same."""
    times: int = 0
    """So many calls; 0: until it is taken away."""

    def to_json(self) -> dict[str, Any]:
        """For the port of a node of its own process."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Fault":
        """Raises ``ValueError``, ``TypeError`` or ``KeyError`` for one that does not exist."""
        indices = document.get("indices")
        return cls(
            **{
                **document,
                "kind": Kind(document["kind"]),
                "error": Error(document.get("error", Error.INTERNAL)),
                "indices": None if indices is None else tuple(indices),
            }
        )
