"""Graphite's times, targets and requests, as M3 reads and answers them.

Where ours differ on purpose (docs/compatibility.md, Graphite) the rule is said here on the text of the input.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from starlette.requests import Request
from tests.golden.vectors import ROOT, Vector, cases, lines

from coordinator.matchers import Matcher, MatcherError, MatchOp
from coordinator.query import QueryError, ReadOptions
from coordinator.query.graphite import Graphite
from coordinator.query.graphite.compiler import (
    Call,
    Constant,
    Fetch,
    Noop,
    TargetError,
    compile_target,
    functions_of,
    text_of,
)
from coordinator.query.graphite.functions import Kind, Value, find_function, function_names
from coordinator.query.graphite.lexer import TokenKind, tokens_of
from coordinator.query.graphite.requests import read_find, read_render
from coordinator.query.graphite.times import (
    TimeTextError,
    format_time,
    parse_duration,
    parse_offset,
    parse_time,
    zone_named,
)
from coordinator.query.source import Alternatives, Listing, Selection, Series

SECOND_NS = 10**9


def path_pattern(character: str) -> re.Pattern[str]:
    """A path with globs, of parts of that ``character``."""
    group = rf"\{{(?:{character}|,)*\}}|\[{character}*\]"
    outer = rf"\{{(?:{character}|,|{group})*\}}"
    part = rf"(?:{character}|{group}|{outer})+"
    return re.compile(rf"{part}(?:\.{part})*")


OTHER_PATH = path_pattern(r"[^\s()'\"\\;,.{}\[\]]")
"""A target that is a path, of characters that M3's lexer takes or does not."""
FIND_PATH = path_pattern(r"[^\s()\";,.{}\[\]]")
"""The same of what is looked for by find, where quotes and backslashes are like other characters."""
STRANGE = re.compile(r"\\.|\|.*[*?{\[]|[*?{\[].*[\\|]|\[\]|\[[^\]]*\*\*")
"""A backslash, or a bar beside globs, which are characters like others here; groups of nothing, and ``**`` in brackets."""
M3_TERM = re.compile(r"\d+(s|min|h|d|w|mon|y)[a-z]*", re.ASCII)
TERM = re.compile(r"(\d+)(ms(?![a-z])|m(?![a-z])|mon|min|s|h|d|w|y)[a-z]*", re.ASCII)
UNIT_S = {
    "ms": 0.001, "m": 60, "s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800, "mon": 2_592_000, "y": 31_536_000,
}  # fmt: skip
MONTH_DAYS = {
    "january": 31, "february": 28, "march": 31, "april": 30, "may": 31, "june": 30, "july": 31, "august": 31, "september": 30,
    "october": 31, "november": 30, "december": 31,
}  # fmt: skip


def span_ns(terms: str) -> int | None:
    """What numbers and units add up to; None if they are anything else."""
    found = list(TERM.finditer(terms))
    if not terms or "".join(term[0] for term in found) != terms or any(int(term[1]) >= 1 << 31 for term in found):
        return None
    return sum(round(int(number) * UNIT_S[unit] * SECOND_NS) for number, unit in (term.groups() for term in found))


def read_otherwise(text: str, year: int) -> bool:
    """Whether a text is one that M3 takes for now, for another time than it says, or for less than it says, in that year."""
    plain = re.sub("[ ,]", "", text.lower())
    reference, sign, offset = plain.partition("+" if "+" in plain else "-")
    terms = offset.strip()
    if text and not plain:
        return True
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII) and -(1 << 63) <= int(text) < 1 << 63:
        return bool(re.fullmatch(r"[+-]\d{5}", text)) or (len(text) == 8 and no_such_date(text))
    if sign and ("-" in reference or not M3_TERM.fullmatch(terms) or terms != offset or wraps(terms)):
        return True
    return any(
        int(day) > MONTH_DAYS[month] + (month == "february" and year % 4 == 0) or int(day) == 0
        for month, day in re.findall(rf"({'|'.join(MONTH_DAYS)})(\d{{1,2}})$", reference)
    )


def no_such_date(text: str) -> bool:
    """Digits that look like YYYYMMDD, of a day that no calendar has."""
    year, month, day = int(text[:4]), int(text[4:6]), int(text[6:])
    if not (year > 1900 and month < 13 and day < 32):
        return False
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return month == 0 or not 1 <= day <= list(MONTH_DAYS.values())[month - 1] + (month == 2 and leap)


