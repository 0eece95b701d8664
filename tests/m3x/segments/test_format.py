"""Headers and frames as pure bytes, and that no damage ever yields anything but the records that were written."""

import random
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3x.segments import format as fmt
from m3x.segments.format import Bad, Frame, SegmentHeader, Short, decode_header, encode_header, frame_at

HEADER = SegmentHeader(
    number=1000, salt=0x0123456789ABCDEF, previous=7, previous_stop=990, created_ns=5, preamble=b"who"
)

RECORDS = st.lists(
    st.one_of(st.binary(max_size=70), st.just(b"\xf1m3\x1e" * 9), st.just(bytes(40))), min_size=1, max_size=8
)


def segment_of(records: list[bytes], header: SegmentHeader = HEADER) -> tuple[bytes, list[int]]:
    """A segment, and where each of its records ends."""
    whole, ends = encode_header(header), []
    for count, record in enumerate(records):
        buffers, size = fmt.frame([record], header.number + count, len(whole), header)
        whole += b"".join(buffers)
        ends.append(len(whole))
        assert size == ends[-1] - (ends[-2] if count else header.size)
    return whole, ends


def read(data: bytes, header: SegmentHeader = HEADER) -> dict[int, bytes]:
    """Data by sequence number of everything that can be read."""
    at, found = header.size, {}
    while not isinstance(step := frame_at(data, at, 0, header), Short):
        if isinstance(step, Frame):
            found[step.sequence] = data[step.start : step.stop]
            at = step.end
        else:
            assert step.next > at
            at = step.next
    return found


def numbered(records: list[bytes]) -> dict[int, bytes]:
    return {HEADER.number + count: record for count, record in enumerate(records)}


def test_the_header_comes_back() -> None:
    encoded = encode_header(HEADER)
    assert decode_header(encoded) == HEADER
    assert decode_header(encoded + b"what follows") == HEADER
    assert len(encoded) == HEADER.size == 72


def test_every_flipped_bit_of_a_header_is_noticed() -> None:
    encoded = encode_header(HEADER)
    for bit in range(8 * (fmt.HEADER_BYTES + len(HEADER.preamble))):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(fmt.HeaderError):
            decode_header(bytes(damaged))


def test_a_short_header_says_how_much_it_needs() -> None:
    encoded = encode_header(HEADER)
    for size in range(fmt.HEADER_BYTES + len(HEADER.preamble)):
        with pytest.raises(fmt.ShortHeaderError) as caught:
            decode_header(encoded[:size])
        assert size < caught.value.need <= len(encoded)


def test_another_version_is_named() -> None:
    encoded = bytearray(encode_header(HEADER))
    encoded[8] = 9
    with pytest.raises(fmt.HeaderVersionError, match="format version 9, expected 1"):
        decode_header(bytes(encoded))


@given(RECORDS)
def test_records_come_back(records: list[bytes]) -> None:
    assert read(segment_of(records)[0]) == numbered(records)


def test_parts_may_be_any_buffers() -> None:
    words = np.arange(6, dtype=np.int64)
    parts = [b"head", bytearray(b"er"), memoryview(b"..more..")[2:6], words, np.empty(0, np.uint8)]
    buffers, size = fmt.frame(parts, HEADER.number, HEADER.size, HEADER)
    data = encode_header(HEADER) + b"".join(buffers)
    assert len(data) == HEADER.size + size
    assert read(data) == {HEADER.number: b"header" + b"more" + words.tobytes()}


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fmt, "MAX_RECORD", 10)
    with pytest.raises(ValueError, match="a record of 12 bytes; at most 10"):
        fmt.frame([b"123456", b"789012"], 1000, HEADER.size, HEADER)
    with pytest.raises(ValueError, match="a preamble of 16777217 bytes"):
        encode_header(SegmentHeader(number=1, salt=0, preamble=bytes(fmt.MAX_PREAMBLE + 1)))


