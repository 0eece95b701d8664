"""What an answer of a remote write endpoint means. Pure.

===============================  ==================================================================================================
answer                           meaning
===============================  ==================================================================================================
2xx                              stored
400, 422                         something in the request is not valid: final, for the samples to blame
500 with one of ``_FINAL_500``   the same: Prometheus 2.42 answers so for ``too old sample`` (with an out-of-order window), for labels
                                 that are twice in a series and for series without labels
413                              too large: halved; final for a single sample
429, other 5xx                   later (``Retry-After`` is honoured)
everything else, 3xx too         held: an operator has to do something (credentials, address, redirects)
===============================  ==================================================================================================

What stores do with the good samples of a refused request, as measured:

* Prometheus 2.42 stops at the first sample that it refuses, rolls the whole request back, and says what was wrong but not with which
  series. A sample that is older than, or a duplicate of, one *of the same request* is dropped without a word, and answered with 204.
* VictoriaMetrics takes every sample (204); what it cannot store it drops by itself.
* Mimir, Cortex and Thanos store the good ones and name the first bad series in the answer.
"""

import email.utils
import json
import re
from dataclasses import dataclass
from enum import Enum, auto

from coordinator.sinks.sink import RefusedWhy

__all__ = ["Answer", "Kind", "judge", "one_line", "retry_after_s"]

MAX_RETRY_AFTER_S = 300.0
"""A store that asks for more is asked again after so long."""
MAX_TEXT = 200
"""Characters of a store's answer that are kept."""


class Kind(Enum):
    """What to do next."""

    STORED = auto()
    REFUSED = auto()
    """Final for at least one sample of the request."""
    TOO_LARGE = auto()
    LATER = auto()
    HELD = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, judged."""

    kind: Kind
    text: str = ""
    """The status and the store's words, one line."""
    why: RefusedWhy = RefusedWhy.BAD_REQUEST
    """``REFUSED`` only."""
    retry_after_s: float | None = None
    """``LATER`` only."""
    unauthorized: bool = False
    """``HELD`` only: the credentials may be out of date."""
    arrived: bool = True
    """``LATER`` only: whether the endpoint may have stored something of it."""
    unsupported: bool = False
    """``HELD`` only: the endpoint does not know what kind of body it was sent."""
    written: bool = False
    """Whether the answer says how much of a request of Remote Write 2.0 was written, as who knows 2.0 does."""
    body: str = ""
    """``REFUSED`` only: all that was read of the store's words."""


_WHY: tuple[tuple[re.Pattern[str], RefusedWhy], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), why)
    for pattern, why in (
        (r"too old|out of bounds|too far in the past", RefusedWhy.TOO_OLD),
        (r"duplicate sample|duplicate-timestamp", RefusedWhy.DUPLICATE),
        (r"out.of.order", RefusedWhy.OUT_OF_ORDER),
        (r"max-series|series limit|too many series", RefusedWhy.TOO_MANY_SERIES),
    )
)
"""In this order: texts about old samples may speak of the out-of-order window too."""

_FINAL_500 = re.compile(
    r"too old sample|invalid sample|out of order sample|out of bounds|duplicate sample for timestamp"
)


def judge(status: int, body: str = "", retry_after: str = "", now_s: float = 0.0) -> Answer:
    """What an answer means. ``retry_after``: that header; ``now_s``: Unix seconds, to read a date there."""
    if 200 <= status < 300:
        return Answer(Kind.STORED)
    said = one_line(_words(body))
    text = f"status {status}: {said}" if said else f"status {status}"
    if status in (400, 422) or (status == 500 and _FINAL_500.search(said)):
        return Answer(Kind.REFUSED, text, _why(said), body=body)
    if status == 413:
        return Answer(Kind.TOO_LARGE, text)
    if status == 429 or 500 <= status < 600:
        return Answer(Kind.LATER, text, retry_after_s=retry_after_s(retry_after, now_s))
    return Answer(Kind.HELD, text, unauthorized=status == 401, unsupported=status == 415)


def retry_after_s(header: str, now_s: float) -> float | None:
    """``Retry-After`` (seconds, or a date) as seconds from now, at most ``MAX_RETRY_AFTER_S``; None where it says nothing."""
    header = header.strip()
    if not header:
        return None
    if header.isascii() and header.isdigit():
        return min(float(header[:9]), MAX_RETRY_AFTER_S)
    try:
        at = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return min(max(at.timestamp() - now_s, 0.0), MAX_RETRY_AFTER_S)


def one_line(text: str) -> str:
    """White space and control characters made single spaces, cut to ``MAX_TEXT`` characters."""
    line = " ".join(
        "".join(character if character.isprintable() else " " for character in text[: 4 * MAX_TEXT]).split()
    )
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def _words(body: str) -> str:
    """What a store that answers with a JSON document says in it; any other answer as it is."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body
    found = [document[key] for key in ("error", "message", "msg") if isinstance(document, dict) and document.get(key)]
    return next((text for text in found if isinstance(text, str)), body)


def _why(text: str) -> RefusedWhy:
    return next((why for pattern, why in _WHY if pattern.search(text)), RefusedWhy.BAD_REQUEST)
