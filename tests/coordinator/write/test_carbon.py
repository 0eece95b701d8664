"""Carbon lines: compiled against plain parsing, rules, and the server."""

import asyncio
import contextlib
import math
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.certificates import Authority
from lab.waiting import until
from tests.strangers import LISTENERS, STRANGERS, Certificates, trusting

from coordinator.config.carbon import AggregationConfig, CarbonIngesterConfig, CarbonPolicyConfig, CarbonRuleConfig
from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler
from coordinator.not_kept import Reason
from coordinator.sinks import SeriesTable, Values
from coordinator.sinks.values import TimeUnit
from coordinator.write import CarbonIngester, CarbonServer, SeriesCache, carbon, kernels
from coordinator.write.carbon import MAX_LINE_BYTES
from coordinator.write.carbon_line import CarbonLineError, parse_line, parse_value
from coordinator.write.carbon_rules import CarbonRulesError, clean_path, compile_rules, tags_of
from coordinator.write.direct import DirectWriteError, RefusedSample
from m3metrics.ids import decode_tags
from m3metrics.policy import StoragePolicy
from m3x import tls as tls_module
from m3x.config import Duration
from m3x.instrument import Registry
from m3x.tls import ServerTLS, ServerTLSConfig

SECOND = 10**9
NAMESPACES = [Namespace("ten", 10 * SECOND, 21600 * SECOND), Namespace("minute", 60 * SECOND, 172800 * SECOND)]
TEN = CarbonPolicyConfig(resolution=Duration(10 * SECOND), retention=Duration(21600 * SECOND))
MINUTE = CarbonPolicyConfig(resolution=Duration(60 * SECOND), retention=Duration(172800 * SECOND))


def _rule(pattern: str = "", kind: str = "mean", **more: Any) -> CarbonRuleConfig:
    return CarbonRuleConfig(
        **{"pattern": pattern, "aggregation": AggregationConfig(type=kind), "policies": [TEN], **more}
    )


@pytest.fixture
def make_ingester(sink: Any, registry: Registry) -> Callable[..., CarbonIngester]:
    def make(*rules: CarbonRuleConfig, cleanup: bool = False, direct: Any = None) -> CarbonIngester:
        compiled = compile_rules(CarbonIngesterConfig(rules=list(rules) or None), NAMESPACES)
        return CarbonIngester(
            compiled,
            Downsampler(NAMESPACES),
            SeriesCache(4096, 8 << 20),
            sink,
            registry.scope("carbon"),
            cleanup=cleanup,
            direct=direct,
        )

    return make


def _buffer(data: bytes) -> Any:
    return np.frombuffer(bytearray(data) or bytearray(1), np.uint8)[: len(data)]


def _path(metric: Any) -> bytes:
    return b".".join(value for name, value in decode_tags(metric.id) if name.startswith(b"__g"))


