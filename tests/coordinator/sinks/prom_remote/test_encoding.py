"""Requests from columns: the kernel against ``prompb`` in plain Python."""

import math
import struct
from collections import defaultdict

import cramjam
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.coordinator.sinks.prom_remote.batches import id_of, values_of

from coordinator.prompb import WRITE_REQUEST
from coordinator.sinks.prom_remote.encode_kernels import group, write
from coordinator.sinks.prom_remote.encoding import Encoder
from coordinator.sinks.prom_remote.label_kernels import fill
from coordinator.sinks.prom_remote.labels import LabelFields, LabelRules, labels_of
from coordinator.sinks.prom_remote.symbols import warm
from coordinator.sinks.values import Values
from m3x.protobuf import marshal

IDS = [
    id_of("a"),
    id_of("b", host="x", zone="é"),
    id_of("c", **{f"tag{i}": "v" * 40 for i in range(6)}),
    id_of("d", le="1"),
]
NAN = struct.unpack("<d", (0x7FF0000000000002).to_bytes(8, "little"))[0]

rows = st.lists(
    st.tuples(
        st.sampled_from(IDS),
        st.floats() | st.sampled_from([0.0, -0.0, NAN, math.inf]),
        st.integers(-(2**63), 2**63 - 1) | st.integers(-2_000_000, 2_000_000) | st.just(1_700_000_000_123_456_789),
    ),
    min_size=1,
    max_size=60,
)


def plain(batch: Values, chosen: list[int]) -> bytes:
    """The request as the plain codec writes it."""
    series: dict[int, list[dict[str, object]]] = defaultdict(list)
    for row in chosen:
        time_ns, value = int(batch.time_ns[row]), batch.values[row]
        time_ms = abs(time_ns) // 1_000_000 * (1 if time_ns >= 0 else -1)
        sample = {"value": value} if value != 0 else {}
        series[int(batch.series[row])].append(sample | ({"timestamp": time_ms} if time_ms else {}))
    return marshal(
        WRITE_REQUEST,
        {
            "timeseries": [
                {
                    "labels": [
                        {"name": name, "value": value}
                        for name, value in labels_of(batch.table.id(number), LabelRules())
                    ],
                    "samples": samples,
                }
                for number, samples in series.items()
            ]
        },
    )


@given(rows, st.data())
def test_the_kernel_writes_what_the_plain_codec_writes(
    rows: list[tuple[bytes, float, int]], data: st.DataObject
) -> None:
    batch = values_of(rows)
    labels = LabelFields(LabelRules())
    labels.require(batch.table, batch.series)
    encoder = Encoder()
    for chosen in (
        list(range(len(rows))),
        data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, unique=True).map(sorted)),
    ):
        request = bytes(encoder.request(batch, np.array(chosen), labels))
        assert request == plain(batch, chosen)
        assert bytes(cramjam.snappy.decompress_raw(encoder.body(batch, np.array(chosen), labels))) == request


def test_a_large_batch_after_small_ones() -> None:
    batch = values_of((id_of(f"m{i % 700}", host="h" * 90), i, i * 1_000_000) for i in range(5000))
    labels = LabelFields(LabelRules())
    labels.require(batch.table, batch.series)
    encoder = Encoder()
    assert bytes(encoder.request(batch, np.arange(1), labels)) == plain(batch, [0])
    assert bytes(encoder.request(batch, np.arange(5000), labels)) == plain(batch, list(range(5000)))


def test_whatever_batches_bring_is_compiled_beforehand() -> None:
    warm()
    before = [len(kernel.signatures) for kernel in (fill, group, write)]
    for count in (1, 2, 300):
        batch = values_of((id_of(f"m{i}"), i, i) for i in range(count))
        labels = LabelFields(LabelRules(keep_scheme=True))
        labels.require(batch.table, batch.series)
        Encoder().body(batch, np.arange(count)[: count - 1 or 1], labels)
    assert [len(kernel.signatures) for kernel in (fill, group, write)] == before
