import base64
import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from tests.coordinator.write.decoded import Sample, samples

from coordinator import prompb
from coordinator.not_kept import Reason
from coordinator.sinks.values import TimeUnit
from coordinator.write.decoding import MAX_PLAIN_BODY_BYTES, Decoded
from coordinator.write.influx import Influx
from coordinator.write.options import BadRequestError, WriteOptions

NS = 1_700_000_000_123_456_789


def decode(body: bytes, precision: str = "", sender: Influx | None = None) -> Decoded:
    return (sender or Influx()).decode(body, WriteOptions(dialect=precision))


def up(value: float, name: str = "cpu_v", time: int = NS, **tags: str) -> Sample:
    return Sample({"__name__": name, **tags}, time, value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"cpu v=1 %d", [up(1)]),
        (b"cpu,host=a,zone=b v=1.5,w=-2e3 %d", [up(1.5, host="a", zone="b"), up(-2000, "cpu_w", host="a", zone="b")]),
        (b"cpu v=3i,w=4u,x=-5i %d", [up(3), up(4, "cpu_w"), up(-5, "cpu_x")]),
        (b"cpu v=t,w=False,x=TRUE %d", [up(1), up(0, "cpu_w"), up(1, "cpu_x")]),
        (b"cpu v=.5,w=1.,x=+1 %d", [up(0.5), up(1, "cpu_w"), up(1, "cpu_x")]),
        (b'cpu v=1,t="a text, with = and # and \\" in it" %d', [up(1)]),
        (b'cpu t="two\nlines",v=1 %d', [up(1)]),
        (b"  cpu v=1   %d \r", [up(1)]),
        (rb"my\ cpu\,x,a\ b=c\,d\=e\ f v\ w=1 %d", [up(1, "my_cpu_x_v_w", a_b="c,d=e f")]),
        (rb"cpu,path=C:\dir v=1 %d", [up(1, path=r"C:\dir")]),
        (rb'c\"pu,t=\" v\"=1 %d', [up(1, "c_pu_v_", t='\\"')]),
        (b"\t\0cpu,t=a\tb \tv=1,w\t=2 %d", [up(1, t="a\tb"), up(2, "cpu_w_", t="a\tb")]),
        # names as Prometheus has them
        (b"0cpu:load.avg,0tag:x=1 1m=1 %d", [up(1, "_cpu:load_avg_1m", _tag_x="1")]),
        ("größe,maß=ü v=1 %d".encode(), [up(1, "gr____e_v", ma__="ü")]),
    ],
)  # fmt: skip
def test_lines(line: bytes, expected: list[Sample]) -> None:
    decoded = decode(line % NS)
    assert samples(decoded) == expected
    assert decoded.unread == 0
    assert samples(decode(b"# about\n\n" + line % NS + b"\n")) == expected


@pytest.mark.parametrize(
    ("precision", "ns"),
    [("", 1), ("ns", 1), ("n", 1), ("u", 10**3), ("us", 10**3), ("ms", 10**6), ("s", 10**9), ("m", 60 * 10**9), ("h", 3600 * 10**9)],
)  # fmt: skip
def test_precision(precision: str, ns: int) -> None:
    (sample,) = samples(decode(b"cpu v=1 12345", precision))
    assert sample.time == 12345 * ns
    (now,) = samples(decode(b"cpu v=1", precision))
    assert now.time % ns == 0


def test_the_unit_of_a_time_is_the_coarsest_that_has_it() -> None:
    times = [10**9, 10**9 + 10**6, 10**9 + 10**3, 10**9 + 1, -(10**9), 0]
    decoded = decode(b"\n".join(b"cpu v=1 %d" % time for time in times))
    units, unit = decoded.units(decoded.times)
    second = TimeUnit.SECONDS
    assert [units[i] for i in unit] == [
        second, TimeUnit.MILLISECONDS, TimeUnit.MICROSECONDS, TimeUnit.NANOSECONDS, second, second,
    ]  # fmt: skip