# --- lines ---


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"foo.bar.zed 45565.02 1428951394", (b"foo.bar.zed", 45565.02, 1428951394)),
        (b"foo.bar.quad  10 1428951394", (b"foo.bar.quad", 10.0, 1428951394)),
        (b"foo.bar.negative -18000.000000 1429480924", (b"foo.bar.negative", -18000.0, 1429480924)),
        (b"short 1 1", (b"short", 1.0, 1)),
        (b"a 0x1p-2 +5", (b"a", 0.25, 5)),
        (b"a 1_000 -5", (b"a", 1000.0, -5)),
        (b"a -Infinity 007", (b"a", -math.inf, 7)),
        ("ключ 1e3 1".encode(), ("ключ".encode(), 1000.0, 1)),
        (b"a\t1\t1", (b"a", 1.0, 1)),
        (b" \t a 1 \t 1 \r", (b"a", 1.0, 1)),
        (b"a 1 1428951394.987", (b"a", 1.0, 1428951394)),
        (b"a 1 -1.5", (b"a", 1.0, -1)),
        (b"a 1 1.5e9", (b"a", 1.0, 1_500_000_000)),
        (b"a 1 .5", (b"a", 1.0, 0)),
    ],
)
def test_lines(line: bytes, expected: tuple[bytes, float, int]) -> None:
    assert parse_line(line) == expected


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "-NAN"])
def test_nan_is_that_of_the_original(text: str) -> None:
    assert struct.pack("<d", parse_value(text)).hex() == "010000000000f87f"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        *(
            (text, "malformed")
            for text in (
                b"",
                b" ",
                b"  ",
                b"a ",
                b"a 1",
                b"a 1 ",
                b"a  1",
                b" 1 1",
                b"foo",
                b"foo 1 2 bar",
                b"foo\tbar 1 2",
                b"foo\r1 2 3",
            )
        ),
        *(
            (b"foo " + text + b" 1", "bad_value")
            for text in (b"bar", b"+nan", b"1e400", b"0x1", b"--inf", b"1__0", b"\xd9\xa3", b".", b"e5")
        ),
        *(
            (b"foo 1 " + text, "bad_timestamp")
            for text in (
                b"zed",
                b"1.5s",
                b"9223372036854775808",
                b"1e19",
                b"1e400",
                b"nan",
                b"inf",
                b"0x1",
                b".",
                b"1_0",
                b"9" * 5000,
                b"\xd9\xa3",
            )
        ),
        (b"foo\xff 1 1", "not_utf8"),
        (b"foo 1 1\xff", "not_utf8"),
    ],
)
def test_bad_lines(line: bytes, reason: str) -> None:
    with pytest.raises(CarbonLineError) as caught:
        parse_line(line)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"a 1", "expected three words, path value seconds; there are 2"),
        (b"a one 1", "the value 'one' is not a number"),
        (b"a 1e400 1", "the value '1e400' is beyond what 64 bits hold"),
        (b"a 1 today", "the time 'today' is not a number of Unix seconds"),
        (b"a 1 1e30", "the time '1e30' is beyond what 64 bits hold"),
        (b"a\xff 1 1", "the line is not valid UTF-8"),
    ],
)
def test_errors_say_what_is_wrong(line: bytes, text: str) -> None:
    with pytest.raises(CarbonLineError) as caught:
        parse_line(line)
    assert str(caught.value) == text


_token = st.one_of(
    st.text(alphabet="ab.-:# \t\r\v\x000é", max_size=6),
    st.integers(-(1 << 64), 1 << 64).map(str),
    st.floats().map(repr),
    st.floats(-1e6, 1e6).map(lambda value: f"{value:.4f}"),
    st.sampled_from(
        ["1.", ".5", "-", "+3", "nan", "0.000000000000000000000001", "123456789012345", "1234567890123456.5", "1e3"]
    ),
)
_line = st.lists(_token, min_size=1, max_size=4).map(" ".join)


@given(st.lists(_line, max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_compiled_lines_are_the_plain_ones(lines: list[str], end: str) -> None:
    data = "".join(line + end for line in lines).encode() + b"rest"
    room = len(lines) + 1
    path_at, path_size, values, times = (
        np.zeros(room, np.uint32),
        np.zeros(room, np.uint32),
        np.zeros(room),
        np.zeros(room, np.int64),
    )
    odd, odd_end = np.zeros(room, np.int64), np.zeros(room, np.int64)
    n, n_odd, stop = kernels.carbon_lines(_buffer(data), 0, len(data), path_at, path_size, values, times, odd, odd_end)
    assert data[stop:] == b"rest"
    split = [line.removesuffix(b"\r") for line in data[:stop].split(b"\n")[:-1]]
    assert n == len(split)
    left = dict(zip(odd[:n_odd].tolist(), odd_end[:n_odd].tolist(), strict=True))
    for k, line in enumerate(split):
        begin = int(path_at[k])
        if k in left:
            assert data[begin : left[k]] == line
        else:
            name, value, seconds = parse_line(line)
            assert data[begin : begin + int(path_size[k])] == name
            assert struct.pack("<d", values[k]) == struct.pack("<d", value)
            assert times[k] == seconds


def test_columns_that_are_full_stop_the_scan() -> None:
    data = b"a 1 1\n" * 5
    columns = (
        np.zeros(2, np.uint32),
        np.zeros(2, np.uint32),
        np.zeros(2),
        np.zeros(2, np.int64),
        np.zeros(2, np.int64),
        np.zeros(2, np.int64),
    )
    assert kernels.carbon_lines(_buffer(data), 0, len(data), *columns) == (2, 0, 12)


# --- paths and rules ---


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        (b"foo$$.bar%%.baz@@", b"foo_.bar_.baz_"),
        (b"foo...bar..baz", b"foo.bar.baz"),
        (b"..foo.bar.baz", b"foo.bar.baz"),
        (b"foo.bar.baz..", b"foo.bar.baz"),
        (b"foo.bar.baz", b"foo.bar.baz"),
        (b"a_@b", b"a_b"),
        (b"a@_b", b"a__b"),
        (b".", b""),
    ],
)
def test_cleanup(path: bytes, clean: bytes) -> None:
    assert clean_path(path) == clean


