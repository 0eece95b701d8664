"""What M3DB's nodes answer: frames, Thrift structs, streams of points; and what the KV says of its namespaces."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from tests.fuzz.cliff import laid, room, rows
from tests.fuzz.parser import REFUSED, Parser
from tests.m3db.m3tsz.streams import SECOND, START, encoded, plainly
from tests.m3db.read.tagged import METHOD as FETCH
from tests.m3db.read.tagged import body_of, element_of, segment_of
from tests.m3db.read.test_aggregate import body_of as names_of
from tests.m3db.read.test_aggregate import plainly as plain_names
from tests.m3db.read.test_fetch import compiled as fetched
from tests.m3db.read.test_fetch import plainly as plain_fetched

from m3db.errors import CallError, M3DBError
from m3db.m3tsz import PADDING, StreamEnd, Unit
from m3db.m3tsz import kernels as m3tsz
from m3db.read import aggregate_kernels, fetch_kernels
from m3db.read.aggregate import read_aggregated
from m3db.read.fetch import read_answer
from m3db.read.index_query import (
    AllQuery,
    ConjunctionQuery,
    DisjunctionQuery,
    FieldQuery,
    NegationQuery,
    RegexpQuery,
    TermQuery,
    marshal_query,
    unmarshal_query,
)
from m3db.read.merge import EqualTimes, merge
from m3db.tchannel.calls import Answered, Call, Ended, Failed, Inbound, Pinged, Repeated, fragment_frames
from m3db.tchannel.fragments import Checksum, ResponseHead
from m3db.tchannel.frames import Frame, FrameType, frame_bytes
from m3db.tchannel.handshake import Init, read_init, write_init
from m3db.thrift import METHODS, marshal, unmarshal
from m3db.write.answer_kernels import ERROR, LEAST_ELEMENT_BYTES, ODD, read_errors
from m3db.write.answers import element_errors
from m3db.write.requests import WRITE

__all__ = ["PARSERS"]

_IDS = {1, 2, 3}


def _streams() -> list[bytes]:
    seconds, floats = Unit.SECOND, [1.5, 0.1, -3e300, float("nan"), float("inf")]
    points = [
        [(START + k * SECOND, float(k), seconds, b"") for k in range(8)],
        [(START + k * 10 * SECOND, value, seconds, b"note" if k == 1 else b"") for k, value in enumerate(floats)],
        [(START + k, k / 100, Unit.NANOSECOND, b"") for k in range(5)],
        [(START + k * 10**6, 1e9 * k, Unit.MILLISECOND if k % 2 else seconds, b"x" * k) for k in range(6)],
        [],
    ]
    return [encoded(one) for one in points]


def _read_stream(data: bytes) -> Any:
    """With only the padding that is asked for behind it; columns and notes have to grow."""
    arena = laid(data + bytes(PADDING))
    at, size = np.zeros(1, np.int64), np.array([len(data)], np.int64)
    stops, ends = np.zeros(1, np.int64), np.zeros(1, np.uint8)
    most = 8 * len(data) + 1
    times, bits = rows(most, np.int64, "times"), rows(most, np.uint64, "bits")
    units, notes = rows(most, np.uint8, "units"), rows(3 * (len(data) + 1), np.int64, "notes").reshape(-1, 3)
    done, count, noted, full = m3tsz.decode(arena, at, size, 0, 0, 0, times, bits, units, notes, stops, ends)
    assert (int(done), int(count)) == (1, int(stops[0]))
    assert full not in (m3tsz.NO_ROWS, m3tsz.NO_NOTES)
    texts = {row: _bits(data, begin, size) for row, begin, size in notes[:noted].tolist()}
    columns = zip(times[:count].tolist(), bits[:count].tolist(), units[:count].tolist(), strict=True)
    return [(*one, texts.get(row, b"")) for row, one in enumerate(columns)], StreamEnd(int(ends[0]))


def _bits(data: bytes, at: int, size: int) -> bytes:
    word = int.from_bytes(data, "big") >> (8 * len(data) - at - 8 * size)
    return (word & ((1 << 8 * size) - 1)).to_bytes(size, "big")


@cache
def _tagged() -> list[bytes]:
    two, one = [(0, 1.0), (10, 2.5)], [(5, 1.0)]
    noted = element_of(b"b", []) | {"segments": [{"unmerged": [segment_of(two)], "merged": segment_of(one)}]}
    error = {"err": {"type": 1, "message": b"query exceeded limit", "flags": 1}}
    return [
        body_of([element_of(b"id", [[two]]), element_of(b"other", [[one, two], [two]], tags=b"")]),
        body_of([noted], exhaustive=False),
        body_of([element_of(b"", [])] * 5),
        body_of([]),
        marshal(FETCH.result, error),
    ]


def _read_tagged(data: bytes) -> Any:
    body = laid(data or b"\0")
    elements, streams = rows(8, fetch_kernels.ELEMENT), rows(16, fetch_kernels.STREAM, "streams")
    scanned = [int(number) for number in fetch_kernels.scan(body, len(data), elements, streams)]
    if scanned[0] >= 0:
        used = streams[: min(scanned[1], 16)]
        sizes = used["head_size"] + used["tail_size"]
        arena = room(int(sizes.sum()))
        fetch_kernels.join(body, used, arena, np.cumsum(sizes) - sizes)
    return fetched(data)


def _read_merged(data: bytes) -> Any:
    """Beside an answer of another node."""
    answers = [read_answer(data), read_answer(_tagged()[0])]
    for rule in EqualTimes:
        fetched = merge(answers, START - 10**18, START + 10**18, equal_times=rule)
        assert len(fetched.ids) == len(fetched.tags) == len(fetched.offsets) - 1
        assert fetched.offsets[-1] == len(fetched.time_ns) == len(fetched.values)


def _names() -> list[bytes]:
    named = [(b"job", [b"api", b"web"]), (b"empty", []), (b"none", None)]
    result = METHODS["aggregateRaw"].result
    return [
        names_of(named), names_of(named, False), names_of([]), marshal(result, {"err": {"type": 1, "message": b"no"}}),
    ]  # fmt: skip


def _read_names(data: bytes) -> Any:
    names, values = rows(8, aggregate_kernels.NAME), rows(16, aggregate_kernels.VALUE, "values")
    aggregate_kernels.scan(laid(data or b"\0"), len(data), names, values)
    return read_aggregated(data)


def _errors() -> list[bytes]:
    errors = [
        {"index": k, "err": {"type": k % 2, "message": b"datapoint too far in past" * k, **({"flags": k} if k else {})}}
        for k in range(3)
    ]
    return [marshal(WRITE.result, {"err": {"errors": some}}) for some in (errors, errors[:1], [])] + [b"\0"]


def _read_errors(data: bytes) -> Any:
    table = rows(len(data) // LEAST_ELEMENT_BYTES, ERROR)
    body = laid(data)
    body.flags.writeable = False
    count = int(read_errors(body, table))
    found = element_errors(1, data, 1 << 40)
    assert count in (ODD, len(found))
    return [_element(found, k) for k in range(len(found))]


def _element(found: Any, k: int) -> tuple[Any, ...]:
    row = found.errors[k]
    return int(row["index"]), int(row["type"]), int(row["flags"]), found.text(k)


def _plain_errors(data: bytes) -> Any:
    result = unmarshal(WRITE.result, data)
    listed = result["err"]["errors"] if "err" in result else []
    if not listed:
        raise M3DBError("no error is named")
    if not all(0 <= one["index"] < 1 << 40 for one in listed):
        raise M3DBError("of no element")
    texts = [one["err"]["message"].decode(errors="backslashreplace") for one in listed]
    return [
        (one["index"], one["err"]["type"], one["err"]["flags"], text) for one, text in zip(listed, texts, strict=True)
    ]


def _answers() -> list[bytes]:
    """Streams of frames as nodes send them."""
    head = ResponseHead(0, ((b"as", b"thrift"),))
    found = []
    for checksum in Checksum:
        for body in (b"\0", b"long" * 20_000 if checksum is Checksum.NONE else b"body" * 20):
            frames = fragment_frames(2, head, (b"", b"\0\0", body), checksum)
            found.append(b"".join(map(frame_bytes, frames)))
    error = Frame(FrameType.ERROR, 3, bytes([1]) + bytes(25) + b"\0\4busy")
    call = Call(1, b"health", b"\0", 1000).frames()
    return [*found, found[0] * 3, frame_bytes(error), frame_bytes(Frame(FrameType.PING_REQ, 9)), call]


def _events(feed: Callable[[Inbound], list[Any]]) -> Any:
    inbound = Inbound(_IDS, max_held_bytes=1 << 17)
    found: list[Any] = []
    for event in feed(inbound):
        match event:
            case Answered(number, code, body):
                found.append((number, code, body))
            case Repeated(numbers, code, body):
                found += [(number, code, body) for number in numbers]
            case Failed(number, error) if isinstance(error, CallError):
                found.append((number, str(error)))
            case Pinged(reply):
                found.append(reply)
            case Ended(error):
                found.append(str(error))
                break
            case _:
                raise AssertionError(event)
    assert 0 <= inbound.held_bytes <= 1 << 17
    return found


def _in_one_piece(data: bytes) -> Any:
    return _events(lambda inbound: inbound.feed(data))


def _in_pieces(data: bytes) -> Any:
    step = max(len(data) // 20, 1)

    def feed(inbound: Inbound) -> list[Any]:
        found: list[Any] = []
        for at in range(0, len(data), step):
            found += inbound.feed(data[at : at + step])
            if found and isinstance(found[-1], Ended):
                break
        return found

    return _events(feed)


def _thrift() -> list[bytes]:
    return [*_tagged(), *_names(), *_errors()]


def _read_thrift(data: bytes) -> Any:
    """By every method's table."""
    found = []
    for method in METHODS.values():
        try:
            found.append(unmarshal(method.result, data))
        except M3DBError:
            found.append(REFUSED)
    return found


