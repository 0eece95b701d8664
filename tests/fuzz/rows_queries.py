"""Texts of requests: selectors, matchers, Graphite's targets, globs and times, headers; and the body of a remote read."""

from collections.abc import Callable
from typing import Any

import cramjam
import numpy as np
from tests.fuzz.parser import Parser

from coordinator.downsample.explain import parse_metric
from coordinator.matchers import Matcher, MatchOp
from coordinator.query import remote_read
from coordinator.query.constants import evaluate
from coordinator.query.errors import QueryError
from coordinator.query.graphite.compiler import Noop, TargetError, compile_target, functions_of, text_of
from coordinator.query.graphite.paths import GlobError, expansions, glob_matchers, id_matchers, is_path, path_predicate
from coordinator.query.graphite.times import TimeTextError, parse_duration, parse_offset, parse_time
from coordinator.query.parameters import Parameters, label_name
from coordinator.query.selector import parse_expression, parse_matchers, parse_selector
from coordinator.write.options import MAP_TAGS, STORAGE_POLICY, BadRequestError, parse_options
from m3metrics.errors import MetricsError
from m3metrics.filters import compile_filter
from m3metrics.policy import StoragePolicy
from m3metrics.policy import parse_duration as policy_duration
from m3msg.producer.filters import FilterError, ShardSetFilter
from m3x.config import Duration
from m3x.protobuf import marshal

__all__ = ["PARSERS"]

_NOW_NS = 1_700_000_000_000_000_000
_PROMQL = (
    b'up{job="api",path=~"/a.*",le!~"1|2"}[5m] offset 1h @ 1700000000', b"sum(rate(x[5m])) by (job)", b"1 + -2 * 3 > bool 1",
    b'{__name__="a b"}', b"time() - 5", b"vector(1)", b"a or b", b"(((up)))", b"up @ start()", b"1e3", b"0x1f", b"NaN",
    b"up[1h:5m]", b'"text"',
)  # fmt: skip
_PROMQL_WORDS = (
    b"(", b")", b"{", b"}", b"[", b"]", b'"', b"=~", b"!~", b"!=", b"=", b",", b"-", b"+", b"^", b"*", b"5m", b"offset ", b"@ ",
    b"or ", b"by ", b"9", b"0",
    b" ", b"\n", b"a=", b"[", b"[99999999999999999999]", b"1e19", b".", b"\\", b"bool ", b"(?i)", b"(a|b)*", b"{1000}", b"\xc3\xa9", b"#",
)  # fmt: skip
_TARGETS = (
    b"servers.web*.load", b"sumSeries(a.{b,c}.*)", b"alias(scale(a.b, 1.5), 'x y')", b"movingAverage(a.b,'5min')",
    b"asPercent(a.b, 100, true)", b"aliasSub(a.b, '^(.*)$', \"\\1\")", b"a.[0-9]*.c", b"summarize(a, '1h', \"sum\", false)",
    b"a**.b", b"**", b"randomWalk('x')", b"a.b+c", b"",
)  # fmt: skip
_TARGET_WORDS = (
    b"sumSeries(", b"scale(", b")", b",", b"'", b'"', b"\\", b"**", b"**.", b"*", b"?", b"[", b"]", b"{", b"}", b".", b"9", b"0", b"1e",
    b"-",
    b"true", b"!", b"=", b"\x00", b"\xc3\xa9", b" ",
)  # fmt: skip
_TIMES = (
    b"now", b"-1h", b"-1d12h", b"noon yesterday", b"14:38_20150618", b"1700000000", b"6pm today", b"january 1", b"12/31/23", b"now-30min",
    b"19700101", b"teatime tomorrow", b"monday", b"+5min", b"1.2.23", b"00:00_000101",
)  # fmt: skip
_TIME_WORDS = (
    b"9", b"0", b"-", b"+", b"min", b"y", b"mon", b"w", b":", b"/", b".", b"am", b"pm", b" ", b"_", b"february", b"29", b"now", b"\xd9\xa3",
)  # fmt: skip


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _tried(*calls: Callable[[], Any], errors: tuple[type[Exception], ...]) -> list[Any]:
    """What each of them says, or None for one of the errors."""
    found = []
    for call in calls:
        try:
            found.append(call())
        except errors:
            found.append(None)
    return found


def _read_promql(data: bytes) -> Any:
    text = _text(data)
    expression = parse_expression(text)
    times = np.array([0, 60_000], np.int64)
    return _tried(
        lambda: parse_selector(text).shift(5, 0, 10),
        lambda: parse_matchers(text),
        lambda: evaluate(expression, times),
        errors=(QueryError,),
    )


def _read_matcher(data: bytes) -> Any:
    return [Matcher(op, b"name", data).predicate()(b"some value") for op in MatchOp]


