"""The first frames of a connection: version, and parameters of both sides (docs/m3/m3db_wire.md, handshake)."""

import struct
from dataclasses import dataclass, field

from m3db.errors import ProtocolError
from m3db.tchannel.frames import Frame, FrameType, read_error

__all__ = ["INIT_ID", "Init", "check_answer", "init_request", "read_init", "write_init"]

VERSION = 2
INIT_ID = 1
"""The message id of the handshake; calls begin with the next one."""

_HEAD = struct.Struct(">HH")
_SIZE = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Init:
    """The payload of either side: the version, and parameters in their order."""

    version: int = VERSION
    parameters: dict[bytes, bytes] = field(default_factory=dict)


def init_request(process_name: str) -> Frame:
    """The frame of a client that listens nowhere."""
    parameters = {
        b"host_port": b"0.0.0.0:0",
        b"process_name": process_name.encode(),
        b"tchannel_language": b"python",
    }
    return Frame(FrameType.INIT_REQ, INIT_ID, write_init(Init(parameters=parameters)))


def check_answer(frame: Frame) -> Init:
    """What the node says to ``init_request``. Raises ``ProtocolError`` for what no client can go on with."""
    if frame.type == FrameType.ERROR:
        code, text = read_error(frame.payload)
        raise ProtocolError(f"the handshake was refused with code {code:#04x}: {text}")
    if frame.type != FrameType.INIT_RES or frame.id != INIT_ID:
        raise ProtocolError(f"a frame of type {frame.type:#04x} with id {frame.id} in place of the handshake's answer")
    init = read_init(frame.payload)
    if init.version != VERSION:
        raise ProtocolError(f"version {init.version} of TChannel, expected {VERSION}")
    if not {b"host_port", b"process_name"} <= init.parameters.keys():
        raise ProtocolError("an answer of the handshake without host_port or process_name")
    return init


def write_init(init: Init) -> bytes:
    """The payload of a handshake frame."""
    out = bytearray(_HEAD.pack(init.version, len(init.parameters)))
    for pair in init.parameters.items():
        for literal in pair:
            out += _SIZE.pack(len(literal)) + literal
    return bytes(out)


def read_init(payload: bytes) -> Init:
    """Reads the payload of a handshake frame; bytes behind it are ignored. Raises ``ProtocolError``."""
    if len(payload) < _HEAD.size:
        raise ProtocolError("a handshake that is cut short")
    version, count = _HEAD.unpack_from(payload)
    at = _HEAD.size
    literals = []
    for _ in range(2 * count):
        if len(payload) - at < _SIZE.size:
            raise ProtocolError("a handshake that is cut short")
        (size,) = _SIZE.unpack_from(payload, at)
        at += _SIZE.size
        literals.append(payload[at : at + size])
        if len(literals[-1]) != size:
            raise ProtocolError("a handshake that is cut short")
        at += size
    return Init(version, dict(zip(literals[::2], literals[1::2], strict=True)))
