"""The compiled reader of m3tsz against the plain one."""

from hypothesis import given
from hypothesis import strategies as st
from tests.m3db.m3tsz.streams import Row, encoded, inputs, plainly, streams

from m3db.m3tsz import StreamEnd, decode, joined


def compiled(many: list[bytes]) -> list[tuple[list[Row], StreamEnd]]:
    """What the kernel makes of some streams, all in one arena."""
    arena, at, size = joined(many)
    points = decode(arena, at, size)
    annotations = {int(row): points.annotation(note, arena) for note, row in enumerate(points.notes[:, 0])}
    columns = zip(points.time_ns.tolist(), points.bits.tolist(), points.unit.tolist(), strict=True)
    rows = [(*row, annotations.get(number, b"")) for number, row in enumerate(columns)]
    begins = [0, *points.stops.tolist()]
    return [
        (rows[begin:stop], StreamEnd(end))
        for begin, stop, end in zip(begins, begins[1:], points.ends.tolist(), strict=False)
    ]


@given(st.lists(inputs().map(encoded), min_size=1, max_size=3))
def test_streams(many: list[bytes]) -> None:
    assert compiled(many) == [plainly(stream) for stream in many]


@given(st.lists(streams, min_size=1, max_size=5))
def test_damaged_streams(many: list[bytes]) -> None:
    assert compiled(many) == [plainly(stream) for stream in many]


@given(streams)
def test_what_follows_a_stream_does_not_matter(stream: bytes) -> None:
    ones = compiled([stream, b"\xff" * 40])[0]
    assert ones == compiled([stream, bytes(40)])[0] == plainly(stream)
