"""Remote write as a ``Sender``: 1.0 and 2.0, told apart by the content type, decoded into the same columns.

Answers are M3's. Those to 2.0 say besides how much was written: what rules leave out is as its operator wants it, and counts as written,
since a sender that hears of less takes the request for failed.
"""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from coordinator.write.declared import Declared
from coordinator.write.decoding import Decoded, RequestDecoder
from coordinator.write.media import is_remote_write_2
from coordinator.write.native_histograms import with_classic_buckets
from coordinator.write.options import (
    MAP_TAGS,
    METRICS_TYPE,
    PROM_TYPE,
    REMOTE_WRITE_2,
    STORAGE_POLICY,
    WRITE_TYPE,
    WriteOptions,
    parse_options,
)
from coordinator.write.outcome import Outcome
from coordinator.write.sender import M3Answers

__all__ = ["PrometheusSender"]

_ASKED = frozenset(
    name.lower().encode()
    for name in (
        "Content-Type",
        "Content-Encoding",
        METRICS_TYPE,
        STORAGE_POLICY,
        WRITE_TYPE,
        MAP_TAGS,
        PROM_TYPE,
    )
)
"""The headers that ``parse_options`` looks at."""
_MOST_OPTIONS, _LONGEST_SAID = 64, 1024
"""What is remembered of them, at most: so many, of so many bytes."""


class PrometheusSender(M3Answers):
    """Remote Write 1.0 and 2.0."""

    handler = "remote-write"
    title = "remote write"

    def __init__(self, classic: bool = False, declared: Declared | None = None) -> None:
        """``classic``: native histograms become classic ones; ``declared``: who sees what is declared of metrics."""
        self._decoder = RequestDecoder(classic, declared)
        self._options: dict[tuple[tuple[bytes, bytes], ...], WriteOptions] = {}
        """By the headers that decide about them: senders say the same again and again."""

    def options(self, request: Request) -> WriteOptions:
        """See ``Sender``."""
        return self.asked(request.scope["headers"])

    def asked(self, headers: list[tuple[bytes, bytes]]) -> WriteOptions:
        """What headers, whose names are in lower case, ask for. Raises ``BadRequestError``."""
        said = tuple([header for header in headers if header[0] in _ASKED])
        found = self._options.get(said)
        if found is None:
            found = parse_options(Headers(raw=headers))
            if len(self._options) == _MOST_OPTIONS:
                self._options.clear()
            if sum(len(value) for _, value in said) <= _LONGEST_SAID:
                self._options[said] = found
        return found

    def decode(self, body: bytes, options: WriteOptions) -> Decoded:
        """See ``Sender``."""
        decoded = self._decoder.decode(body, options)
        if decoded.native:
            return with_classic_buckets(decoded, 3 if options.dialect == REMOTE_WRITE_2 else 4)
        return decoded

    def answer(self, outcome: Outcome, options: WriteOptions) -> Response:
        """See ``Sender``."""
        response = super().answer(outcome, options)
        if options.dialect == REMOTE_WRITE_2:
            # What failed for now comes again, and is said then.
            taken = outcome.status < 500
            _add_written(response, outcome.written if taken else 0, outcome.histograms if taken else 0)
        return response

    def refuse(self, status: int, text: str, headers: dict[str, str], request: Request) -> Response:
        """See ``Sender``."""
        response = super().refuse(status, text, headers, request)
        if is_remote_write_2(request.headers):
            _add_written(response)
        return response


def _add_written(response: Response, samples: int = 0, histograms: int = 0) -> None:
    """Says in the headers of an answer how much of a request of Remote Write 2.0 was taken."""
    response.raw_headers += (
        (b"x-prometheus-remote-write-samples-written", b"%d" % samples),
        (b"x-prometheus-remote-write-histograms-written", b"%d" % histograms),
        (b"x-prometheus-remote-write-exemplars-written", b"0"),
    )