def test_tags_of_paths() -> None:
    assert tags_of(b"a.b.") == [(b"__g0__", b"a"), (b"__g1__", b"b")]
    assert tags_of(b".a") == [(b"__g0__", b""), (b"__g1__", b"a")]
    with pytest.raises(ValueError, match="carbon metric: a..b has duplicate separator"):
        tags_of(b"a..b")
    with pytest.raises(ValueError, match="cannot generate tags from empty name"):
        tags_of(b"")


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (_rule("a", contains="b"), r"rules\[0\]\.contains: pattern and contains"),
        (_rule("("), r"pattern: '\(' cannot be compiled"),
        (_rule("a", policies=[TEN, TEN]), "10s:6h is given twice"),
        (
            _rule("a", policies=[CarbonPolicyConfig(resolution=Duration(7 * SECOND), retention=Duration(SECOND))]),
            "no aggregated namespace 7s:1s",
        ),
        (_rule("a", policies=[TEN, MINUTE], aggregation=AggregationConfig(enabled=False)), "one resolution"),
    ],
)
def test_rules_that_cannot_work(rule: CarbonRuleConfig, error: str) -> None:
    with pytest.raises(CarbonRulesError, match=error):
        compile_rules(CarbonIngesterConfig(rules=[rule]), NAMESPACES)


def test_patterns_mean_what_they_mean_in_go() -> None:
    (rule,) = compile_rules(CarbonIngesterConfig(rules=[_rule(r"^[[:alpha:]]+\.\d\z")]), NAMESPACES)
    assert rule.matches("abc.7")
    assert not rule.matches("abc.٧")
    assert not rule.matches("a1.7")


async def test_first_match_wins_unless_it_continues(make_ingester: Callable[..., CarbonIngester], sink: Any) -> None:
    ingester = make_ingester(_rule("x", "min", continue_=True), _rule("", "max", contains="x.y"), _rule("y", "sum"))
    await ingester.ingest(_buffer(b"x.y 1 1\nx 2 1\ny 3 1\nz 4 1\n"))
    assert [(m.value, m.metadatas[0].pipelines[0].aggregation_id) for m in sink.metrics] == [
        (1, 4),
        (1, 8),
        (2, 4),
        (3, 128),
    ]


