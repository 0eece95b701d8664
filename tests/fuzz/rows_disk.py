"""What is read back from disk: segments, the records of journals and queues in them, configuration files."""

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tests.aggregator.engine.engine_calls import NOW, engine_of, options
from tests.coordinator.sinks.batches import LONG, SHORT, Row, batch_of
from tests.fuzz.cliff import laid
from tests.fuzz.parser import Parser
from tests.fuzz.rows_metrics import METRICS

from aggregator import ipc
from aggregator.config.service import ServiceConfig
from aggregator.journal import records as journal
from aggregator.journal import snapshots
from coordinator.config.coordinator import CoordinatorConfig
from coordinator.sinks import records as queue
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED
from m3msg.frames import Message, Metadata, encode_message
from m3x.config import read
from m3x.segments import Cursor, DirectoryError, SegmentLog
from m3x.segments.format import HeaderError
from m3x.segments.scan import SegmentScan, read_header

__all__ = ["PARSERS"]

_RECORDS = (b"one", b"another record" * 20, b"", bytes(100), b"\xf1m3\x1e" * 10)


@cache
def _segments() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        for preamble in (b"", b'{"format":1}'):
            with SegmentLog(path, sync="os", preamble=lambda said=preamble: said) as log:
                for data in _RECORDS:
                    log.append([data])
        return [file.read_bytes() for file in sorted(path.glob("*.segment"))]


@cache
def _file() -> int:
    return os.memfd_create("input")


def _written(data: bytes) -> int:
    """A file with these bytes."""
    fd = _file()
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    return fd


def _read_segment(data: bytes) -> Any:
    """Whatever is damaged: what is read was appended once, and in this order."""
    fd = _written(data)
    damages: list[Any] = []
    scan = SegmentScan(fd, read_header(fd), on_damage=damages.append)
    found, last = [], -1
    while (record := scan.next(len(data))) is not None:
        assert bytes(record.data) in _RECORDS
        assert record.sequence > last
        last = record.sequence
        found.append(bytes(record.data))
    scan.finish(len(data), None)
    return found, list(map(str, damages))


@cache
def _journal() -> list[bytes]:
    shards = ipc.Shards(4, 16, [ipc.OwnedShard(0, 0, 1 << 62)])
    numbers = np.arange(4, dtype=np.uint32)
    headers: list[tuple[Any, ...]] = [
        (journal.Batch(1, 2, 1, NOW, [5], [2]), np.arange(40, dtype=np.uint8)),
        (journal.Order(NOW, shards),),
        (journal.Order(NOW, ipc.RuntimeOptions(5, 6)),),
        (journal.Numbers(2), numbers),
    ]
    return [b"".join(map(bytes, journal.encode(header, *arrays))) for header, *arrays in headers]


def _read_journal(data: bytes) -> Any:
    header, rest = journal.decode(memoryview(data))
    return header, bytes(rest)


@cache
def _queue() -> list[bytes]:
    table, encoder = SeriesTable(), queue.Encoder()
    encoder.begin_segment()
    one = [Row(b"a", 5), Row(b"bb", 6, 2.5, SHORT), Row(b"", 7, 0.0, LONG, b"note")]
    batches = [one, one[:1], [Row(b"c", k, 1.0, UNAGGREGATED, b"x" * (k % 2)) for k in range(4)]]
    return [
        b"".join(bytes(part) for part in encoder.encode(batch_of(table, rows), k, 1_000, answered=k == 1))
        for k, rows in enumerate(batches)
    ]


_FEW = 1 << 16


def _read_queue(data: bytes) -> Any:
    record = queue.decode(memoryview(data))
    if record.header.known_series > _FEW:
        # What says so has the checksum of a record that was written: there are as many.
        return record.header
    values = queue.Interner(SeriesTable()).values(record)
    return values.time_ns.tolist(), values.values.tobytes()


@cache
def _engine_rows() -> list[bytes]:
    engine = engine_of(options(), max_series=1 << 8)
    found = []
    for metrics in (METRICS(), METRICS()[:1] * 3, METRICS()[4:6]):
        frames = b"".join(encode_message(Message(Metadata(3, k + 1), one)) for k, one in enumerate(metrics))
        payload = np.frombuffer(bytearray(frames), np.uint8)
        found.append(engine.ingest(payload, np.array([len(payload)], np.int64), NOW, journaled=True).rows.tobytes())
    return found


def _read_rows(data: bytes) -> Any:
    engine, numbers = _replaying()
    engine.replay(laid(data), numbers, NOW)
    engine.repeats_of(laid(data), 8, numbers, NOW)
    engine.recent_errors.clear()


