"""TChannel, the transport of M3DB's nodes, without its sockets (docs/m3/m3db_wire.md, frames).

``frames``     types of frames, their header, error frames; bytes of a stream → frames; open this first
``handshake``  the first frame of each side
``fragments``  one frame of a call or answer: flags, head, checksum, chunks
``calls``      a call ↔ its frames; ``Inbound``: bytes of a node → finished answers, failures, pings

Pure, and both ways: what a client reads a node writes. The shell is ``m3db.connection``.
"""

from m3db.tchannel.calls import Answered, Call, Ended, Event, Failed, Inbound, Pinged, Repeated
from m3db.tchannel.frames import Frame, FrameReader, FrameType

__all__ = [
    "Answered",
    "Call",
    "Ended",
    "Event",
    "Failed",
    "Frame",
    "FrameReader",
    "FrameType",
    "Inbound",
    "Pinged",
    "Repeated",
]
