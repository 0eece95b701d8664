"""One protocol in which samples come over HTTP: how its requests are read, and in which form they are answered.

What is in between is the same for all of them, and ``coordinator.write.remote_write`` has it: rules, encoding, acks, storage, the status,
what is counted. A protocol is a module with a class that is a ``Sender``, which makes the columns with ``coordinator.write.building``.
"""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from coordinator.not_kept import NotKept
from coordinator.write.decoding import Decoded
from coordinator.write.options import WriteOptions
from coordinator.write.outcome import Outcome, error_response
from m3x.instrument import Scope

__all__ = ["M3Answers", "Sender", "WayIn"]


class Sender(Protocol):
    """A protocol. One object for all of its requests; used from one event loop only."""

    handler: str
    """The tag ``handler`` of its figures."""
    title: str
    """What it is called in logs."""

    def options(self, request: Request) -> WriteOptions:
        """What headers and query ask for, and how the body is to be read. Raises ``BadRequestError``."""

    def decode(self, body: bytes, options: WriteOptions) -> Decoded:
        """The body in columns. Raises ``BadRequestError`` for one of which nothing can be kept."""

    def answer(self, outcome: Outcome, options: WriteOptions) -> Response:
        """To a request whose series each had their own fate."""

    def refuse(self, status: int, text: str, headers: dict[str, str], request: Request) -> Response:
        """To a request that was refused as a whole."""


class M3Answers:
    """The form in which M3 answers writes. ``success``: the status of a request that was accepted."""

    success = 200

    def answer(self, outcome: Outcome, _options: WriteOptions) -> Response:
        """See ``Sender``."""
        return (
            Response(status_code=self.success)
            if outcome.status == 200
            else error_response(outcome.status, outcome.text)
        )

    def refuse(self, status: int, text: str, headers: dict[str, str], _request: Request) -> Response:
        """See ``Sender``."""
        return error_response(status, text, headers)


class WayIn:
    """A sender and its figures. ``scope``: with the tag ``handler``."""

    def __init__(self, sender: Sender, scope: Scope) -> None:
        self.sender = sender
        self.scope = scope
        self.not_kept = NotKept(self.scope)
