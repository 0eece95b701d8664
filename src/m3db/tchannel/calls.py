"""Calls and answers as frames: cut into fragments, put together again (docs/m3/m3db_wire.md, calls).

    Call ── frames() ──> bytes          bytes ── Inbound.feed() ──> Answered, Repeated, Failed, Pinged, Ended

What is put together is bounded: an answer with which more than ``max_held_bytes`` would be held for unfinished ones fails alone, and what
still comes of it is dropped, as is everything for calls that nobody waits for.
"""

from collections.abc import Container
from dataclasses import dataclass, field

from m3db.errors import CallError, CallFailure, ProtocolError
from m3db.tchannel.fragments import (
    CHUNK_HEAD,
    Checksum,
    Fragment,
    RequestHead,
    ResponseHead,
    read_fragment,
    write_fragment,
)
from m3db.tchannel.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Frame,
    FrameReader,
    FrameType,
    failure_of,
    frame_bytes,
    read_error,
)

__all__ = [
    "MAX_HELD_BYTES",
    "NO_HEADERS",
    "SERVICE",
    "TRANSPORT_HEADERS",
    "Answered",
    "Assembly",
    "Call",
    "Ended",
    "Event",
    "Failed",
    "Inbound",
    "Pinged",
    "Repeated",
    "fragment_frames",
]

SERVICE = b"Node"
TRANSPORT_HEADERS = ((b"as", b"thrift"), (b"cn", b"Client"))
"""What goes with every call: the scheme of the arguments, and who calls."""
NO_HEADERS = b"\0\0"
"""Argument 2: no application headers. It must not be empty."""
MAX_HELD_BYTES = 256 << 20

_ARGUMENTS = 3


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method."""

    id: int
    method: bytes
    body: bytes
    """Argument 3."""
    ttl_ms: int
    """From 1: with 0 there is no answer at all."""
    checksum: Checksum = Checksum.NONE
    """The answer has the same type."""

    def frames(self) -> bytes:
        """The bytes to send."""
        head = RequestHead(self.ttl_ms, SERVICE, TRANSPORT_HEADERS)
        arguments = (SERVICE + b"::" + self.method, NO_HEADERS, self.body)
        return b"".join(map(frame_bytes, fragment_frames(self.id, head, arguments, self.checksum)))


def fragment_frames(
    message_id: int, head: RequestHead | ResponseHead, arguments: tuple[bytes, bytes, bytes], checksum: Checksum
) -> list[Frame]:
    """A call or an answer in as few frames as possible, cut where M3 cuts it: every frame but the last is full, or lacks the two
    bytes in which the next argument cannot begin."""
    request = isinstance(head, RequestHead)
    first, further = (
        (FrameType.CALL_REQ, FrameType.CALL_REQ_CONTINUE)
        if request
        else (FrameType.CALL_RES, FrameType.CALL_RES_CONTINUE)
    )
    frames: list[Frame] = []
    chunks: list[bytes] = []
    digest = 0

    def end(more: bool) -> None:
        fragment = Fragment(more, None if frames else head, checksum, digest, tuple(chunks))
        frames.append(Frame(further if frames else first, message_id, write_fragment(fragment)))
        chunks.clear()

    least = HEADER_BYTES + 2 + checksum.size
    room = MAX_FRAME_BYTES - least - len(head.written())
    for number, argument in enumerate(arguments, 1):
        at = 0
        while True:
            chunk = argument[at : at + room - CHUNK_HEAD]
            chunks.append(chunk)
            digest = checksum.over(chunk, digest)
            at += len(chunk)
            room -= CHUNK_HEAD + len(chunk)
            if at == len(argument) and (room > CHUNK_HEAD or number == _ARGUMENTS):
                break
            end(more=True)
            room = MAX_FRAME_BYTES - least
    end(more=False)
    return frames


class Assembly:
    """The arguments of one call or answer, out of its fragments."""

    def __init__(self, first: Fragment) -> None:
        """Raises ``ProtocolError`` for what is no first fragment, or broken."""
        if first.head is None:
            raise ProtocolError("an answer that begins with its continuation")
        self.head = first.head
        self.arguments = [bytearray()]
        self.complete = False
        """Whether the last fragment was there."""
        self.checksum = first.checksum
        """Its type, the same in all of them."""
        self._digest = 0
        self.add(first)

    @property
    def size_bytes(self) -> int:
        """Bytes that are held."""
        return sum(map(len, self.arguments))

    def add(self, fragment: Fragment) -> None:
        """The next fragment. Raises ``ProtocolError``."""
        if fragment.checksum is not self.checksum:
            raise ProtocolError(f"checksums of type {fragment.checksum} behind such of type {self.checksum}")
        for number, chunk in enumerate(fragment.chunks):
            if number:
                self.arguments.append(bytearray())
            self.arguments[-1] += chunk
            self._digest = self.checksum.over(chunk, self._digest)
        if len(self.arguments) > _ARGUMENTS:
            raise ProtocolError(f"{len(self.arguments)} arguments, {_ARGUMENTS} expected")
        if fragment.digest != self._digest:
            raise ProtocolError(f"checksum {fragment.digest:#x}, expected {self._digest:#x}")
        if not fragment.more and len(self.arguments) != _ARGUMENTS:
            raise ProtocolError(f"{len(self.arguments)} arguments, {_ARGUMENTS} expected")
        self.complete = not fragment.more


@dataclass(frozen=True, slots=True)
class Answered:
    """A call has its answer; ``code`` is 0, or 1 where the body is an error that the method declares."""

    id: int
    code: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Repeated:
    """Several calls have the same answer, byte for byte, as one before them."""

    ids: list[int]
    code: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """A call has none, and will not get one."""

    id: int
    error: CallError


@dataclass(frozen=True, slots=True)
class Pinged:
    """The node asks whether this side lives; ``reply`` is to be sent."""

    reply: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection cannot be used any more; all calls in flight end with ``error``."""

    error: CallError


