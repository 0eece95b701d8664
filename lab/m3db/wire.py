"""TChannel on the side of a node: bytes of a connection in, calls and bytes to be sent out; pure.

A frame (integers are big endian)::

    u16 size of all of it (16 … 65535)   u8 type   u8 0   u32 message id   8 bytes 0   payload

A connection begins with an init request (``01``), answered with an init response (``02``) of the same id. A call (``03``, continued in
``13``) has flags (bit 0: more follows), TTL in ms, 25 bytes of tracing, service, transport headers, a checksum over the bytes of its three
arguments so far, and the arguments as chunks of ``u16`` length and bytes. The first chunk of a continuation belongs to the argument
that was open at the end of the frame before. Answers are ``04`` and ``14``; ``ff`` is an error, ``d0`` and ``d1`` are pings.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.m3db.judge import Judge

__all__ = ["MAX_FRAME", "Call", "Channel", "Close", "Event", "Send", "answer", "error_frame", "frame"]

MAX_FRAME = 65535
_HEADER = struct.Struct(">HBBIQ")
_INIT_REQ, _INIT_RES, _CALL, _CALL_MORE, _ANSWER, _ANSWER_MORE = 0x01, 0x02, 0x03, 0x13, 0x04, 0x14
_PING, _PONG, _ERROR = 0xD0, 0xD1, 0xFF
_NAMES = {
    0x01: "messageTypeInitReq", 0x02: "messageTypeInitRes", 0x03: "messageTypeCallReq", 0x04: "messageTypeCallRes",
    0x13: "messageTypeCallReqContinue", 0x14: "messageTypeCallResContinue", 0xD0: "messageTypePingReq",
    0xD1: "messageTypePingRes", 0xFF: "messageTypeError",
}  # fmt: skip
_VERSION = 2
_TRACING = bytes(25)
_PROTOCOL = 0xFF
_NO_ID = 0xFFFFFFFF
_MAX_METHOD = 16 * 1024
_ARGS = 3
_CHECKSUM_BYTES = {0: 0, 1: 4, 2: 4, 3: 4}


@dataclass(slots=True)
class Call:
    """A complete call."""

    id: int
    ttl_ms: int
    service: str
    headers: dict[str, str]
    checksum_type: int
    method: str
    """The first argument, as ``Node::health``."""
    arg2: bytes
    body: bytes


@dataclass(slots=True)
class Send:
    """Bytes for the client."""

    data: bytes


@dataclass(slots=True)
class Close:
    """The connection is to be closed, after what was to be sent before."""


Event = Call | Send | Close


@dataclass(slots=True)
class _Open:
    """A call whose last frame has not come."""

    ttl_ms: int
    service: str
    headers: dict[str, str]
    checksum_type: int
    checksum: int = 0
    args: list[bytearray] = field(default_factory=list)


class Wrong(Exception):
    """A frame that cannot be read; its call gets no answer."""


class Channel:
    """One connection. ``active``: ids of calls that have no answer yet; whoever answers or gives up takes them out."""

    def __init__(self, judge: Judge, host_port: str, *, greeted: bool = False) -> None:
        self._judge, self._host_port = judge, host_port
        self._greeted = greeted
        self._rest = b""
        self._open: dict[int, _Open] = {}
        self.active: set[int] = set()

    def feed(self, data: bytes) -> Iterator[Event]:
        """What follows from more bytes; nothing after a ``Close``."""
        data = self._rest + data if self._rest else data
        at = 0
        while len(data) - at >= 2:
            size = int.from_bytes(data[at : at + 2], "big")
            if size < _HEADER.size:
                self._judge.note(f"a frame of {size} bytes")
                yield Close()
                return
            if len(data) - at < size:
                break
            for event in self._frame(data[at : at + size]):
                yield event
                if isinstance(event, Close):
                    return
            at += size
        self._rest = data[at:]

    def _frame(self, data: bytes) -> Iterator[Event]:
        _, kind, reserved, number, more_reserved = _HEADER.unpack_from(data)
        if reserved or more_reserved:
            self._judge.note("reserved bytes of a frame header are not zero")
        if number == _NO_ID:
            self._judge.note("message id ffffffff")
        payload = data[_HEADER.size :]
        try:
            if not self._greeted:
                yield from self._greet(kind, number, payload)
            elif kind == _PING:
                if payload:
                    self._judge.note("a ping with a payload")
                yield Send(frame(_PONG, number, b""))
            elif kind == _CALL:
                yield from self._begin(number, payload)
            elif kind == _CALL_MORE:
                yield from self._go_on(number, payload)
            else:
                self._judge.note(f"a frame of type {kind:02x}")
        except Wrong as error:
            self._judge.note(str(error))
            self._open.pop(number, None)

    def _greet(self, kind: int, number: int, payload: bytes) -> Iterator[Event]:
        reason, headers = "", {}
        if kind != _INIT_REQ:
            got = _NAMES.get(kind, f"messageType(0x{kind:x})")
            reason = f"expected message type messageTypeInitReq, got {got}"
        else:
            reader = _Reader(payload, "init request")
            version = reader.number(2)
            if version < _VERSION:
                reason = f"unsupported protocol version {version} from peer, expected {_VERSION}"
            else:
                headers = {reader.text(2): reader.text(2) for _ in range(reader.number(2))}
                missing = [name for name in ("host_port", "process_name") if name not in headers]
                if missing:
                    reason = f"header {missing[0]} is required"
                elif version > _VERSION:
                    self._judge.note(f"init request of version {version}")
                reader.end(self._judge)
        if reason:
            self._judge.note(reason)
            yield Send(error_frame(number, _PROTOCOL, f"tchannel error ErrCodeProtocol: {reason}"))
            yield Close()
            return
        if not all(headers.values()):
            self._judge.note("empty header in the init request")
        self._greeted = True
        ours = {
            "host_port": self._host_port, "process_name": "lab.m3db[1]", "tchannel_language": "go",
            "tchannel_language_version": "1.26.8", "tchannel_version": "1.31.0",
        }  # fmt: skip
        pairs = b"".join(_sized(2, name) + _sized(2, value) for name, value in ours.items())
        yield Send(frame(_INIT_RES, number, struct.pack(">HH", _VERSION, len(ours)) + pairs))

    def _begin(self, number: int, payload: bytes) -> Iterator[Event]:
        if number in self.active:
            self._judge.note(f"message id {number} is in use")
            text = "inbound request is already active; possible duplicate client id"
            yield Send(error_frame(number, _PROTOCOL, text))
            yield Close()
            return
        reader = _Reader(payload, "call request")
        flags, ttl_ms = reader.number(1), reader.number(4)
        if reader.take(25) != _TRACING:
            self._judge.note("tracing is not zero")
        service = reader.text(1)
        count = reader.number(1)
        headers = {reader.text(1): reader.text(1) for _ in range(count)}
        if len(headers) != count:
            self._judge.note("a transport header occurs twice")
        kind = reader.number(1)
        if kind not in _CHECKSUM_BYTES:
            raise Wrong(f"checksum type {kind}")
        self.active.add(number)
        self._open[number] = _Open(ttl_ms, service, headers, kind)
        yield from self._chunks(number, flags, reader, fresh=True)

    def _go_on(self, number: int, payload: bytes) -> Iterator[Event]:
        call = self._open.get(number)
        if call is None:
            raise Wrong(f"a continuation of call {number}, which is not open")
        reader = _Reader(payload, "call request continuation")
        flags, kind = reader.number(1), reader.number(1)
        if kind != call.checksum_type:
            raise Wrong(f"checksum type {kind} after {call.checksum_type}")
        yield from self._chunks(number, flags, reader, fresh=False)

    def _chunks(self, number: int, flags: int, reader: "_Reader", *, fresh: bool) -> Iterator[Event]:
        call = self._open[number]
        if flags & ~1:
            self._judge.note(f"flags {flags:02x} of a call")
        claimed = reader.take(_CHECKSUM_BYTES[call.checksum_type])
        if reader.is_at_end:
            raise Wrong("a frame of a call without a chunk")
        while not reader.is_at_end:
            chunk = reader.take(reader.number(2))
            if fresh:
                call.args.append(bytearray())
            fresh = True
            call.args[-1] += chunk
            call.checksum = _checksum(call.checksum_type, chunk, call.checksum)
        if len(call.args) > _ARGS:
            raise Wrong(f"a call of {len(call.args)} arguments")
        if len(call.args[0]) > _MAX_METHOD:
            raise Wrong(f"a method name of {len(call.args[0])} bytes")
        if call.checksum_type == 2:
            raise Wrong("checksum type 2, which nobody implements")
        if int.from_bytes(claimed, "big") != call.checksum:
            raise Wrong(f"checksum {claimed.hex()} of arguments whose checksum is {call.checksum:08x}")
        if flags & 1:
            return
        if len(call.args) < _ARGS:
            raise Wrong(f"a call of {len(call.args)} arguments")
        del self._open[number]
        method, arg2, body = (bytes(arg) for arg in call.args)
        yield Call(
            number, call.ttl_ms, call.service, call.headers, call.checksum_type, method.decode("utf-8", "replace"), arg2, body
        )  # fmt: skip


class _Reader:
    """Reads the fields of a payload; raises ``Wrong`` where it ends too early."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._at, self._what = data, 0, what

    @property
    def is_at_end(self) -> bool:
        """Whether all was read."""
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        """So many bytes."""
        found = self._data[self._at : self._at + size]
        if len(found) < size:
            raise Wrong(f"{self._what} of {len(self._data)} bytes ends within a field")
        self._at += size
        return found

    def number(self, size: int) -> int:
        """An unsigned number."""
        return int.from_bytes(self.take(size), "big")

    def text(self, size: int) -> str:
        """Text behind its length of ``size`` bytes."""
        return self.take(self.number(size)).decode("utf-8", "replace")

    def end(self, judge: Judge) -> None:
        """Notes bytes that are left."""
        if not self.is_at_end:
            judge.note(f"{len(self._data) - self._at} bytes behind the {self._what}")


