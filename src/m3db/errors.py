"""What goes wrong with nodes of M3DB: one hierarchy for the package."""

import enum

__all__ = [
    "CallError",
    "CallFailure",
    "ConnectError",
    "ErrorFlag",
    "ErrorType",
    "M3DBError",
    "NodeError",
    "ProtocolError",
    "ThriftError",
]


class M3DBError(Exception):
    """Base of all errors of ``m3db``."""


class ThriftError(M3DBError):
    """Bytes that are not the expected Thrift struct."""


class ProtocolError(M3DBError):
    """Bytes of a peer that break TChannel: its connection cannot be used any further."""


class ConnectError(M3DBError):
    """A connection that was not made, or whose handshake failed."""


class CallFailure(enum.Enum):
    """How a call ends without an answer of its method. The value is what texts call it."""

    TIMEOUT = "timeout"
    """No answer in time, or the node says that its own time ended."""
    CANCELLED = "cancelled"
    BUSY = "busy"
    DECLINED = "declined"
    """The node takes no more calls, as while it shuts down."""
    UNEXPECTED = "unexpected"
    """The method ended with an error that it does not declare; for batch writes every failure of the whole call."""
    BAD_REQUEST = "bad request"
    """No such method, or arguments that cannot be read. Not the ``BAD_REQUEST`` of a method."""
    NETWORK = "network"
    """The connection is gone, or the node says that one behind it is."""
    PROTOCOL = "protocol"
    """One side broke TChannel; everything in flight on the connection ended with it."""


class CallError(M3DBError):
    """A call without an answer of its method. All kinds may succeed later (docs/m3/m3db_wire.md, errors of a call)."""

    def __init__(self, kind: CallFailure, text: str) -> None:
        super().__init__(f"{kind.value}: {text}")
        self.kind = kind
        self.text = text


class ErrorType(enum.IntEnum):
    """``rpc.ErrorType``: whose fault an error of a method is."""

    INTERNAL = 0
    BAD_REQUEST = 1


class ErrorFlag(enum.IntFlag):
    """``rpc.ErrorFlags``."""

    NONE = 0
    RESOURCE_EXHAUSTED = 1
    SERVER_TIMEOUT = 2


class NodeError(M3DBError):
    """``rpc.Error``: what a method answered in place of a result (docs/m3/m3db_wire.md, errors of a call)."""

    def __init__(self, error_type: int, text: str, flags: int = 0) -> None:
        super().__init__(text)
        self.type = error_type
        """An ``ErrorType``, or a number that this version does not know."""
        self.text = text
        self.flags = ErrorFlag(flags & 3)

    @property
    def bad_request(self) -> bool:
        """Whether the same request would fail again."""
        return self.type == ErrorType.BAD_REQUEST
