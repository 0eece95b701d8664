"""What a store must be able to do to stand behind a queue, and what it may answer.

Errors by kind:

===========================  =====================================================================================================
raised or returned           what becomes of the batch
===========================  =====================================================================================================
``Delivered``                every row is stored, but for those in ``refused``: they are final, counted by reason and named; and but for
                             those in ``parked``, which come again by themselves when they are due: nothing else waits for them
``TryAgainError``            nothing is sure; the same batch comes again after a pause (``retry_after_s`` or the sink's back-off),
                             with ``again=True`` unless nothing can have arrived. Time-outs, 5xx, 429, refused connections
``HeldError``                as ``TryAgainError``, and an operator has to do something (401, 403, 404, an expired token, a redirect
                             that cannot be followed): named in ``/ready`` as a problem at once
===========================  =====================================================================================================

Any other exception is a mistake of ours: logged with its traceback, then like ``TryAgainError``.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.values import Destination, Values

__all__ = ["Delivered", "HeldError", "Parked", "Refused", "RefusedWhy", "Sink", "TryAgainError"]


class RefusedWhy(StrEnum):
    """Why a store refused a value for good; the tag ``reason`` of ``sink_refused``."""

    BAD_REQUEST = "bad-request"
    """The store says that the value is not valid (400, 422), without a kind that is known."""
    TOO_LARGE = "too-large"
    """A single series larger than the store takes (413)."""
    OUT_OF_ORDER = "out-of-order"
    """Older than what the store has of the series."""
    DUPLICATE = "duplicate"
    """The store has another value of the series for that time, and keeps it."""
    ALREADY_THERE = "already-there"
    """Out of order or a duplicate, after the batch had been sent before: it had arrived then. No loss."""
    OUTSIDE_RETENTION = "outside-retention"
    TOO_OLD = "past-buffer"
    BAD_ID = "bad-id"
    """The id is no tag set, or one that the store cannot have."""
    TOO_MANY_SERIES = "too-many-series"
    NO_NAMESPACE = "no-namespace"
    """The store has no place for the value's policy any more."""


@dataclass(slots=True)
class Refused:
    """Rows of one batch that were refused for one reason."""

    why: RefusedWhy
    rows: NDArray[np.int64]
    """Rows of the batch, ascending."""
    text: str
    """The store's own words for the first of them, without credentials, one line of at most a few hundred characters."""


@dataclass(slots=True)
class Parked:
    """Rows of one batch that the store cannot take yet. They come again in some later batch, with ``again=True``, in no order to others."""

    rows: NDArray[np.int64]
    """Rows of the batch, ascending; none is refused as well."""
    due_in_s: float | None
    """None: after the sink's back-off, longer with each time."""
    text: str
    """Why, as in ``Refused``; named in ``/ready`` when it takes long."""


@dataclass(slots=True)
class Delivered:
    """What became of a batch; rows in none of ``refused`` and ``parked`` are stored."""

    refused: list[Refused] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)


class TryAgainError(Exception):
    """The store did not take the batch; later it may. The text says where and why, without credentials.

    ``arrived``: whether a part of it may be there all the same.
    """

    def __init__(self, text: str, retry_after_s: float | None = None, *, arrived: bool = True) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self.arrived = arrived


class HeldError(TryAgainError):
    """As ``TryAgainError``, but waiting alone will not cure it."""


class Sink(Protocol):
    """A store of values. ``deliver`` is called from one event loop, for several batches at once (one per lane)."""

    @property
    def name(self) -> str:
        """Unique among the sinks of a coordinator; letters, digits, ``-`` and ``_``: it names the queue's directory too."""

    @property
    def ordered(self) -> bool:
        """Whether the store refuses values that are older than what it has of a series: each series comes in order, oldest first."""

    @property
    def lanes(self) -> int:
        """How many batches it is given at a time; one more where it parks rows."""

    @property
    def batch_rows(self) -> int:
        """How many rows it is given at most in a batch."""

    @property
    def gather_s(self) -> float:
        """How long a batch that is not full waits for more values; 0: not at all."""

    def takes(self, destination: Destination) -> bool:
        """Whether values of that policy are for this sink."""

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        """Returns when the store has the batch. ``again``: parts of it may have arrived before. Raises ``TryAgainError``."""

    async def close(self) -> None:
        """Gives up connections and files."""
