"""What the front counts: M3's consumer and server names (docs/m3/m3msg.md, metric names), and its own below ``front``."""

from collections import Counter


class Figures:
    """Counters since the start of the process, gauges as of now; names as in ``ipc.FrontStats``."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}

    def closed(self, reason: str) -> None:
        """A connection was closed."""
        self.counters[f"front.connections-closed{{reason={reason}}}"] += 1

    def refused(self, reason: str) -> None:
        """A connection did not come to speak TLS, or should not have."""
        self.counters[f"{UPGRADE_ERROR}{{server=m3msg,reason={reason}}}"] += 1


MESSAGE_RECEIVED = "m3msg-server.message-received{server=m3msg}"
MESSAGE_DECODE_ERROR = "m3msg-server.message-decode-error{server=m3msg}"
ACK_SENT = "m3msg-server.ack-sent{server=m3msg}"
ACK_WRITE_ERROR = "m3msg-server.ack-write-error{server=m3msg}"
OPEN_CONNECTIONS = "m3msg-server.open-connections{server=m3msg}"
UPGRADE_ERROR = "m3msg-server.upgrade-to-tls-errors"
BYTES_READ = "front.bytes-read"
ACK_UNDELIVERED = "front.ack-undelivered"
DROPPED_UNACKED = "front.dropped-unacked"
STALE_COMMANDS = "front.stale-commands"