def wraps(terms: str) -> bool:
    """Whether a span is beyond what M3 can count, or than a number may be."""
    length_ns = span_ns(terms)
    return length_ns is None or length_ns >= 1 << 63


def own_time_ns(text: str, now_ns: int, parse: Callable[[str], int]) -> int | None:
    """What a text that M3 reads otherwise means to us; None: it is refused."""
    if re.fullmatch(r"[+-]\d{5}", text):
        return int(text) * SECOND_NS
    found = re.fullmatch(r"([^+-]*)([+-])([^+-]+)", re.sub("[ ,]", "", text.lower()))
    length_ns = None if found is None else span_ns(found[3].strip())
    if found is None or length_ns is None:
        return None
    try:
        return parse(found[1] or "now") + (length_ns if found[2] == "+" else -length_ns)
    except TimeTextError:
        return None


@pytest.mark.parametrize("vector", cases("graphite/times.jsonl", "function", "tz", "text"))
def test_times(vector: Vector) -> None:
    text, zone = vector["text"], zone_named(vector["tz"])
    now_ns = vector["now_unix"] * SECOND_NS + vector["now_nanos"]
    match vector["function"]:
        case "ParseTime":
            offset_ns = vector["offset_seconds"] * SECOND_NS
            check_time(vector, lambda read: parse_time(read, now_ns, zone, offset_ns), now_ns)
        case "ParseDuration":
            check_span(vector, lambda: parse_duration(text))
        case "ParseOffset":
            check_span(vector, lambda: parse_offset(text))
        case "FormatTime":
            assert format_time(now_ns, zone) == vector["result"]


def check_time(vector: Vector, parse: Callable[[str], int], now_ns: int) -> None:
    text = vector["text"]
    if "error" in vector:
        assert (refusal(lambda: parse(text)), vector["invalid_params"]) == (vector["error"], True)
    elif not read_otherwise(text, datetime.fromtimestamp(vector["now_unix"], ZoneInfo(vector["tz"])).year):
        time_ns = parse(text)
        assert divmod(time_ns, SECOND_NS) == (vector["unix"], vector.get("nanos", 0))
        assert (time_ns == now_ns) == vector["is_now"]
    elif (own_ns := own_time_ns(text, now_ns, parse)) is not None:
        assert parse(text) == own_ns
    else:
        assert refusal(lambda: parse(text))


def check_span(vector: Vector, parse: Callable[[], int]) -> None:
    text = vector["text"]
    own_ns = span_ns(text[1:].lower()) if text[:1] in ("-", "+") else None
    if (
        own_ns is not None
        and not M3_TERM.fullmatch(text[1:].lower())
        and (vector["function"], text[0]) != ("ParseDuration", "+")
    ):
        assert parse() == (own_ns if text[0] == "+" else -own_ns)
    elif "error" in vector:
        assert (refusal(parse), vector["invalid_params"]) == (vector["error"], True)
    else:
        assert parse() == vector["duration_ns"]


def refusal(parse: Callable[[], int]) -> str:
    with pytest.raises(TimeTextError) as caught:
        parse()
    return str(caught.value)


def is_unread(target: str) -> bool:
    """Whether M3 stumbles over a character of a target."""
    return any(token.kind in (TokenKind.ERROR, TokenKind.EQUAL, TokenKind.NOT) for token in tokens_of(target))


def is_other_path(target: str) -> bool:
    """Whether a target over which M3 stumbles is a path here."""
    return bool(OTHER_PATH.fullmatch(target)) and target.isprintable()


def cut(text: str) -> str:
    """M3 cuts characters of several bytes to pieces, and ours names them whole: neither is compared."""
    return "".join(character for character in text if character.isascii())


def as_vectors_write(value: Value) -> Value:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def tree_of(node: Call | Constant | Fetch | Noop) -> Any:
    match node:
        case Noop():
            return {"noop": True}
        case Fetch(path):
            return {"fetch": path}
        case Call(function, arguments):
            return {"call": function.name, "args": [tree_of(one) for one in arguments]}
        case Constant(_, None):
            return {"null": True}
        case Constant(kind, value):
            return {kind.removesuffix("64"): as_vectors_write(value)}


