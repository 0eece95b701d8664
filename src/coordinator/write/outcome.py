"""What became of a request, and the two forms in which M3 says so (docs/m3/coordinator.md, response to a write)."""

from dataclasses import dataclass, field

from starlette.responses import JSONResponse, Response

from coordinator.not_kept import Reason
from coordinator.write.acks import Ticket

__all__ = ["FailedError", "Outcome", "error_response"]


class FailedError(Exception):
    """The whole request failed with an error that trying again may cure; answered with 500."""


@dataclass(slots=True)
class Outcome:
    """What became of a request whose answer is not decided by one thing alone."""

    bad: int = 0
    """Series that will never be accepted, as M3 counts them: once per pass."""
    last_bad: str = ""
    retryable: int = 0
    last_retryable: str = ""
    not_kept: dict[Reason, int] = field(default_factory=dict)
    """Samples, by reason."""
    figures: dict[str, int] = field(default_factory=dict)
    """What else is counted, by the name of the counter."""
    points: int | None = None
    """Data points of the request, where a sample is not the same."""
    written: int = 0
    """Samples that are where rules and headers want them, as far as it is known when the sender is answered."""
    histograms: int = 0
    """Native ones, whose classic samples are not among ``written``."""
    newest_s: float = 0.0
    """Time (Unix s) of the last sample that went to the aggregators; 0: none did."""
    ticket: Ticket | None = None
    """Of the messages that the producer has; None: no ack of the aggregators is waited for."""

    def lose(self, reason: Reason, samples: int) -> None:
        """So many samples are not kept."""
        self.not_kept[reason] = self.not_kept.get(reason, 0) + samples

    def count(self, name: str, number: int) -> None:
        """A counter grows."""
        self.figures[name] = self.figures.get(name, 0) + number

    def refuse(self, text: str, times: int = 1) -> None:
        """A series is bad."""
        self.bad += times
        self.last_bad = text

    @property
    def status(self) -> int:
        """200; 500 where some of it may be accepted the next time; 400 where none of the rest ever will."""
        return 500 if self.retryable else 400 if self.bad else 200

    @property
    def text(self) -> str:
        """What the sender is told; empty: everything was accepted."""
        parts = []
        if self.retryable:
            parts.append(f"retryable_errors: count={self.retryable}, last={self.last_retryable}")
        if self.bad:
            parts.append(f"bad_request_errors: count={self.bad}, last={self.last_bad}")
        return ", ".join(parts)


def error_response(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """M3's error document."""
    body = JSONResponse({"status": "error", "error": text}).body
    return Response(bytes(body) + b"\n", status, headers, media_type="application/json")