def _read_target(data: bytes) -> Any:
    text = _text(data)
    is_path(text)
    tree = compile_target(text)
    functions_of(tree)
    return text_of(tree) if not isinstance(tree, Noop) else None


def _read_glob(data: bytes) -> Any:
    text = _text(data)
    return _tried(
        lambda: glob_matchers(text),
        lambda: id_matchers(text),
        lambda: path_predicate(text)("servers.web1.load"),
        lambda: [expansions(text, depth) for depth in (1, 3, 8)],
        errors=(GlobError,),
    )


def _read_times(data: bytes) -> Any:
    text = _text(data)
    return _tried(
        lambda: parse_time(text, _NOW_NS, lambda _: 3600),
        lambda: parse_duration(text),
        lambda: parse_offset(text),
        errors=(TimeTextError,),
    )


def _read_parameters(data: bytes) -> Any:
    text = _text(data)
    parameters = Parameters([("one", text)], _NOW_NS // 1_000_000)
    return label_name(text), _tried(
        lambda: parameters.time_ms("one"),
        lambda: parameters.step_ms("one"),
        lambda: parameters.duration_ms("one"),
        lambda: parameters.limit("one"),
        errors=(QueryError,),
    )


def _read_durations(data: bytes) -> Any:
    text = _text(data)
    return _tried(lambda: policy_duration(text), lambda: StoragePolicy.parse(text), errors=(MetricsError,)), _tried(
        lambda: Duration.parse(text), errors=(ValueError,)
    )


def _read_shard_set(data: bytes) -> Any:
    ShardSetFilter.parse(_text(data))


def _read_filter(data: bytes) -> Any:
    return compile_filter(_text(data)).matches({b"__name__": b"requests", b"job": b"api", b"le": b"0.5"})


def _read_headers(data: bytes) -> Any:
    """As values of the headers whose texts are parsed."""
    text = data.decode("latin-1")
    return _tried(
        lambda: parse_options({MAP_TAGS: text}),
        lambda: parse_options({"M3-Metrics-Type": "aggregated", STORAGE_POLICY: text}),
        errors=(BadRequestError,),
    )


def _read_requests() -> list[bytes]:
    matcher = {"type": 2, "name": b"job", "value": b"a.*"}
    query = {"start": 0, "end": 1_700_000_000_000, "matchers": [matcher, {"name": b"__name__", "value": b"up"}]}
    bodies = [marshal(remote_read._READ_REQUEST, {"queries": queries}) for queries in ([query], [query] * 3, [])]
    return [bytes(cramjam.snappy.compress_raw(body)) for body in bodies]


PARSERS = (
    Parser("promql", lambda: _PROMQL, _read_promql, (QueryError,), words=_PROMQL_WORDS),
    Parser("matcher", lambda: [b"a.*", b"(a|b)+", b"[^x]{2,3}"], _read_matcher, (ValueError,), words=_PROMQL_WORDS),
    Parser("graphite-target", lambda: _TARGETS, _read_target, (TargetError,), words=_TARGET_WORDS),
    Parser("graphite-glob", lambda: _TARGETS, _read_glob, words=_TARGET_WORDS),
    Parser("graphite-times", lambda: _TIMES, _read_times, words=_TIME_WORDS),
    Parser(
        "query-parameters",
        lambda: [*_TIMES, b"1m30s", b"1.5", b"2023-01-01T00:00:00+01:00", b"U__a_2e_b"],
        _read_parameters,
        words=_TIME_WORDS,
    ),
    Parser(
        "durations",
        lambda: [b"10s:2d", b"1h30m", b"1.5h", b"10s@1s:1y", b"-5ms", b"6mon1w"],
        _read_durations,
        words=(*_TIME_WORDS, b"s", b"h", b"d", b"@", b"\xc2\xb5s"),
    ),
    Parser(
        "shard-set-filter",
        lambda: [b"5", b"0..31"],
        _read_shard_set,
        (FilterError,),
        words=(b"9", b"..", b"0", b"\xd9\xa3"),
    ),
    Parser(
        "metric-text",
        lambda: [b'up{job="api"}', b"a.b.c"],
        lambda data: parse_metric(_text(data)),
        (ValueError,),
        words=_PROMQL_WORDS,
    ),
    Parser(
        "tag-filter",
        lambda: [b"job:a* le:{0.5,1}", b"__name__:!x? a:[a-z0-9]b"],
        _read_filter,
        (MetricsError,),
        words=(*_TARGET_WORDS, b":", b"!", b"a-z"),
    ),
    Parser(
        "write-headers",
        lambda: [b'{"tagMappers":[{"write":{"tag":"a","value":"b"}}]}', b"10s:2d"],
        _read_headers,
        words=(b'"', b"[", b"{", b"9", b"0", b" ", b'"\\ud800"', b"s", b":", b"null"),
    ),
    Parser("remote-read", _read_requests, remote_read._parse, (QueryError,)),
)
