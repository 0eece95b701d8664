"""What a decoder made of a body, as plain values."""

from typing import Any, NamedTuple

from coordinator import prompb
from coordinator.write.decoding import Decoded

__all__ = ["Sample", "labels", "samples"]


class Sample(NamedTuple):
    """One row: labels by name, time in what the decoder counts, value, the M3 type and the type of Prometheus."""

    labels: dict[str, str]
    time: int
    value: float
    m3_type: int = 0
    prom_type: int = 0


def labels(decoded: Decoded, row: Any) -> dict[str, str]:
    """The labels of a series."""
    at, size = int(row["labels_at"]), int(row["labels_size"])
    found = prompb.labels_of(decoded.buf[at : at + size].tobytes())
    assert found == sorted(found), "Prometheus sorts"
    assert len({name for name, _ in found}) == len(found)
    return {name.decode(): value.decode() for name, value in found}


def samples(decoded: Decoded) -> list[Sample]:
    """All rows of a decoder whose series have one sample each."""
    rows = []
    for number, row in enumerate(decoded.series):
        assert (int(row["sample_from"]), int(row["samples"])) == (number, 1)
        time, value = int(decoded.times[number]), float(decoded.values[number])
        rows.append(Sample(labels(decoded, row), time, value, int(row["m3_type"]), int(row["prom_type"])))
    return rows
