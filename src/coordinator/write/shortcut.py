"""A remote write of known series from its bytes to the answer without an application (``m3x.web_protocol``): no task, no request, no route.

What it leaves goes the way of all writes (``remote_write``), which says why something is refused, and counts it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import Response

from coordinator.write.acks import Acks
from coordinator.write.bodies import WHOLE_BODY
from coordinator.write.known import MOST_BYTES
from coordinator.write.outcome import error_response
from coordinator.write.remote_write import REMOTE_WRITE_PATH, RemoteWriter, Taken
from coordinator.write.sink import RefusedError
from m3x.log import logger
from m3x.web_protocol import Headers, Reply

__all__ = ["RemoteWriteShortcut"]

_ACCEPTED = Response(status_code=200)
log = logger(__name__)


class RemoteWriteShortcut:
    """See ``m3x.web_protocol.Shortcut``.

    ``allows``: whether a call with such headers may write; ``closes``: whether a connection is to end.
    """

    path = REMOTE_WRITE_PATH.encode()

    def __init__(
        self,
        writer: RemoteWriter,
        allows: Callable[[Headers], bool] = lambda _: True,
        closes: Callable[[], bool] = lambda: False,
    ) -> None:
        self.closes = closes
        """See ``Shortcut``."""
        self._writer = writer
        self._allows = allows
        self._bodies = writer.bodies
        self._tasks = set[asyncio.Task[None]]()

    def opens(self, headers: Headers, length: int) -> bool:
        """See ``Shortcut``."""
        return length <= MOST_BYTES and self._writer.takes_known and self._allows(headers)

    def came(self, nbytes: int) -> bool:
        """See ``Shortcut``."""
        if not self._bodies.fits(nbytes):
            return False
        self._bodies.add(nbytes)
        return True

    def let_go(self, nbytes: int) -> None:
        """See ``Shortcut``."""
        self._bodies.add(-nbytes)

    def take(self, headers: Headers, body: bytes, reply: Reply) -> Mapping[str, Any] | None:
        """See ``Shortcut``."""
        if not self.came(len(body)):
            return {WHOLE_BODY: body}
        began_s = time.monotonic()
        try:
            taken = self._writer.take_known(headers, body)
        except Exception as error:
            self._answer(reply, len(body), self._unexpected(error, began_s))
            return None
        if not isinstance(taken, Taken):
            self._bodies.add(-len(body))
            return {WHOLE_BODY: taken}

        def told() -> None:
            if taken.ticket is None or self._acks().acknowledged(taken.ticket, body, taken.options):
                self._writer.answered(200, "", taken.began_s)
                self._answer(reply, len(body), _ACCEPTED)
            else:
                task = asyncio.get_running_loop().create_task(self._wait(taken, reply), name="late remote write")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        if taken.ticket is None:
            told()
        else:
            self._acks().follow(taken.ticket, told)
        return None

    def _acks(self) -> Acks:
        acks = self._writer.acks
        assert acks is not None
        return acks

    async def _wait(self, taken: Taken, reply: Reply) -> None:
        """Answers a request that has taken long, or came to nothing."""
        assert taken.ticket is not None
        acks, response, text = self._acks(), _ACCEPTED, ""
        try:
            await acks.wait(taken.ticket, taken.body, taken.options, taken.began_s + acks.timeout_s, reply.gone)
        except RefusedError as error:
            text = error.reason
            response = error_response(503, text, {"Retry-After": str(error.retry_after_s)})
        except Exception as error:
            response = self._unexpected(error, taken.began_s)
        if response.status_code != 500:
            self._writer.answered(response.status_code, text, taken.began_s)
        self._answer(reply, len(taken.body), response)

    def _unexpected(self, error: Exception, began_s: float) -> Response:
        """The answer to a request that ended with a mistake of ours; its sender keeps the samples and comes again."""
        log.error("a remote write ended with an unexpected error", exception=error)
        text = f"retryable_errors: count=1, last=unexpected {type(error).__name__}"
        self._writer.answered(500, text, began_s)
        return error_response(500, text)

    def _answer(self, reply: Reply, held: int, response: Response) -> None:
        self._bodies.add(-held)
        reply.answer(response)