def frame(kind: int, number: int, payload: bytes) -> bytes:
    """One frame."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, 0, number, 0) + payload


def error_frame(number: int, code: int, text: str) -> bytes:
    """An error frame."""
    return frame(_ERROR, number, bytes([code]) + _TRACING + _sized(2, text))


def answer(call: Call, code: int, body: bytes, *, number: int | None = None, limit: int = MAX_FRAME) -> list[bytes]:
    """The frames of an answer. ``code``: 0, or 1 for an exception. ``number``: another id than the call's. ``limit``: bytes of a frame."""
    number = call.id if number is None else number
    head = bytes([code]) + _TRACING + b"\x01" + _sized(1, "as") + _sized(1, call.headers.get("as", ""))
    frames: list[bytes] = []
    chunks, checksum = b"", 0

    def room() -> int:
        used = _HEADER.size + 2 + _CHECKSUM_BYTES[call.checksum_type] + len(chunks) + (0 if frames else len(head))
        return limit - used

    def finish(*, more: bool) -> None:
        nonlocal chunks
        sum_bytes = bytes([call.checksum_type]) + checksum.to_bytes(4, "big")[: _CHECKSUM_BYTES[call.checksum_type]]
        flags = bytes([more])
        payload = flags + (b"" if frames else head) + sum_bytes + chunks
        frames.append(frame(_ANSWER_MORE if frames else _ANSWER, number, payload))
        chunks = b""

    for arg in (b"", b"\x00\x00", body):
        left = arg
        if chunks and room() <= 2:
            # A chunk of nothing at the beginning of the next frame says that the argument before has ended.
            finish(more=True)
            chunks = b"\x00\x00"
        while True:
            piece, left = left[: max(room() - 2, 1)], left[max(room() - 2, 1) :]
            chunks += _sized(2, piece)
            checksum = _checksum(call.checksum_type, piece, checksum)
            if not left:
                break
            finish(more=True)
    finish(more=False)
    return frames


def _sized(size: int, text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return len(data).to_bytes(size, "big") + data


def _checksum(kind: int, data: bytes, before: int) -> int:
    if kind == 1:
        return zlib.crc32(data, before)
    if kind != 3:
        return 0
    crc = before ^ 0xFFFFFFFF
    for byte in data:
        crc = _CASTAGNOLI[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _castagnoli() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CASTAGNOLI = _castagnoli()
