"""Native histograms as classic ones."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import cramjam
import httpx
import pytest
from starlette.applications import Starlette
from tests.coordinator.write.conftest import TEN_SECONDS, RecordingSink
from tests.coordinator.write.decoded import labels

from coordinator import prompb
from coordinator.downsample import Downsampler
from coordinator.not_kept import Reason
from coordinator.write import RemoteWriter, SeriesCache, remote_write_routes
from coordinator.write.decoding import Decoded
from coordinator.write.native_histograms import HISTOGRAM
from coordinator.write.options import WriteOptions, parse_options
from coordinator.write.prometheus import PrometheusSender
from m3x.instrument import Registry
from m3x.protobuf import marshal, varint

VECTORS = Path(__file__).parent / "vectors"
HEADERS = {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}
AT_MS = 1_700_000_000_000
SENDER = PrometheusSender(classic=True)


def zigzag(*numbers: int) -> list[int]:
    return [number << 1 ^ number >> 63 if number >= 0 else (-number << 1) - 1 for number in numbers]


def spans(*pairs: tuple[int, int]) -> list[dict[str, int]]:
    return [{"offset": zigzag(offset)[0], "length": length} for offset, length in pairs]


def request(**histogram: Any) -> bytes:
    """Of one native histogram ``h``, in 2.0."""
    if "schema" in histogram:
        histogram["schema"] = zigzag(histogram["schema"])[0]
    message = marshal(HISTOGRAM, {"timestamp": AT_MS, **histogram})
    series = {"labels_refs": [1, 2, 3, 4], "histograms": [message], "metadata": {"type": 3}}
    symbols = [b"", b"__name__", b"h", b"job", b"x"]
    return bytes(cramjam.snappy.compress_raw(marshal(prompb.REQUEST_2, {"symbols": symbols, "timeseries": [series]})))


def classic(body: bytes, number: int = 0) -> dict[str, float]:
    """Value by the end of the name and ``le``."""
    options = parse_options(HEADERS) if number == 0 else WriteOptions()
    return values(SENDER.decode(body, options))


def values(decoded: Decoded, name: str = "h") -> dict[str, float]:
    """Of the series whose name begins so."""
    found = {}
    for row in decoded.series:
        named = labels(decoded, row)
        if named["__name__"].startswith(name):
            assert (int(row["prom_type"]), int(row["samples"])) == (3, 1)
            key = " ".join([named["__name__"].removeprefix(name), *([named["le"]] if "le" in named else [])])
            found[key] = float(decoded.values[int(row["sample_from"])])
    return found


def test_exponential_buckets_are_joined_to_powers_of_two() -> None:
    # Of schema 1 bucket i ends at the square root of 2 to the power of i: three in (1, 2], four in (2, 4], five in (8, 16].
    body = request(
        schema=1, count_int=13, sum=70.5, zero_count_int=1, zero_threshold=0.001,
        positive_spans=spans((1, 3), (3, 1)), positive_deltas=zigzag(1, 1, 2, 1),
    )  # fmt: skip
    assert classic(body) == {
        "_bucket 0.001": 1, "_bucket 1.0": 1, "_bucket 2.0": 4, "_bucket 4.0": 8, "_bucket 8.0": 8, "_bucket 16.0": 13,
        "_bucket +Inf": 13, "_count": 13, "_sum": 70.5,
    }  # fmt: skip


def test_wide_buckets_stay_and_floats_count() -> None:
    # Of schema -1 bucket i ends at 4 to the power of i.
    body = request(
        schema=-1, count_float=2.5, sum=1e6, positive_spans=spans((10, 1)), positive_counts=[2.0],
        negative_spans=spans((0, 1)), negative_counts=[0.5],
    )  # fmt: skip
    assert classic(body) == {
        "_bucket -0.25": 0.5, "_bucket -0.0625": 0.5, "_bucket 262144.0": 0.5, "_bucket 1.048576e+06": 2.5, "_bucket +Inf": 2.5,
        "_count": 2.5, "_sum": 1e6,
    }  # fmt: skip


def test_custom_buckets_keep_their_bounds() -> None:
    body = request(
        schema=-53, count_int=6, sum=9.0, custom_values=[0.1, 0.5, 1.0],
        positive_spans=spans((0, 2), (1, 1)), positive_deltas=zigzag(1, 1, 1),
    )  # fmt: skip
    assert classic(body) == {
        "_bucket 0.1": 1, "_bucket 0.5": 3, "_bucket 1.0": 3, "_bucket +Inf": 6, "_count": 6, "_sum": 9,
    }  # fmt: skip


def test_the_end_of_a_series() -> None:
    stale = struct.unpack("<d", (0x7FF0000000000002).to_bytes(8, "little"))[0]
    found = classic(request(sum=stale, schema=0))
    assert sorted(found) == ["_bucket +Inf", "_count", "_sum"]
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": 9},
        {"schema": 0, "positive_spans": spans((0, 1 << 31))},
        {"schema": 0, "positive_deltas": zigzag(1)},
        {"schema": -53, "positive_spans": spans((4, 1)), "positive_deltas": zigzag(1)},
    ],
    ids=["schema", "no-counts", "no-spans", "no-bound"],
)
def test_what_is_no_histogram_is_counted(wrong: dict[str, Any]) -> None:
    decoded = SENDER.decode(request(**wrong), parse_options(HEADERS))
    assert (decoded.others, decoded.samples()) == ({Reason.NATIVE_HISTOGRAM: 1}, 0)


def test_in_version_1() -> None:
    message = marshal(HISTOGRAM, {"count_int": 1, "sum": 1.0, "timestamp": AT_MS})
    series = {"labels": [{"name": b"__name__", "value": b"h"}]}
    inner = marshal(prompb.TIME_SERIES, series) + b"\x22" + varint(len(message)) + message
    body = bytes(cramjam.snappy.compress_raw(b"\x0a" + varint(len(inner)) + inner))
    assert classic(body, number=4) == {"_bucket +Inf": 1, "_count": 1, "_sum": 1}


def test_what_prometheus_3_sends() -> None:
    """Its target had schema 0, buckets 0 and 2 with 3 and 4, -1 below zero with 1, two at zero, and a sum of twelve and a half."""
    facts = json.loads((VECTORS / "prometheus_3.json").read_text())
    decoded = SENDER.decode((VECTORS / "prometheus_3.body").read_bytes(), parse_options(facts["headers"]))
    assert values(decoded, "shop_native_seconds") == {
        "_bucket -0.25": 1, "_bucket -0.125": 1, "_bucket 1e-128": 3, "_bucket 0.5": 3, "_bucket 1.0": 6, "_bucket 2.0": 6,
        "_bucket 4.0": 10, "_bucket +Inf": 10, "_count": 10, "_sum": 12.5,
    }  # fmt: skip
    assert Reason.NATIVE_HISTOGRAM not in decoded.others


async def test_the_answer_says_how_many(sink: RecordingSink) -> None:
    cache = SeriesCache(4096, 8 << 20)
    writer = RemoteWriter(Downsampler([TEN_SECONDS]), cache, sink, Registry().scope("test"), classic_histograms=True)
    app = Starlette(routes=remote_write_routes(writer))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.post("/api/v1/prom/remote/write", content=request(count_int=0, sum=0.0), headers=HEADERS)
    written = [answer.headers[f"X-Prometheus-Remote-Write-{what}-Written"] for what in ("Samples", "Histograms")]
    assert (answer.status_code, written) == (200, ["0", "1"])
    assert len(sink.metrics) == 3