@pytest.mark.parametrize("vector", cases("graphite/lexer.jsonl", "target"))
def test_targets(vector: Vector) -> None:
    target, escape_all = vector["target"], vector.get("escape_all_not_only_quotes", False)
    tokens = [(token.kind.value, token.text) for token in tokens_of(target, escape_all=escape_all)]
    compared = cut if "\N{REPLACEMENT CHARACTER}" in str(vector["tokens"]) else str
    assert [(kind, compared(text)) for kind, text in tokens] == [
        (kind, compared(text)) for kind, text in vector["tokens"]
    ]
    if is_unread(target) and is_other_path(target):
        assert compile_target(target, escape_all=escape_all) == Fetch(target)
    elif "error" in vector:
        with pytest.raises(TargetError) as caught:
            compile_target(target, escape_all=escape_all)
        assert compared(str(caught.value)) == compared(vector["error"])
        assert caught.value.status == (400 if vector["invalid_params"] else 500)
    else:
        tree = compile_target(target, escape_all=escape_all)
        assert tree_of(tree) == vector["tree"]
        assert "text_panic" in vector or text_of(tree) == vector["text"]


KIND_NAMES: dict[type, str] = {str: "string", float: "float", int: "int", bool: "bool"}
KINDS = {
    "series_list": Kind.SERIES, "multiple_series_lists": Kind.LISTS, "float64": Kind.FLOAT, "int": Kind.INT, "string": Kind.STRING,
    "bool": Kind.BOOL, "any": Kind.ANY,
}  # fmt: skip


FUNCTIONS = "graphite/functions.jsonl"
THERE = (ROOT / FUNCTIONS).exists()
"""The table is complete, so that another set of vectors has none."""


@pytest.mark.parametrize("vector", cases(FUNCTIONS, "name") if THERE else [])
def test_functions(vector: Vector) -> None:
    function = find_function(vector["name"])
    assert function is not None
    assert function.name == vector["canonical"]
    assert function.kinds == tuple(KINDS[kind] for kind in vector["in"])
    assert (function.variadic, function.shifts) == (vector["variadic"], vector["out"] == "context_shifter")
    assert {
        str(index + 1): {"null": True} if value is None else {KIND_NAMES[type(value)]: as_vectors_write(value)}
        for index, value in function.defaults.items()
    } == vector["defaults_by_1_based_position"]


@pytest.mark.skipif(not THERE, reason=f"there is no {ROOT / FUNCTIONS}")
def test_all_functions_are_known() -> None:
    assert function_names() == sorted(vector["name"] for vector in lines(FUNCTIONS))


NOW_NS = 1_795_374_690_123_456_789
"""Later than the dates of the requests, as it was when they were recorded."""
YEAR = 2026
DEFAULTS = ReadOptions()
OPS = {MatchOp.EQUAL: "=", MatchOp.REGEX: "=~"}


class Recording:
    """A source like M3DB's that is empty, and remembers what it is asked."""

    lists_cheaply = False
    knows_ids = True

    def __init__(self) -> None:
        self.selected: list[tuple[list[list[str]], int, int]] = []
        self.completed: list[tuple[str, list[list[str]], int, int]] = []
        self.listed: list[list[list[str]]] = []

    def oldest_ms(self, resolution_ms: int) -> int:
        return 0

    async def select(
        self, matchers: Sequence[Matcher], start_ms: int, end_ms: int, options: ReadOptions, *, lookback_ms: int = 0
    ) -> Selection:
        self.selected.append((as_m3_writes(matchers), start_ms, end_ms))
        none = np.zeros(0, np.int64)
        return Selection(NO_SERIES, none, np.zeros(1, np.int64), none, none.view(np.uint64))

    async def label_names(
        self, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions
    ) -> Listing:
        raise AssertionError("names of labels are asked for")

    async def label_values(
        self, name: bytes, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions
    ) -> Listing:
        (matchers,) = alternatives
        self.completed.append((name.decode(), as_m3_writes(matchers), start_ms, end_ms))
        return Listing([])

    async def series(self, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions) -> Series:
        (matchers,) = alternatives
        self.listed.append(as_m3_writes(matchers))
        return NO_SERIES


NO_SERIES = Series(np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))


def as_m3_writes(matchers: Sequence[Matcher]) -> list[list[str]]:
    return [
        [
            {MatchOp.EQUAL: "!-", MatchOp.NOT_EQUAL: "-"}[one.op] if not one.value else OPS[one.op],
            one.name.decode(),
            one.value.decode(),
        ]
        for one in matchers
    ]


def as_we_ask(matchers: list[list[str]]) -> list[list[str]]:
    """M3's matchers, but for two: a first ``*`` is that there is a path, and a part without globs is compared as it is written."""
    found = []
    for op, name, value in matchers:
        if (op, name, value) == ("=~", "__g0__", ".*"):
            found.append(["-", name, ""])
        else:
            found.append([op, name, re.sub(r"\\([<>'$])", r"\1", value) if op == "=" else value])
    return found


