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

    def undecodable(self, protocol: str, reason: str) -> None:
        """What a connection has sent ends it."""
        raw = f"rawtcp-server.decode-errors{{server=rawtcp,handler=rawtcp,reason={reason}}}"
        self.counters[raw if protocol == "rawtcp" else MESSAGE_DECODE_ERROR] += 1

    def refused(self, protocol: str, reason: str) -> None:
        """A connection did not come to speak TLS, or should not have."""
        self.counters[f"{protocol}-server.upgrade-to-tls-errors{{server={protocol},reason={reason}}}"] += 1

    def delayed(self, protocol: str) -> None:
        """A handshake has to wait for its turn."""
        self.counters[f"{protocol}-server.handshakes-delayed{{server={protocol}}}"] += 1


def open_connections(protocol: str) -> str:
    """Name of the gauge of one protocol."""
    return f"{protocol}-server.open-connections{{server={protocol}}}"


MESSAGE_RECEIVED = "m3msg-server.message-received{server=m3msg}"
MESSAGE_DECODE_ERROR = "m3msg-server.message-decode-error{server=m3msg}"
RECORD_RECEIVED = "rawtcp-server.message-received{server=rawtcp}"
ACK_SENT = "m3msg-server.ack-sent{server=m3msg}"
ACK_WRITE_ERROR = "m3msg-server.ack-write-error{server=m3msg}"
BYTES_READ = "front.bytes-read"
ACK_UNDELIVERED = "front.ack-undelivered"
DROPPED_UNACKED = "front.dropped-unacked"
STALE_COMMANDS = "front.stale-commands"
