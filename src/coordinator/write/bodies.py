"""Bodies of requests, which are bounded, and senders that go away."""

from starlette.requests import ClientDisconnect, Request

from coordinator.write.decoding import MAX_BODY_BYTES
from coordinator.write.limits import Visit
from coordinator.write.options import BadRequestError, TooLargeBodyError

__all__ = ["body_of", "gone"]


async def body_of(request: Request, visit: Visit | None) -> bytes:
    """The whole body. Raises ``BadRequestError`` beyond ``MAX_BODY_BYTES`` or what its tenant may send, of which no more is kept, and
    where the client goes away before its end."""
    own = visit.most_bytes if visit is not None else 0
    most = min(own, MAX_BODY_BYTES) if own else MAX_BODY_BYTES
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
            chunks.append(chunk)
    except ClientDisconnect:
        raise BadRequestError(f"the connection ended after {size} bytes of the body") from None
    return b"".join(chunks)


async def gone(request: Request) -> None:
    """Returns when the sender has gone away; after the whole body only."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
