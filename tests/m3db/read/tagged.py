"""Answers to tagged reads to test with."""

import zlib
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from tests.m3db.m3tsz.streams import START

from m3db.m3tsz import Encoder, Unit
from m3db.thrift import METHODS, marshal

METHOD = METHODS["fetchTagged"]
SECOND = 10**9
BLOCK = 7200 * SECOND

Points = Sequence[tuple[int, float]]
"""Seconds after ``START``, value."""
Blocks = Sequence[Sequence[Points]]
"""The streams of each block."""


def segment_of(points: Points, **others: Any) -> dict[str, Any]:
    """A Segment as a node gives it."""
    encoder = Encoder(START)
    for seconds, value in points:
        encoder.add(START + seconds * SECOND, value, Unit.SECOND)
    head, tail = encoder.segment()
    checksum = zlib.adler32(head + tail)
    return {"head": head, "tail": tail, "startTime": START, "blockSize": BLOCK, "checksum": checksum, **others}


def segments_of(streams: Sequence[Points]) -> dict[str, Any]:
    """A Segments: merged if there is one stream."""
    segments = [segment_of(points) for points in streams]
    return {"merged": segments[0]} if len(segments) == 1 else {"unmerged": segments}


def element_of(ident: bytes, blocks: Blocks, tags: bytes = b"tags") -> dict[str, Any]:
    """A series."""
    segments = [segments_of(streams) for streams in blocks]
    return {"id": ident, "nameSpace": b"ns", "encodedTags": tags, "segments": segments}


def body_of(elements: Sequence[dict[str, Any]], *, exhaustive: bool = True) -> bytes:
    """The bytes of an answer."""
    return marshal(METHOD.result, {"success": {"elements": list(elements), "exhaustive": exhaustive}})


points = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3).map(float)), max_size=6, unique_by=lambda point: point[0]
).map(sorted)
blocks = st.lists(st.lists(points, min_size=1, max_size=3), max_size=3)
elements = st.builds(element_of, st.sampled_from([b"a", b"b", b"c", b"", b"long" * 40]), blocks, st.binary(max_size=9))
answers = st.lists(elements, max_size=4)