async def test_lines_as_carbon_reads_them(make_ingester: Callable[..., CarbonIngester], sink: Any) -> None:
    await make_ingester().ingest(_buffer(b"a.b\t1\t1\n  c.d  2 2 \r\n\ta.b 3 3.75\ne\tf 4 4\nc.d 5 5\r\n"))
    assert [(_path(m), m.value, m.time_ns // SECOND) for m in sink.metrics] == [
        (b"a.b", 1, 1),
        (b"c.d", 2, 2),
        (b"a.b", 3, 3),
        (b"c.d", 5, 5),
    ]


async def test_a_flood_of_one_reason_does_not_hide_another(
    make_ingester: Callable[..., CarbonIngester], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(
        carbon.log, "warning_limited", lambda message, **fields: told.append((message, fields["reason"]))
    )
    raw = _rule("raw", aggregation=AggregationConfig(enabled=False))
    ingester = make_ingester(raw, direct=_Storage())
    await ingester.ingest(_buffer(b"a 1\na x 1\na 1 x\na\xff 1 1\nraw..b 1 1\nraw 1 9223372036854775\nraw..b 1 1\n"))
    assert told[:4] == [
        ("carbon line skipped: malformed", "expected three words, path value seconds; there are 2"),
        ("carbon line skipped: bad_value", "the value 'x' is not a number"),
        ("carbon line skipped: bad_timestamp", "the time 'x' is not a number of Unix seconds"),
        ("carbon line skipped: not_utf8", "the line is not valid UTF-8"),
    ]
    assert {message for message, _ in told[4:]} == {
        "carbon line skipped: bad_path", "carbon line not stored: outside-retention",
    }  # fmt: skip


async def test_a_path_that_no_rule_matches_is_named(
    make_ingester: Callable[..., CarbonIngester], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(
        carbon.log, "info_limited", lambda message, **fields: told.append((message, fields["lines"], fields["last"]))
    )
    raw = _rule("raw", aggregation=AggregationConfig(enabled=False))
    await make_ingester(raw, _rule("agg"), direct=_Storage()).ingest(
        _buffer(b"other 1 1\nraw 1 1\nagg 1 1\nmore 1 1\n")
    )
    assert told == [("carbon lines match no rule", 2, "more")]


async def test_all_lines_of_a_read_in_order(make_ingester: Callable[..., CarbonIngester], sink: Any) -> None:
    ingester = make_ingester()
    lines = [b"series.%d %d.5 %d" % (i % 700, i, 1_700_000_000 + i) for i in range(10_000)]
    data = b"\n".join(lines) + b"\npart"
    assert await ingester.ingest(_buffer(data)) == len(data) - 4
    assert [(m.value, m.time_ns) for m in sink.metrics] == [
        (i + 0.5, (1_700_000_000 + i) * SECOND) for i in range(10_000)
    ]
    assert _path(sink.metrics[701]) == b"series.1"
    assert len(sink.metrics[0].metadatas[0].pipelines[0].storage_policies) == 2


class _Storage:
    """Refuses negative values, and fails while ``broken``."""

    broken = False

    def __init__(self) -> None:
        self.table = SeriesTable()

    def refusal(self, _: StoragePolicy | None) -> str | None:
        return None

    async def write(self, batch: Values, *, patient: bool = False) -> list[RefusedSample]:
        if self.broken:
            raise DirectWriteError("disk full")
        assert [one.unit for one in batch.destinations] == [TimeUnit.SECONDS]
        assert batch.annotations is None
        return [
            RefusedSample(row, Reason.OUTSIDE_RETENTION, "negative")
            for row in np.flatnonzero(batch.values < 0).tolist()
        ]


async def test_every_line_is_counted_once(
    make_ingester: Callable[..., CarbonIngester], sink: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted() -> list[float]:
        names = ("carbon_success", "carbon_error", "carbon_unmatched")
        return [*map(registry.counter, names), registry.counter("carbon_malformed", reason="bad_path")]

    storage = _Storage()
    raw = _rule("raw", aggregation=AggregationConfig(enabled=False), continue_=True)
    minute = _rule("both", aggregation=AggregationConfig(enabled=False), policies=[MINUTE], continue_=True)
    ingester = make_ingester(raw, minute, _rule("agg"), direct=storage)
    lines = b"raw 1 1\nraw 0x1p80 9223372036854775\nagg 1 1\nraw.both.agg 1 1\nother 1 1\nraw..agg 1 1\nraw.both -1 1\n"
    await ingester.ingest(_buffer(lines))
    assert counted() == [3, 2, 1, 1]
    monkeypatch.setattr(sink, "produce", lambda _: False)
    await ingester.ingest(_buffer(lines))
    assert counted() == [3 + 1, 2 + 4, 2, 2]
    storage.broken = True
    await ingester.ingest(_buffer(lines))
    assert counted() == [4, 6 + 5, 3, 3]


# --- the server ---


async def _send(port: int, data: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_server_skips_bad_lines_and_keeps_the_connection(
    make_ingester: Callable[..., CarbonIngester], sink: Any, registry: Registry
) -> None:
    server = CarbonServer(make_ingester(), registry.scope("carbon"))
    async with server.serve("127.0.0.1", 0) as port:
        garbage = b"\x00\xff\n" + b"x" * (MAX_LINE_BYTES + 100_000) + b"\nno value\na..b 1 1\n"
        await _send(port, b"first 1 1\n" + garbage + b"last 2 2")
        await until(lambda: len(sink.metrics) == 2)
    assert [(_path(m), m.value) for m in sink.metrics] == [(b"first", 1), (b"last", 2)]
    counted = {
        reason: registry.counter("carbon_malformed", reason=reason)
        for reason in ("malformed", "not_utf8", "too_long", "bad_path")
    }
    assert counted == {"malformed": 1, "not_utf8": 1, "too_long": 1, "bad_path": 1}
    assert registry.counter("carbon_success") == 2


async def test_server_holds_senders_back_while_nothing_can_be_sent(
    make_ingester: Callable[..., CarbonIngester], sink: Any, registry: Registry
) -> None:
    server = CarbonServer(make_ingester(), registry.scope("carbon"))
    sink.refusal = "no topic"
    async with server.serve("127.0.0.1", 0) as port:
        await _send(port, b"a 1 1\n")
        await until(lambda: sink.asked > 0)
        assert sink.metrics == []
        sink.refusal = None
        await until(lambda: len(sink.metrics) == 1)


async def test_server_ends_with_connections_open(
    make_ingester: Callable[..., CarbonIngester], registry: Registry
) -> None:
    server = CarbonServer(make_ingester(), registry.scope("carbon"))
    async with server.serve("127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"half a li")
        await writer.drain()
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


# --- TLS ---


async def _over_tls(port: int, trusted: Authority, data: bytes) -> None:
    """Sends lines, and waits for the end of the connection. Raises ``ssl.SSLError`` where the server is not trusted."""
    context = ssl.create_default_context(cafile=str(trusted.cert))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    writer.write(data)
    await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_lines_over_tls(
    make_ingester: Callable[..., CarbonIngester], sink: Any, registry: Registry, tmp_path: Path
) -> None:
    """Of those who trust the server; its certificate is taken up anew; a plain line harms nobody."""
    first = Authority(tmp_path, "first")
    pair = first.sign("server", "DNS:localhost")
    config = ServerTLSConfig(
        mode="enforced", cert_file=str(pair.cert), key_file=str(pair.key), certificates_ttl=Duration(1)
    )
    server = CarbonServer(make_ingester(), registry.scope("carbon"))
    async with server.serve("127.0.0.1", 0, ServerTLS(config)) as port:
        await _over_tls(port, first, b"a.b 1 1700000000\n")
        await until(lambda: len(sink.metrics) == 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"a.b 2 1700000000\n" * 10)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        second = Authority(tmp_path, "second")
        second.sign("server", "DNS:localhost")
        with pytest.raises(ssl.SSLCertVerificationError):
            await _over_tls(port, first, b"a.b 3 1700000000\n")
        await _over_tls(port, second, b"a.b 4 1700000000\n")
        await until(lambda: len(sink.metrics) == 2)
    assert [metric.value for metric in sink.metrics] == [1.0, 4.0]


def test_permissive_tls_is_refused() -> None:
    with pytest.raises(ValueError, match="disabled or enforced"):
        CarbonIngesterConfig(tls=ServerTLSConfig(mode="permissive", cert_file="c", key_file="k"))


@pytest.mark.parametrize("listener", LISTENERS, ids=str)
async def test_strangers_are_named_and_harm_nobody(
    listener: dict[str, bool] | None,
    make_ingester: Callable[..., CarbonIngester],
    sink: Any,
    registry: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    certificates = Certificates(tmp_path)
    tls, context = None, None
    if listener is not None:
        tls = ServerTLS(certificates.config(**listener))
        context = trusting(certificates.authority, certificates.client)
        if listener.get("expired"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    server = CarbonServer(make_ingester(), registry.scope("carbon"))
    async with server.serve("127.0.0.1", 0, tls) as port:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=None if context is None else "localhost"
        )
        for number, stranger in enumerate([one for one in STRANGERS if one.listener == listener], 1):
            tls_module._log._limits.clear()
            capsys.readouterr()
            reason = stranger.refusal.value
            before = registry.counter("carbon_upgrade_to_tls_errors", reason=reason)
            await asyncio.to_thread(stranger.come, certificates, port)
            await until(
                lambda reason=reason, n=before + 1: registry.counter("carbon_upgrade_to_tls_errors", reason=reason) == n
            )
            said = [line for line in capsys.readouterr().err.splitlines() if "connection refused" in line]
            assert len(said) == 1
            assert f"carbon: connection refused: {stranger.refusal.text}" in said[0]
            writer.write(b"a.b 1 1700000000\n")
            await until(lambda n=number: len(sink.metrics) == n)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
