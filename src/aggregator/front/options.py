"""What the supervisor tells a front when it starts it: one JSON file."""

import msgspec

from aggregator.front.secure import FrontTLS

MIB = 1 << 20
SECOND_NS = 1_000_000_000
_FEW_WORKERS = 4
"""More of them need more memory for batches."""


class RawOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The listener for raw TCP."""

    listener: int
    """As that of ``FrontOptions``."""
    max_record_bytes: int = 50 * MIB
    """M3's ``protobufIterator.maxMessageSize``: a longer record ends its connection."""
    tls: FrontTLS | None = None
    """None: plain text only."""
    keep_alive: bool = True
    keep_alive_period_ns: int = 10 * SECOND_NS


class FrontOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses and bounds of the front; durations in nanoseconds."""

    listener: int
    """Descriptor of the socket that listens for m3msg; -1: there is none. The supervisor has it too: while there is no front, connections
    wait."""
    raw: RawOptions | None = None
    """None: no raw TCP."""
    run_dir: str
    """Where the ``ipc://`` sockets of the instance live (``aggregator.ipc``)."""
    epoch: int
    """Incarnation of the front, counted by the supervisor."""
    parent_pid: int
    """The supervisor: the front ends with it."""
    log_level: str = "info"
    workers: int = 1
    """Worker processes of the instance."""

    credit_bytes: int = 16 * MIB
    """Bytes that workers may hold without having acked them; several share it (``credit_of_worker``)."""
    waiting_bytes: int = 64 * MIB
    """Bytes of all workers together that may wait for credit or for a dead worker's successor."""
    stall_ns: int = 2 * SECOND_NS
    """A worker that owes acks and has given none for this long no longer holds the others back (``front.flow``)."""
    stopped_ns: int = 2 * SECOND_NS
    """A front that had no turn for this long was stopped: it says so (``ipc.Stalled``)."""
    batch_bytes: int = 2 * MIB
    """A batch is sent when it has this size; a single larger frame travels alone."""
    batch_delay_ns: int = 5_000_000
    """A smaller batch is sent after this time at the latest, at once while the worker has little to do."""
    shared_bytes: int = 32 * MIB
    """Memory for batches that up to four workers read in place (``shared_of_workers``), committed as it is needed; what does not fit is
    sent. 0: everything is."""
    read_bytes: int = MIB
    """At most this much is read from one connection before the next one has its turn; with TLS at least a record (16 KiB)."""
    read_interval_ns: int = 5_000_000
    """Pause between two rounds of reading while they bring little: a round costs the same for one message as for a thousand."""
    steady_interval_ns: int = 100_000_000
    """The same on the average, while rounds go on to bring little."""

    max_frame_bytes: int = 4 * MIB
    """M3's ``decoder.maxMessageSize``: a longer frame ends its connection."""
    partial_bytes: int = 256 * MIB
    """Bytes of long frames that have arrived in part, of all connections together."""
    max_connections: int = 0
    """Further ones are closed at once; 0: as many as the process may have open files, less a reserve."""
    tls: FrontTLS | None = None
    """None: plain text only."""
    keep_alive: bool = True
    keep_alive_period_ns: int = 10 * SECOND_NS

    ack_flush_interval_ns: int = 5_000_000
    """Acks of a connection are gathered for this long before they are written."""
    ack_buffer_bytes: int = MIB
    """A connection with more unread acks than this is not read from."""
    ack_timeout_ns: int = 30 * SECOND_NS
    """A connection that has read none of its waiting acks for this long is closed."""
    linger_ns: int = 5 * SECOND_NS
    """How long a connection whose peer has finished sending, or that sent garbage, waits for the acks of what it sent before."""
    settle_ns: int = 10 * SECOND_NS
    """Acks that a producer's system has taken for so long were read by the producer."""
    clean_settle_ns: int = SECOND_NS
    """The same where the producer has then finished sending: whoever hangs up with acks unread resets the connection."""
    repeats_ns: int = 120 * SECOND_NS
    """A producer that was cut off before it had all acks has sent again what it will send again after this time."""
    drain_timeout_ns: int = 10 * SECOND_NS
    """Bound for a drain that SIGTERM asked for."""

    @property
    def credit_of_worker(self) -> int:
        """Its part of the credit, two batches at least: one to work at, and the next one."""
        return min(max(self.credit_bytes // self.workers, 2 * self.batch_bytes), self.credit_bytes)

    @property
    def shared_of_workers(self) -> int:
        """Memory for what they may hold, for the batches that are being filled, one for each of them, and for some that wait."""
        return self.shared_bytes * max(self.workers, _FEW_WORKERS) // _FEW_WORKERS
