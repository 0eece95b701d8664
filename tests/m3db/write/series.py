"""Series and rows for tests of writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3db.write import FormRules, SeriesForms, WriteRows
from m3metrics.ids import encode_tags
from m3x.byte_table import ByteTable


class Table:
    """Ids by number, as the coordinator's table of series."""

    def __init__(self) -> None:
        self._ids = ByteTable()

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        return self._ids.ranges()

    def id(self, number: int) -> bytes:
        return self._ids.key(number)

    def numbers(self, ids: Sequence[bytes]) -> NDArray[np.uint32]:
        size = np.fromiter(map(len, ids), np.int64, len(ids))
        buf = np.frombuffer(bytearray(b"".join(ids) + b"\0"), np.uint8)
        return self._ids.number(buf, np.cumsum(size) - size, size).astype(np.uint32)


@dataclass(frozen=True, slots=True)
class Point:
    """One value to be written."""

    id: bytes
    timestamp: int = 1_700_000_000
    value: float = 1.0
    namespace: bytes = b"default"
    time_type: int = 0
    annotation: bytes = b""


def id_of(name: str, **tags: str) -> bytes:
    """The id of a series."""
    pairs = [(b"__name__", name.encode()), *((key.encode(), value.encode()) for key, value in tags.items())]
    return encode_tags(pairs)


def rows_of(points: Sequence[Point], rules: FormRules | None = None, table: Table | None = None) -> WriteRows:
    """The columns of points whose series can all be stored."""
    table = Table() if table is None else table
    forms = SeriesForms(rules or FormRules(64), reserved_bytes=1 << 26)
    series = table.numbers([point.id for point in points])
    assert not len(forms.require(table, series))
    namespaces = tuple(dict.fromkeys(point.namespace for point in points)) or (b"default",)
    annotations = tuple(dict.fromkeys([b"", *(point.annotation for point in points)]))
    return WriteRows(
        forms,
        series,
        namespaces,
        np.array([namespaces.index(point.namespace) for point in points], np.uint16),
        np.array([point.timestamp for point in points], np.int64),
        np.array([point.time_type for point in points], np.uint8),
        np.array([point.value for point in points], np.float64),
        annotations,
        np.array([annotations.index(point.annotation) for point in points], np.uint16),
    )
