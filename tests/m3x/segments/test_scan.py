"""Records of one file: whatever the chunks that it is read in, the same as of all of its bytes at once."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.m3x.segments.test_format import HEADER, RECORDS, read, segment_of

from m3x.segments.format import SegmentHeader, ShortHeaderError, encode_header
from m3x.segments.scan import Damage, SegmentScan, read_header


def scanned(path: Path, chunk_bytes: int, steps: list[int]) -> tuple[dict[int, bytes], list[Damage]]:
    """Records and damage of a file that is read up to each of ``steps`` and then to its end."""
    found, told = {}, []
    with path.open("rb") as file:
        scan = SegmentScan(file.fileno(), HEADER, chunk_bytes=chunk_bytes, on_damage=told.append)
        for limit in [*sorted(steps), path.stat().st_size]:
            while (record := scan.next(limit)) is not None:
                found[record.sequence] = bytes(record.data)
                assert record.end.offset <= limit
    return found, told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=RECORDS,
    chunk_bytes=st.integers(1, 200),
    places=st.lists(st.integers(0, 1000), max_size=4),
    steps=st.lists(st.integers(0, 7), max_size=4),
)
def test_chunks_make_no_difference(
    tmp_path: Path, records: list[bytes], chunk_bytes: int, places: list[int], steps: list[int]
) -> None:
    whole, ends = segment_of(records)
    damaged = bytearray(whole)
    for place in places:
        if HEADER.size <= place < len(whole):
            damaged[place] ^= 0x55
    (tmp_path / "file").write_bytes(damaged)
    # A reader may have met the end of the log behind any record.
    met = [ends[step] for step in steps if step < len(ends)]
    found, told = scanned(tmp_path / "file", chunk_bytes, met)
    assert found == read(bytes(damaged))
    lost = sum(damage.records or 0 for damage in told)
    assert lost == (max(found) - HEADER.number + 1 - len(found) if found else 0)


def test_every_place_of_a_chunks_end_behind_damage(tmp_path: Path) -> None:
    chosen = random.Random(1)
    records = [chosen.randbytes(size) for size in (40, 33, 50, 61)]
    whole, ends = segment_of(records)
    damaged = bytearray(whole)
    damaged[HEADER.size] ^= 1
    (tmp_path / "file").write_bytes(damaged)
    for chunk_bytes in range(1, len(whole)):
        found, told = scanned(tmp_path / "file", chunk_bytes, [])
        assert list(found.values()) == records[1:]
        assert [damage[1:4] for damage in told] == [(HEADER.size, ends[0] - HEADER.size, 1)]


def test_no_record_reaches_beyond_the_limit(tmp_path: Path) -> None:
    whole, ends = segment_of([b"one", b"two" * 9, b"", b"four"])
    (tmp_path / "file").write_bytes(whole)
    with (tmp_path / "file").open("rb") as file:
        for limit in range(len(whole) + 1):
            scan = SegmentScan(file.fileno(), HEADER)
            found = [scan.next(limit) is not None for _ in range(5)]
            assert sum(found) == sum(end <= limit for end in ends)


def test_a_file_that_is_shorter_than_said_ends_the_scan(tmp_path: Path) -> None:
    whole, _ = segment_of([b"one", b"two" * 20])
    (tmp_path / "file").write_bytes(whole[:-30])
    with (tmp_path / "file").open("rb") as file:
        scan = SegmentScan(file.fileno(), HEADER)
        assert [scan.next(len(whole)) is not None for _ in range(3)] == [True, False, False]


def test_a_header_with_a_large_preamble(tmp_path: Path) -> None:
    header = SegmentHeader(number=3, salt=1, preamble=bytes(range(256)) * 40)
    (tmp_path / "file").write_bytes(encode_header(header))
    with (tmp_path / "file").open("rb") as file:
        assert read_header(file.fileno()) == header
    (tmp_path / "file").write_bytes(encode_header(header)[:-1])
    with (tmp_path / "file").open("rb") as file, pytest.raises(ShortHeaderError):
        read_header(file.fileno())