@given(RECORDS, st.data())
def test_a_cut_costs_what_is_behind_it(records: list[bytes], data: st.DataObject) -> None:
    whole, ends = segment_of(records)
    cut = data.draw(st.integers(HEADER.size, len(whole)))
    assert read(whole[:cut]) == numbered(records[: sum(end <= cut for end in ends)])


def test_a_changed_byte_costs_its_record_only() -> None:
    chosen = random.Random(3)
    records = [chosen.randbytes(size) for size in (0, 1, 7, 8, 9, 40, 3)]
    whole, ends = segment_of(records)
    for offset in range(HEADER.size, len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= chosen.randrange(1, 256)
        found = read(bytes(damaged))
        expected = numbered(records)
        hit = HEADER.number + sum(end <= offset for end in ends)
        in_padding = offset >= ends[hit - HEADER.number] - (-len(expected[hit]) % fmt.ALIGN)
        if not in_padding:
            del expected[hit]
        assert found == expected, offset


@given(RECORDS, st.data())
def test_damage_of_any_size_never_yields_a_wrong_record(records: list[bytes], data: st.DataObject) -> None:
    whole, ends = segment_of(records)
    start = data.draw(st.integers(HEADER.size, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    filling = data.draw(
        st.one_of(
            st.just(bytes(stop - start)),
            st.binary(max_size=80),
            # Another piece of the same segment, as a misdirected write leaves it.
            st.integers(0, len(whole)).map(lambda at: whole[at : at + stop - start]),
        )
    )
    damaged = whole[:start] + filling + whole[stop:]
    found = read(damaged)
    assert found.items() <= numbered(records).items()
    before = [record for record, end in zip(records, ends, strict=True) if end <= start]
    assert numbered(before).items() <= found.items()
    if len(filling) == stop - start:
        behind = {HEADER.number + n for n, end in enumerate(ends) if (ends[n - 1] if n else HEADER.size) >= stop}
        assert behind <= found.keys()


def test_a_segment_within_a_record_is_not_read_for_records() -> None:
    inner, _ = segment_of([b"one", b"two"])
    for shift in range(0, 64, 8):
        whole, ends = segment_of([bytes(shift) + inner, b"last"])
        damaged = bytearray(whole)
        damaged[HEADER.size] ^= 1
        assert read(bytes(damaged)) == {1001: b"last"}
        assert frame_at(bytes(damaged), HEADER.size, 0, HEADER) == Bad(ends[0])


def test_records_of_another_segment_are_damage() -> None:
    older = SegmentHeader(number=HEADER.number, salt=HEADER.salt + 1, preamble=HEADER.preamble)
    whole, _ = segment_of([b"older", b"file"], older)
    assert read(encode_header(HEADER) + whole[HEADER.size :]) == {}


def test_the_layout_is_as_written_down() -> None:
    """Offsets of the tables of ``m3x.segments``, by hand."""
    whole, _ = segment_of([b"data!"])
    assert whole[:8] == b"m3x.segm"
    assert [int.from_bytes(whole[at : at + 4], "little") for at in (8, 12)] == [1, 3]
    words = [int.from_bytes(whole[at : at + 8], "little") for at in range(16, 56, 8)]
    assert words == [HEADER.salt, 1000, 7, 990, 5]
    assert int.from_bytes(whole[60:64], "little") == zlib.crc32(whole[:60] + b"who")
    assert whole[64:72] == b"who" + bytes(5)
    record = whole[72:]
    assert record[:4] == b"\xf1m3\x1e"
    assert int.from_bytes(record[4:8], "little") == 5
    assert int.from_bytes(record[8:16], "little") == 1000
    assert int.from_bytes(record[16:20], "little") == zlib.crc32(b"data!")
    place = HEADER.salt.to_bytes(8, "little") + (72).to_bytes(8, "little")
    assert int.from_bytes(record[20:24], "little") == zlib.crc32(place + record[:20])
    assert record[24:] == b"data!" + bytes(3)
