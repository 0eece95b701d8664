"""Batches as the hub makes them, and sinks for them, for the tests of this folder."""

from collections.abc import Iterable

import numpy as np

from coordinator.config.prom_remote import EndpointConfig, PromRemoteConfig, SecretText
from coordinator.sinks.prom_remote import LabelRules, PromRemoteSink
from coordinator.sinks.prom_remote.opening import open_sinks
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.values import UNAGGREGATED, Destination, Values
from m3metrics.ids import encode_tags
from m3x.config import Duration

__all__ = ["T0_NS", "id_of", "sink_of", "values_of"]

T0_NS = 1_700_000_000_000_000_000


def id_of(name: str, **tags: str) -> bytes:
    """An encoded id."""
    return encode_tags([(b"__name__", name.encode()), *((key.encode(), value.encode()) for key, value in tags.items())])


def values_of(
    rows: Iterable[tuple[bytes, float, int]], table: SeriesTable | None = None, destination: Destination = UNAGGREGATED
) -> Values:
    """Rows of id, value and time in ns."""
    rows, table = list(rows), SeriesTable() if table is None else table
    size = np.array([len(data) for data, _, _ in rows], np.int64)
    buf = np.frombuffer(bytearray(b"".join(data for data, _, _ in rows) + b"\0"), np.uint8)
    return Values(
        table=table,
        series=table.numbers(buf, np.cumsum(size) - size, size),
        time_ns=np.array([time_ns for _, _, time_ns in rows], np.int64),
        values=np.array([value for _, value, _ in rows], np.float64),
        destinations=(destination,),
        destination=np.zeros(len(rows), np.uint16),
    )


def sink_of(address: str, *, request_timeout_s: float = 60.0, **keys: object) -> PromRemoteSink:
    """A sink for raw samples; ``keys``: of ``EndpointConfig``."""
    endpoint = EndpointConfig(name="store", address=SecretText(address), **keys)  # type: ignore[arg-type]
    section = PromRemoteConfig(endpoints=[endpoint], request_timeout=Duration(int(request_timeout_s * 1e9)))
    return open_sinks(section, LabelRules())[0]