_SHORT_BYTES = 128

Event = Answered | Repeated | Failed | Pinged | Ended


class Inbound:
    """What a client makes of the bytes that a node sends after the handshake."""

    def __init__(self, expected: Container[int], max_held_bytes: int = MAX_HELD_BYTES) -> None:
        """``expected``: the ids of calls that wait for an answer, as they are at any moment."""
        self._expected = expected
        self._max_held_bytes = max_held_bytes
        self._reader = FrameReader()
        self._unfinished: dict[int, Assembly] = {}
        self._payload = b""
        """Of the last short answer that was complete in one frame, and what it said: most batch writes are answered with the same bytes,
        and those are told together."""
        self._said = (0, b"")
        self.held_bytes = 0
        """Of unfinished answers."""
        self.ignored_frames = 0
        """Frames of unknown types, and such for calls that nobody waits for."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """What ``data`` completes, in its order; nothing is read behind ``Ended``."""
        events: list[Event] = []
        reader = self._reader
        reader.add(data)
        try:
            while True:
                if self._payload and (ids := reader.skip_alike(FrameType.CALL_RES, self._payload)):
                    self._repeat(ids, events)
                frame = reader.next()
                if frame is None:
                    break
                event = self._event(frame)
                if event is not None:
                    events.append(event)
                if isinstance(event, Ended):
                    break
        except ProtocolError as error:
            events.append(Ended(CallError(CallFailure.PROTOCOL, str(error))))
        return events

    def forget(self, message_id: int) -> None:
        """Drops what is there of an answer that nobody waits for any more."""
        assembly = self._unfinished.pop(message_id, None)
        if assembly is not None:
            self.held_bytes -= assembly.size_bytes

    def _repeat(self, ids: list[int], events: list[Event]) -> None:
        expected = [one for one in ids if one in self._expected]
        self.ignored_frames += len(ids) - len(expected)
        if self._unfinished:
            for one in expected:
                self.forget(one)
        if expected:
            events.append(Repeated(expected, *self._said))

    def _event(self, frame: Frame) -> Event | None:
        if frame.type == FrameType.PING_REQ:
            return Pinged(frame_bytes(Frame(FrameType.PING_RES, frame.id)))
        if frame.type == FrameType.ERROR:
            error = failure_of(*read_error(frame.payload))
            if error.kind is CallFailure.PROTOCOL:
                return Ended(error)
            self.forget(frame.id)
            return Failed(frame.id, error)
        answer = frame.type in (FrameType.CALL_RES, FrameType.CALL_RES_CONTINUE)
        if not answer or frame.id not in self._expected:
            self.ignored_frames += 1
            return None
        try:
            return self._answer(frame)
        except ProtocolError as error:
            self.forget(frame.id)
            return Failed(frame.id, CallError(CallFailure.PROTOCOL, str(error)))

    def _answer(self, frame: Frame) -> Event | None:
        fragment = read_fragment(frame)
        if frame.type == FrameType.CALL_RES:
            self.forget(frame.id)
            assembly = Assembly(fragment)
        else:
            found = self._unfinished.pop(frame.id, None)
            if found is None:
                raise ProtocolError("an answer that begins with its continuation")
            assembly = found
            self.held_bytes -= assembly.size_bytes
            assembly.add(fragment)
        if assembly.complete:
            code = assembly.head.code if isinstance(assembly.head, ResponseHead) else 0
            body = bytes(assembly.arguments[-1])
            if frame.type == FrameType.CALL_RES and len(frame.payload) <= _SHORT_BYTES:
                self._payload, self._said = frame.payload, (code, body)
            return Answered(frame.id, code, body)
        if self.held_bytes + assembly.size_bytes > self._max_held_bytes:
            raise ProtocolError(f"an answer with which more than {self._max_held_bytes} bytes would have to be held")
        self._unfinished[frame.id] = assembly
        self.held_bytes += assembly.size_bytes
        return None