BAD = {
    b"cpu": "no fields",
    b"cpu,a=b": "no fields",
    b"cpu v": "no field",
    b"cpu v=": "neither a number",
    b"cpu =1": "a field has no name",
    b"cpu v=1,": "no field",
    b",a=b v=1": "no measurement",
    b"cpu,a v=1": "tag 'a' has no value",
    b"cpu,a= v=1": "tag 'a' is not name=value",
    b"cpu,=b v=1": "tag '' is not name=value",
    b"cpu,a=b=c v=1": "tag 'a' is not name=value",
    b"cpu v=x": "'x' is neither a number",
    b"cpu v=1_0": "'1_0' is neither a number",
    b"cpu v=nan": "'nan' is neither",
    b"cpu v=inf": "'inf' is neither",
    b"cpu v=1e999": "too large for a number",
    b"cpu v=1.5i": "'1.5i' is neither",
    b"cpu v=9223372036854775808i": "does not fit into 64 bits",
    b"cpu v=18446744073709551616u": "does not fit into 64 bits",
    b"cpu v=1 x": "no whole number",
    b"cpu v=1 1.5": "no whole number",
    b"cpu v=1 1 1": "more than three parts",
    b"cpu v=1 9223372036854775808": "does not fit into 64 bits of nanoseconds",
    b'cpu v="open': "fields are missing",
    b'cpu v="a" x': "no time",
    b'cpu v="a"b': "no time",
    rb"cpu\ x": "fields are missing",
}


@pytest.mark.parametrize("line", BAD, ids=repr)
def test_a_bad_line_harms_no_other(line: bytes) -> None:
    """Whether there are backslashes or quotation marks elsewhere in the body or not."""
    good = b"cpu v=1 %d\n" % NS
    for before in (good, rb'cpu v=1,t="\"" %d' % NS + b"\n"):
        decoded = decode(before + line + b"\n" + good)
        assert samples(decoded) == [up(1), up(1)]
        assert (decoded.unread, decoded.others[Reason.MALFORMED]) == (1, 1)
        assert "line 2 cannot be read" in decoded.last_unread
        if before == good or b'"' in line or b"\\" in line:
            assert BAD[line] in decoded.last_unread


def test_a_point_is_taken_as_a_whole_or_not_at_all() -> None:
    decoded = decode(b"cpu v=1,w=x 1")
    assert (samples(decoded), decoded.unread) == ([], 1)


def test_what_is_known_of_points_is_bounded() -> None:
    sender = Influx(most_known=6)
    fields = b",".join(b"f%d=1" % n for n in range(10))
    assert len(samples(decode(b"cpu " + fields, sender=sender))) == 10
    assert len(sender._points) == 0
    for _ in range(2):
        found = samples(decode(b"".join(b"cpu,n=%d v=1 %d\n" % (n, NS) for n in range(10)), sender=sender))
        assert found == [up(1, n=str(n)) for n in range(10)]
        assert len(sender._points) <= 3


@given(
    st.lists(
        st.binary(max_size=20) | st.sampled_from([b",", b"=", b" ", b'"', b"\\", b"\n", b"a=1", b"m a=1"]), max_size=30
    )
)
def test_whatever_comes_each_line_is_read_or_refused(parts: list[bytes]) -> None:
    """Nothing but ``BadRequestError``; a good line in front is kept, whatever is behind it."""
    body = b"".join(parts)
    decoded = decode(b"cpu v=1 %d\n" % NS + body)
    rows = samples_of_bytes(decoded)
    assert rows[0] == (NS, 1.0)
    assert decoded.unread == decoded.others.get(Reason.MALFORMED, 0)
    assert all(not math.isnan(value) for _, value in rows)


def samples_of_bytes(decoded: Decoded) -> list[tuple[int, float]]:
    return list(zip(decoded.times.tolist(), decoded.values.tolist(), strict=True))


SPACES = "\n\r\t\x0b\x0c\x1c\x1d\x1e\x1f\x85"
TOKEN = st.text(st.characters(codec="utf-8", exclude_characters=SPACES, exclude_categories=["Cs"]), min_size=1)


