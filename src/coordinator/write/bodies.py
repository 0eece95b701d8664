"""Bodies of requests, which are bounded, and senders that go away."""

import contextlib
from collections.abc import Iterator

from starlette.requests import ClientDisconnect, Request

from coordinator.write.decoding import MAX_BODY_BYTES
from coordinator.write.limits import Visit
from coordinator.write.options import BadRequestError, TooLargeBodyError
from coordinator.write.sink import RefusedError
from m3x.instrument import Scope

__all__ = ["WHOLE_BODY", "BodyRoom", "Held", "body_of", "gone"]

_AGAIN_S = 1
WHOLE_BODY = "coordinator.body"
"""In the scope of a request that nobody limits: its body, which has been read."""


class BodyRoom:
    """Room for ``most_bytes`` of bodies that are being read, or whose requests are not answered yet; 0: no bound. It may be changed."""

    def __init__(self, most_bytes: int, scope: Scope) -> None:
        self.most_bytes = most_bytes
        self._scope = scope
        self.used = 0

    @contextlib.contextmanager
    def request(self) -> Iterator["Held"]:
        """What one request holds, until its answer."""
        held = Held(self)
        try:
            yield held
        finally:
            self.add(-held.nbytes)

    def take(self, held: "Held", nbytes: int) -> None:
        """More of a body has come. Raises ``RefusedError``; one that is alone has room in any case."""
        if not self.fits(nbytes, held.nbytes):
            self._scope.count("write_bodies_refused")
            raise RefusedError(
                f"requests of {self.used} bytes are being worked on, and there is room for {self.most_bytes} (memoryLimitBytes); "
                "nothing was accepted",
                _AGAIN_S,
            )
        held.nbytes += nbytes
        self.add(nbytes)

    def fits(self, nbytes: int, own: int = 0) -> bool:
        """Whether there is room for more of a request that holds ``own`` bytes."""
        return not self.most_bytes or self.used == own or self.used + nbytes <= self.most_bytes

    def add(self, nbytes: int) -> None:
        """Some bytes are held, or (negative) not any more."""
        self.used += nbytes
        self._scope.gauge("write_bodies_bytes", float(self.used))


class Held:
    """What one request holds of it."""

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self.nbytes = 0

    def take(self, nbytes: int) -> None:
        """See ``BodyRoom.take``."""
        self._room.take(self, nbytes)


async def body_of(request: Request, visit: Visit | None, held: Held) -> bytes:
    """The whole body. Raises ``BadRequestError`` beyond ``MAX_BODY_BYTES`` or what its tenant may send, of which no more is kept, and
    where the client goes away before its end; ``RefusedError`` where there is no room for it."""
    own = visit.most_bytes if visit is not None else 0
    most = min(own, MAX_BODY_BYTES) if own else MAX_BODY_BYTES
    whole: bytes | None = request.scope.get(WHOLE_BODY)
    if whole is not None:
        held.take(len(whole))
        return whole
    announced = request.headers.get("Content-Length", "")
    too_large = visit.too_large if visit is not None and most == own else lambda: TooLargeBodyError(most)
    if announced.isdecimal() and int(announced[:20]) > most:
        raise too_large()
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise too_large()
            held.take(len(chunk))
            chunks.append(chunk)
    except ClientDisconnect:
        raise BadRequestError(f"the connection ended after {size} bytes of the body") from None
    return b"".join(chunks)


async def gone(request: Request) -> None:
    """Returns when the sender has gone away; after the whole body only."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