@cache
def _replaying() -> Any:
    return engine_of(options(), max_series=1 << 18), np.zeros(1 << 18, np.uint32)


class _Consumed(msgspec.Struct):
    """What a queue keeps in its cursor, more or less."""

    at: int
    lanes: list[int] = []


_CURSORS = tuple(_Consumed(1 << 20 * k, [k] * k) for k in range(1, 4))


@cache
def _cursors() -> list[bytes]:
    """With one value, and with two."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queue.cursor"
        cursor = Cursor(path, _Consumed)
        for value in _CURSORS:
            cursor.write(value)
            found.append(path.read_bytes())
        cursor.close()
    return found


def _read_cursor(data: bytes) -> Any:
    """Whatever is damaged: a value that was written once. Without one the file would be set aside, which this one cannot be."""
    cursor = Cursor(Path(f"/proc/self/fd/{_written(data)}"), _Consumed)
    cursor.close()
    assert cursor.value is None or cursor.value in _CURSORS
    return cursor.value


@cache
def _snapshot() -> tuple[str, bytes, Any]:
    """Of a small engine: the name of its segment, its bytes, its tables."""
    engine = engine_of(options(), max_series=1 << 8)
    frames = b"".join(encode_message(Message(Metadata(3, k + 1), one)) for k, one in enumerate(METRICS()[:4]))
    payload = np.frombuffer(bytearray(frames), np.uint8)
    engine.ingest(payload, np.array([len(payload)], np.int64), NOW)
    once, tables = engine.save()
    with tempfile.TemporaryDirectory() as folder:
        head = snapshots.Head(snapshots.FORMAT, 0, 0, NOW, 1, 2, 3, once)
        path = snapshots.write(Path(folder), 1, head, tables, "os")
        (file,) = path.glob("*.segment")
        return file.name, file.read_bytes(), _tables(snapshots.Snapshot(path))


def _tables(snapshot: snapshots.Snapshot) -> Any:
    """What can be compared."""
    return snapshot.head, [
        (one.name, {name: column.tobytes() for name, column in one.columns.items()}) for one in snapshot.tables()
    ]


def _read_snapshot(data: bytes) -> Any:
    """Refused, or what it was."""
    name, _, tables = _snapshot()
    with tempfile.TemporaryDirectory(prefix="snapshot-") as folder:
        path = Path(folder) / "snapshot-00000001"
        path.mkdir()
        (path / name).write_bytes(data)
        assert _tables(snapshots.Snapshot(path)) == tables


_YAML = (
    b"listenAddress: 0.0.0.0:7201\nmetrics: &m {scope: {prefix: 'x'}}\nlogging: {<<: *m, level: ${LEVEL:\"info\"}}\n",
    b"aggregator:\n  hostID: {resolver: environment, envVarName: \"A\"}\n  bufferDurationBeforeShardCutover: 10m\n# end\n",
    b"downsample:\n  rules:\n    mappingRules:\n      - filter: 'a:b'\n        storagePolicies: [{resolution: 10s, retention: 48h}]\n",
    b"a: |\n  text\n  more\nb: >-\n  folded\nc: [1, 0x1f, 1.5, ~, yes, !!str 5]\n...\n",
)  # fmt: skip
_YAML_WORDS = (
    b"&a ", b"*a", b"<<: ", b": ", b"- ", b"{", b"}", b"[", b"]", b"'", b'"', b"|\n", b"\t", b"\n", b"  ", b"!!int ", b"${A}", b"${A:",
    b"---\n", b"...\n", b"9", b"? ", b"%YAML 1.2\n", b"# ", b"\xc2\x85", b"\\x", b"aggregator:\n", b"0x", b".inf", b"1:30",
)  # fmt: skip


def _read_yaml(data: bytes) -> Any:
    file = f"/proc/self/fd/{_written(data)}"
    found = []
    for kind in (ServiceConfig, CoordinatorConfig):
        reading = read([file], kind, {"A": "5"})
        found.append([(one.line, one.text) for one in (*reading.malformed, *reading.refused)])
    return found


PARSERS = (
    Parser("segment", _segments, _read_segment, (HeaderError,)),
    Parser("journal-record", _journal, _read_journal, (journal.RecordError,)),
    Parser("journal-rows", _engine_rows, _read_rows, kernel=True),
    Parser("queue-record", _queue, _read_queue, (queue.RecordError,)),
    Parser("queue-cursor", _cursors, _read_cursor, (DirectoryError,)),
    Parser("snapshot", lambda: [_snapshot()[1]], _read_snapshot, (snapshots.SnapshotError,)),
    Parser("yaml", lambda: _YAML, _read_yaml, words=_YAML_WORDS),
)
