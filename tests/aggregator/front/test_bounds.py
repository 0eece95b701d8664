"""What the front holds is bounded: connections, and frames that have arrived in part."""

from typing import Any

from tests.aggregator.front.conftest import wait_for

MIB = 1 << 20


def test_connections_beyond_the_limit_are_closed_at_once_and_counted(rig: Any) -> None:
    rig.start(1, max_connections=2)
    rig.up(0, 1)
    one, other = rig.connect(), rig.connect()
    one.send(rig.frame(b"a", 1))
    other.send(rig.frame(b"b", 2))
    assert (one.acks(1), other.acks(1)) == ([1], [2])
    assert rig.connect().closed()
    assert rig.stats().counters["front.connections-closed{reason=too-many-connections}"] == 1
    # Who was there goes on, and room comes back.
    one.send(rig.frame(b"a", 3))
    assert one.acks(2) == [1, 3]
    other.sock.close()

    def taken() -> bool:
        new = rig.connect()
        new.send(rig.frame(b"c", 4))
        new.sock.settimeout(0.5)
        try:
            return new.acks(1) == [4]
        except (AssertionError, OSError):
            return False

    wait_for(taken, "a new connection is taken")


def test_long_frames_that_arrive_together_are_bounded(rig: Any) -> None:
    rig.start(1, partial_bytes=4 * MIB, max_frame_bytes=4 * MIB)
    rig.up(0, 1)
    good, first, second = rig.connect(), rig.connect(), rig.connect()
    beginning = (3 * MIB).to_bytes(4, "big") + 100_000 * b"\0"
    first.send(beginning)
    good.send(rig.frame(b"a", 1))
    assert good.acks(1) == [1]
    second.send(beginning)
    assert second.closed()
    assert rig.stats().counters["front.connections-closed{reason=partial-frames-full}"] == 1
    good.send(rig.frame(b"a", 2))
    assert good.acks(2) == [1, 2]
    # When the first one has ended there is room again.
    first.sock.close()
    rest = (3 * MIB + 4) - len(beginning)

    def arrives() -> bool:
        third = rig.connect()
        third.send(beginning, rest * b"\0")
        third.closed()
        return rig.stats().counters.get("front.connections-closed{reason=malformed-frame}", 0) > 0

    wait_for(arrives, "a long frame is read to its end")