def request_of(vector: Vector) -> Request:
    headers = {
        "content-type": vector.get("content_type", "application/x-www-form-urlencoded"),
        **vector.get("headers", {}),
    }
    scope = {
        "type": "http",
        "method": vector["method"],
        "path": vector["path"],
        "query_string": vector["query"].encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": vector.get("body", "").encode(), "more_body": False}

    return Request(scope, receive)


def said(vector: Vector, name: str) -> str:
    """A parameter, from the body or else the URL."""
    pairs = [pair.partition("=") for pair in f"{vector.get('body', '')}&{vector['query']}".split("&")]
    return next((unquote_plus(value) for key, _, value in pairs if key == name and ";" not in value), "")


def time_of(told: dict[str, float], now_s: float) -> float:
    return told["unix"] if "unix" in told else now_s + told["now_plus_seconds"]


def reads_otherwise(vector: Vector) -> bool:
    """Whether one of the times is such as M3 reads in its own way."""
    spans = [said(vector, "offset")]
    return any(read_otherwise(said(vector, name), YEAR) for name in ("from", "until", "compare")) or any(
        span.startswith("-") and span_ns(span[1:].lower()) is not None and not M3_TERM.fullmatch(span[1:].lower())
        for span in spans
    )


HOURS_AND_DAYS = re.compile(
    rf"noon|midnight|teatime|day|tomorrow|[0-9][ap]m|[0-9]:[0-9]{{2}}(?![0-9_ ])|{'|'.join(MONTH_DAYS)}", re.IGNORECASE
)


def of_the_day(vector: Vector) -> bool:
    """Whether one of the times depends on when the request was recorded, which nobody knows."""
    return any(HOURS_AND_DAYS.search(said(vector, name)) for name in ("from", "until", "compare"))


async def answered(vector: Vector, source: Recording) -> tuple[int, Any, str]:
    """Status, body and the error of a request."""
    graphite = Graphite(source, DEFAULTS, clock=lambda: NOW_NS)
    try:
        response = await (graphite.render if vector["path"].endswith("render") else graphite.find)(request_of(vector))
    except QueryError as error:
        return error.status, None, str(error)
    assert response.media_type == vector["content_type_out"]
    return response.status_code, json.loads(bytes(response.body)), ""


REQUESTS = [case for case in cases("graphite/requests.jsonl", "id", "query") if not of_the_day(case.values[0])]
RENDERS = [case for case in REQUESTS if case.values[0]["path"].endswith("render")]
FINDS = [case for case in REQUESTS if case.values[0]["path"].endswith("find")]


@pytest.mark.parametrize("vector", RENDERS)
async def test_render_requests(vector: Vector) -> None:
    if reads_otherwise(vector):
        await check_own_times(vector)
        return
    if "parse_error" in vector:
        with pytest.raises(QueryError) as caught:
            await read_render(request_of(vector), DEFAULTS, NOW_NS)
        assert (caught.value.status, same_error(str(caught.value), vector["parse_error"])) == (vector["status"], True)
        return
    asked = await read_render(request_of(vector), DEFAULTS, NOW_NS)
    told = vector["parsed"]
    assert asked.targets == told["targets"]
    for ours_ns, theirs in ((asked.from_ns, told["from"]), (asked.until_ns, told["until"])):
        assert ours_ns / SECOND_NS == pytest.approx(time_of(theirs, NOW_NS / SECOND_NS), abs=0.001)
    assert asked.max_data_points == (2**63 - 1 if told["max_data_points"] == "max_int64" else told["max_data_points"])
    assert asked.compare_ns == told["compare_ns"]
    assert round(asked.options.timeout_s * SECOND_NS) == told["timeout_ns"]
    assert asked.options.series_limit == max(told["series_limit"], 0)


@pytest.mark.parametrize("vector", RENDERS)
async def test_render_answers(vector: Vector) -> None:
    if reads_otherwise(vector):
        return
    source = Recording()
    status, body, error = await answered(vector, source)
    targets = vector.get("parsed", {}).get("targets", [])
    if vector["status"] == 200 and any("(" in target for target in targets):
        assert status == 400
        calls = [target for target in targets if "(" in target]
        assert all(name in error for name in functions_of(compile_target(calls[0])))
    elif vector["status"] == 200:
        fetched = vector.get("storage_fetches", [])
        impossible = any(not re2_takes(value) for one in fetched for op, _, value in one["matchers"] if op == "=~")
        assert status == (400 if impossible else 200)
        assert impossible or body == json.loads(vector["response"])
        if not impossible and not any("|" in target and re.search(r"[*?{\[]", target) for target in targets):
            assert sorted(source.selected) == sorted(
                (as_we_ask(one["matchers"]), *milliseconds(one)) for one in fetched
            )
    elif (unread := [target for target in targets if is_unread(target)]) and all(map(is_other_path, unread)):
        assert status == 200
    else:
        assert (status, same_error(error, json.loads(vector["response"])["error"])) == (vector["status"], True)
        assert source.selected == []


@pytest.mark.parametrize("vector", FINDS)
async def test_find_answers(vector: Vector) -> None:
    if reads_otherwise(vector):
        await check_own_times(vector)
        return
    source = Recording()
    status, body, error = await answered(vector, source)
    query = said(vector, "query")
    told = vector.get("storage_tag_queries", [])
    if STRANGE.search(query) or ("**" in query and "" in query.split(".")):
        assert status in (200, 400)
    elif "invalid 'query'" in str(vector["response"]) and FIND_PATH.fullmatch(query):
        # A character that M3 does not know in paths.
        assert (status, body) == (200, [])
    elif vector["status"] != 200:
        assert (status, same_error(error, json.loads(vector["response"])["error"])) == (vector["status"], True)
    elif any(op == "=~" and not re2_takes(value) for one in told for op, _, value in one["matchers"]):
        assert status == 400
    elif "**" in query:
        # Nodes at any depth, with their own paths.
        assert (status, body, source.listed) == (200, [], [as_we_ask(told[0]["matchers"])])
    else:
        assert (status, body) == (200, json.loads(vector["response"]))
        expected = [(one["filter_name_tags"][0], as_we_ask(one["matchers"]), *milliseconds(one)) for one in told]
        assert source.completed == expected


async def check_own_times(vector: Vector) -> None:
    """Of a request with a time that M3 reads in its own way: refused, or what the time says."""
    render = vector["path"].endswith("render")
    read = read_render if render else read_find
    expected = own_range_ns(vector, render)
    if expected is None or OTHER_FAULT.search(str(vector.get("parse_error", vector.get("response")))):
        with pytest.raises(QueryError) as caught:
            await read(request_of(vector), DEFAULTS, NOW_NS)
        assert caught.value.status == 400
    else:
        asked = await read(request_of(vector), DEFAULTS, NOW_NS)
        assert (asked.from_ns, asked.until_ns) == expected


OTHER_FAULT = re.compile(r"could not parse|maxDataPoints|no 'target'|no query")


def own_range_ns(vector: Vector, render: bool) -> tuple[int, int] | None:
    """The range of a request by our reading of its times; None: it is refused."""

    def own_ns(name: str, default: str, now_ns: int) -> int:
        text = said(vector, name) or default
        found = own_time_ns(text, now_ns, lambda read: parse_time(read, now_ns)) if read_otherwise(text, YEAR) else None
        return parse_time(text, now_ns) if found is None else found

    try:
        start_ns, stop_ns = own_ns("from", "-30min" if render else "0", NOW_NS), own_ns("until", "now", NOW_NS)
        if not render:
            return start_ns, stop_ns
        if start_ns >= stop_ns:
            return None
        live = NOW_NS - stop_ns < 60 * SECOND_NS and stop_ns - start_ns > 55 * 60 * SECOND_NS
        moved_ns = (15 * SECOND_NS if live else 0) - (span_ns(said(vector, "offset")[1:].lower()) or 0)
        start_ns, stop_ns = start_ns + moved_ns, stop_ns + moved_ns
        return None if own_ns("compare", "now", start_ns) > start_ns else (start_ns, stop_ns)
    except TimeTextError:
        return None


def same_error(ours: str, theirs: str) -> bool:
    """M3's words, and perhaps more behind them; one of them is misspelt."""
    return ours.startswith(theirs.replace("postive", "positive"))


def milliseconds(told: dict[str, dict[str, float]]) -> tuple[int, int]:
    now_s = NOW_NS / SECOND_NS
    start, stop = time_of(told["start"], now_s), time_of(told["end"], now_s)
    return int(start * 1000 // 1), int(stop * 1000 // 1)


def re2_takes(pattern: str) -> bool:
    try:
        Matcher(MatchOp.REGEX, b"a", pattern.encode())
    except MatcherError:
        return False
    return True