def _queries() -> list[bytes]:
    term, regexp = TermQuery(b"job", b"api"), RegexpQuery(b"path", b"a.*")
    either = DisjunctionQuery((term, FieldQuery(b"le"), AllQuery()))
    both = ConjunctionQuery((either, regexp), (NegationQuery(term),))
    return [*map(marshal_query, (term, regexp, either, NegationQuery(both), AllQuery()))]


def _handshakes() -> list[bytes]:
    return [write_init(Init(2, {b"host_port": b"10.0.0.1:9000", b"process_name": b"m3dbnode", b"": b""}))]


PARSERS = (
    Parser("m3tsz", _streams, _read_stream, plain=plainly, kernel=True),
    Parser("m3db-fetch", _tagged, _read_tagged, (M3DBError,), plain_fetched, kernel=True),
    Parser("m3db-merge", _tagged, _read_merged, (M3DBError,), kernel=True),
    Parser("m3db-names", _names, _read_names, (M3DBError,), plain_names, kernel=True),
    Parser("m3db-write-errors", _errors, _read_errors, (M3DBError,), _plain_errors, kernel=True),
    Parser("tchannel", _answers, _in_one_piece, (), _in_pieces),
    Parser("thrift", _thrift, _read_thrift),
    Parser("tchannel-handshake", _handshakes, read_init, (M3DBError,)),
    Parser("index-query", _queries, unmarshal_query, (M3DBError,)),
)