def escaped(text: str) -> bytes:
    return "".join("\\" + c if c in " ,=" else c for c in text).encode()


@given(TOKEN, TOKEN, st.floats(allow_nan=False, allow_infinity=False), st.integers(-(1 << 63), (1 << 63) - 1))
def test_what_is_written_is_read(tag: str, value: str, number: float, time: int) -> None:
    if "\\" in tag + value or tag.startswith(" "):
        return
    decoded = decode(b"cpu,t=%s f%s=%s %d" % (escaped(value), escaped(tag), repr(number).encode(), time))
    (sample,) = samples(decoded)
    assert (sample.labels["t"], sample.value, sample.time) == (value, number, time)


def request(query: bytes = b"", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "query_string": query, "method": "POST", "path": "/"})


def test_options() -> None:
    sender = Influx()
    options = sender.options(request(b"db=x&precision=ms", content_encoding="gzip"))
    assert (options.dialect, options.encoding, options.unfamiliar) == ("ms", "gzip", "")
    assert sender.options(request(content_type="text/plain; charset=utf-8")).unfamiliar == ""
    for wrong in (request(b"precision=x"), request(content_encoding="br"), request(m3_metrics_type="x")):
        with pytest.raises(BadRequestError):
            sender.options(wrong)


def test_gzip() -> None:
    line = b"cpu v=1 %d\n" % NS
    options = WriteOptions(encoding="gzip")
    assert samples(Influx().decode(gzip.compress(line) + gzip.compress(line), options)) == [up(1), up(1)]
    for wrong in (line, gzip.compress(line)[:-5]):
        with pytest.raises(BadRequestError, match="gzip: "):
            Influx().decode(wrong, options)


def test_large_bodies() -> None:
    data = (b"#" * 1023 + b"\n") * (MAX_PLAIN_BODY_BYTES // 1024)
    assert len(data) == MAX_PLAIN_BODY_BYTES
    for body, encoding in ((data, ""), (gzip.compress(data), "gzip")):
        assert samples(Influx().decode(body, WriteOptions(encoding=encoding))) == []
    for body, encoding in (
        (data + b"\n", ""),
        (gzip.compress(data + b"\n"), "gzip"),
        (gzip.compress(data) * 2, "gzip"),
    ):
        with pytest.raises(BadRequestError, match="more than 16777216 bytes") as info:
            Influx().decode(body, WriteOptions(encoding=encoding))
        assert info.value.status == 413


LINES = (Path(__file__).parent / "lines.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
"""Random lines with escapes, quotation marks and odd names, and what InfluxDB's own parser (1.9.5, which M3 has) reads in them: names,
tags, fields with the bits of their values, and times in nanoseconds."""


def rewritten(name: str, others: str) -> str:
    """By M3's rule, byte by byte."""
    text = re.sub(f"[^a-zA-Z0-9_{others}]", "_", name.encode().decode("latin-1"))
    return re.sub("^[0-9]", "_", text)


@pytest.mark.parametrize("number", range(len(LINES)))
def test_lines_are_read_as_influxdb_does(number: int) -> None:
    document = json.loads(LINES[number])
    decoded = decode(base64.b64decode(document["line"]))
    tags = [(rewritten(name, ""), value) for name, value in document["tags"]]
    expected = [
        (sorted([("__name__", rewritten(f"{document['name']}_{name}", ":")), *tags]), bits)
        for name, bits in document["fields"]
        if bits != "text"
    ]
    found = []
    for row in decoded.series:
        at, size = int(row["labels_at"]), int(row["labels_size"])
        labels = prompb.labels_of(decoded.buf[at : at + size].tobytes())
        found.append(sorted((name.decode(), value.decode()) for name, value in labels))
    assert [labels for labels, _ in expected] == found
    assert [bits for _, bits in expected] == decoded.values.view(np.uint64).tolist()
    if document["time"] is not None:
        assert set(decoded.times.tolist()) <= {document["time"]}
