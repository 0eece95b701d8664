"""What the nodes of M3DB said of rows, in the words of sinks. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coordinator.sinks.sink import Delivered, Parked, Refused, RefusedWhy
from m3db.attempt import BAD_REQUEST, TOO_NEW, TOO_OLD, RowError
from m3db.consistency import RowState

__all__ = ["Verdict", "judge"]

_UNKNOWN = "unknown namespace"
_LONGEST = 300
_AHEAD_AGAIN_S = 10.0
"""After so long a value is sent again that was too new for the nodes, whose limits are not known here."""


class _Result(Protocol):
    states: NDArray[np.uint8]
    errors: list[RowError]


@dataclass(slots=True)
class Verdict:
    """Rows are those of the write."""

    delivered: Delivered
    failed: NDArray[np.int64]
    """Rows that too few nodes have written; they may later."""
    why: str
    """What nodes said of the first of them."""
    unknown: NDArray[np.int64]
    """Those of them whose namespace a node does not know."""


def judge(result: _Result, far: NDArray[np.bool_]) -> Verdict:
    """``far``: rows that are too far ahead to wait for."""
    delivered = Delivered()
    left = result.states == RowState.REFUSED
    # A node whose clock is behind calls it too new what another one takes: that comes before all else.
    for kind, why in ((TOO_NEW, None), (TOO_OLD, RefusedWhy.TOO_OLD), (BAD_REQUEST, RefusedWhy.BAD_REQUEST)):
        for error in result.errors:
            if error.kind == kind:
                rows = error.rows[left[error.rows]]
                left[rows] = False
                if why is None:
                    _ahead(rows, far, _line(error), delivered)
                elif len(rows):
                    delivered.refused.append(Refused(why, rows, _line(error)))
    if left.any():
        delivered.refused.append(
            Refused(RefusedWhy.BAD_REQUEST, np.flatnonzero(left), "refused by a majority of nodes")
        )
    failed = np.flatnonzero(result.states == RowState.RETRY)
    unknown = np.zeros(len(result.states), np.bool_)
    for error in result.errors:
        if _UNKNOWN in error.text:
            unknown[error.rows] = True
    said = _said(result.errors, failed) if len(failed) else ""
    return Verdict(delivered, failed, said, failed[unknown[failed]])


def _ahead(rows: NDArray[np.int64], far: NDArray[np.bool_], text: str, delivered: Delivered) -> None:
    for chosen, is_far in ((rows[far[rows]], True), (rows[~far[rows]], False)):
        if len(chosen) and is_far:
            delivered.refused.append(Refused(RefusedWhy.OUTSIDE_RETENTION, chosen, text))
        elif len(chosen):
            delivered.parked.append(Parked(chosen, _AHEAD_AGAIN_S, text))


def _said(errors: Sequence[RowError], rows: NDArray[np.int64]) -> str:
    """What hosts said of the first of these rows, each once."""
    first = rows[0]
    said = dict.fromkeys(_line(error) for error in errors if first in error.rows)
    return "too few nodes have written it: " + ("; ".join(said) or "not all have answered")


def _line(error: RowError) -> str:
    text = " ".join(error.text.split())[:_LONGEST]
    return f"{error.host}: {text}" if error.host else text
