"""What requests for render and find say: M3's parameters and headers, their defaults and its words for what is wrong.

An error that M3 has begins with M3's words (docs/m3/coordinator.md, graphite requests), and goes on with what was expected.
"""

import re
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request

from coordinator.query.errors import QueryError
from coordinator.query.graphite.times import TimeTextError, Zone, local_zone, parse_duration, parse_time
from coordinator.query.parameters import Parameters, body_of, read_restriction
from coordinator.query.source import ReadOptions
from m3x.config import Duration
from m3x.golang import SECOND_NS, go_duration, parse_bool, parse_int64

__all__ = ["ANY_NUMBER", "FindRequest", "RenderRequest", "read_find", "read_render"]

ANY_NUMBER = (1 << 63) - 1
"""Points of a series that nobody limits."""
_MS = 1_000_000
_LATEST_NS = (1 << 63) - 1
_MINUTE_NS = 60 * SECOND_NS
_LIVE_NS = _MINUTE_NS
"""A range that ends less than this ago is one of now; a long one of them is shifted, as clocks of senders may be behind."""
_LONG_NS = 55 * _MINUTE_NS
_SHIFT_NS = 15 * SECOND_NS
_LONGEST_TIMEOUT_NS = 10 * _MINUTE_NS
_FORM = "application/x-www-form-urlencoded"
_WITH_BODY = {"POST", "PUT", "PATCH"}
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INT = re.compile(r"[+-]?[0-9]+")
_DURATION_PART = re.compile(r"([0-9]*\.?[0-9]*)([^0-9.]*)")
_DURATION_UNITS = {"ns", "us", "µs", "μs", "ms", "s", "m", "h"}
_COUNTS = (
    ("M3-Limit-Max-Returned-Series", "returnedSeriesLimit"),
    ("M3-Limit-Max-Returned-Datapoints", "returnedDatapointsLimit"),
    ("M3-Limit-Max-Returned-SeriesMetadata", "returnedSeriesMetadataLimit"),
    ("M3-Limit-Max-Metric-Metadata-Stats", "returnedMaxMetricMetadataStats"),
)
"""Limits that have to be numbers, and that Graphite's calls do not know, in M3 either."""
_TIMES = "expected a time such as -1h, now-30min, noon yesterday, 14:38_20150618 or Unix seconds"
_Value = TypeVar("_Value")


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What all requests say; times in ns since the epoch."""

    from_ns: int
    until_ns: int
    options: ReadOptions

    @property
    def range_ms(self) -> tuple[int, int]:
        """The range in ms, within what a time of 64 bits can say."""
        return _milliseconds(self.from_ns), _milliseconds(self.until_ns)


class RenderRequest(_Request, frozen=True, kw_only=True):
    """A request for render."""

    targets: list[str]
    max_data_points: int = ANY_NUMBER
    compare_ns: int = 0
    """How far before ``from`` another range begins, at most 0. Nothing is made of it, as in M3."""


class FindRequest(_Request, frozen=True, kw_only=True):
    """A request for find."""

    query: str


async def read_render(request: Request, defaults: ReadOptions, now_ns: int, zone: Zone = local_zone) -> RenderRequest:
    """What a request for render says at ``now_ns``. Raises ``QueryError``."""
    parameters = await _parameters(request, now_ns)
    options = _options(request, parameters, defaults)
    targets = parameters.all("target")
    if not targets:
        raise QueryError("no 'target' specified")
    from_ns = _time(parameters, "from", "-30min", now_ns, zone)
    until_ns = _time(parameters, "until", "now", now_ns, zone)
    if from_ns >= until_ns:
        raise QueryError("'from' must come before 'until'")
    shift_ns = _SHIFT_NS if now_ns - until_ns < _LIVE_NS and until_ns - from_ns > _LONG_NS else 0
    shift_ns += _offset(parameters.text("offset"))
    from_ns += shift_ns
    max_data_points = _max_data_points(parameters.text("maxDataPoints"))
    compared_ns = _time(parameters, "compare", "now", from_ns, zone)
    if compared_ns > from_ns:
        raise QueryError("'compare' must be in the past")
    return RenderRequest(
        targets=targets,
        from_ns=from_ns,
        until_ns=until_ns + shift_ns,
        max_data_points=max_data_points,
        compare_ns=compared_ns - from_ns,
        options=options,
    )


async def read_find(request: Request, defaults: ReadOptions, now_ns: int, zone: Zone = local_zone) -> FindRequest:
    """What a request for find says at ``now_ns``. Raises ``QueryError``."""
    parameters = await _parameters(request, now_ns)
    options = _options(request, parameters, defaults)
    query = parameters.text("query")
    if not query:
        raise QueryError("no query found")
    from_ns = _time(parameters, "from", "0", now_ns, zone)
    until_ns = _time(parameters, "until", "now", now_ns, zone)
    return FindRequest(query=query, from_ns=from_ns, until_ns=until_ns, options=options)


def _milliseconds(time_ns: int) -> int:
    return min(max(time_ns, -_LATEST_NS), _LATEST_NS) // _MS


async def _parameters(request: Request, now_ns: int) -> Parameters:
    """Those of a form in the body, then those of the URL; a pair that Go cannot read is left out, as there."""
    pairs = _pairs(request.scope["query_string"].decode("latin-1"))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method in _WITH_BODY and kind == _FORM:
        pairs = _pairs((await body_of(request)).decode("latin-1")) + pairs
    return Parameters(pairs, now_ns // _MS)


def _pairs(text: str) -> list[tuple[str, str]]:
    found = []
    for pair in text.split("&"):
        if pair and ";" not in pair and not _BAD_ESCAPE.search(pair):
            name, _, value = pair.replace("+", " ").partition("=")
            found.append((_unescaped(name), _unescaped(value)))
    return found


def _unescaped(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode(errors="replace")


def _time(parameters: Parameters, name: str, default: str, now_ns: int, zone: Zone) -> int:
    text = parameters.text(name) or default
    try:
        return parse_time(text, now_ns, zone)
    except TimeTextError as error:
        raise QueryError(f"invalid '{name}': {text}: {error}; {_TIMES}") from None


def _offset(text: str) -> int:
    try:
        return parse_duration(text) if text else 0
    except TimeTextError as error:
        raise QueryError(f"invalid 'offset': {error}") from None


def _max_data_points(text: str) -> int:
    if not text:
        return ANY_NUMBER
    try:
        number = _integer(text)
    except ValueError:
        number = 0
    if number < 1:
        raise QueryError(f"invalid 'maxDataPoints': {text}")
    return number


def _options(request: Request, parameters: Parameters, defaults: ReadOptions) -> ReadOptions:
    """Limits and the time-out, from headers or else from parameters; what M3 only looks at is looked at. Raises ``QueryError``."""
    said = _Said(request.headers, parameters)
    series_limit = said.value("M3-Limit-Max-Series", "limit", "value", _integer, defaults.series_limit)
    said.value("M3-Limit-Instance-Multiple", "", "instance multiple", _number, 0.0)
    docs_limit = said.value("M3-Limit-Max-Docs", "docsLimit", "value", _integer, defaults.docs_limit)
    range_ns = said.value("M3-Limit-Max-Range", "rangeLimit", "duration limit", _duration, defaults.range_limit_ns)
    for header, parameter in _COUNTS:
        said.value(header, parameter, "value", _integer, 0)
    exhaustive = said.value(
        "M3-Limit-Require-Exhaustive", "requireExhaustive", "limit", parse_bool, defaults.require_exhaustive
    )
    said.value("M3-Limit-Require-No-Wait", "requireNoWait", "no-wait", parse_bool, False)
    restriction = read_restriction(request.headers)
    for name in ("step", "lookback"):
        _check_step(parameters, name)
    return msgspec.structs.replace(
        defaults,
        restriction=restriction,
        series_limit=max(series_limit, 0),
        docs_limit=max(docs_limit, 0),
        range_limit_ns=range_ns,
        require_exhaustive=exhaustive,
        timeout_s=_timeout_s(said, defaults.timeout_s),
    )


class _Said:
    """What a request says in a header, or else in a parameter."""

    def __init__(self, headers: Headers, parameters: Parameters) -> None:
        self._headers = headers
        self._parameters = parameters

    def text(self, header: str, parameter: str) -> str:
        """Empty if it says nothing."""
        return self._headers.get(header, "") or (self._parameters.text(parameter) if parameter else "")

    def value(self, header: str, parameter: str, what: str, read: Callable[[str], _Value], default: _Value) -> _Value:
        """Raises ``QueryError`` with M3's words."""
        text = self.text(header, parameter)
        try:
            return read(text) if text else default
        except ValueError as error:
            raise QueryError(f"could not parse {what}: input={text}, err={error}") from None


def _timeout_s(said: _Said, default_s: float) -> float:
    text = said.text("M3-Timeout", "") or said.text("timeout", "timeout")
    if not text:
        return default_s
    problem = ""
    try:
        timeout_ns = _duration(text)
    except ValueError as error:
        raise QueryError(f"could not parse timeout: err=invalid 'timeout': {error}") from None
    if timeout_ns <= 0:
        problem = f"less than or equal to zero {go_duration(timeout_ns)}"
    elif timeout_ns > _LONGEST_TIMEOUT_NS:
        problem = f"{go_duration(timeout_ns)} greater than max {go_duration(_LONGEST_TIMEOUT_NS)}"
    if problem:
        raise QueryError(f"could not parse timeout: err=invalid 'timeout': {problem}")
    return timeout_ns / SECOND_NS


def _check_step(parameters: Parameters, name: str) -> None:
    """A positive duration, or seconds; a look-back may be that of the step."""
    text = parameters.text(name)
    if name == "lookback" and text == "step":
        text = parameters.text("step") or " "
    if not text:
        return
    text = text.strip()
    try:
        length_ns = _duration_or_seconds(text)
    except ValueError as error:
        raise QueryError(f"could not parse {name}: err={error}") from None
    if length_ns <= 0:
        raise QueryError(f"could not parse {name}: err=expected positive step size, instead got: {length_ns}")


def _duration_or_seconds(text: str) -> int:
    if not text:
        raise ValueError("not found")
    try:
        return _duration(text)
    except ValueError as error:
        as_duration = error
    try:
        length_ns = _number(text) * SECOND_NS
    except ValueError as as_float:
        raise ValueError(
            f"cannot parse duration='{text}': as_duration_err={as_duration}, as_float_err={as_float}"
        ) from None
    if not abs(length_ns) <= 1 << 63:
        raise ValueError(f"cannot parse duration='{text}': as_float_err=int64 overflow after float conversion")
    return int(length_ns)


def _integer(text: str) -> int:
    """Raises ``ValueError`` with Go's words."""
    if not _INT.fullmatch(text):
        raise ValueError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    number = parse_int64(text)
    if number is None:
        raise ValueError(f'strconv.Atoi: parsing "{text}": value out of range')
    return number


def _number(text: str) -> float:
    """Raises ``ValueError`` with Go's words."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'strconv.ParseFloat: parsing "{text}": invalid syntax') from None


def _duration(text: str) -> int:
    """Raises ``ValueError`` with Go's words."""
    try:
        return Duration.parse(text)
    except ValueError:
        raise ValueError(_duration_problem(text)) from None


def _duration_problem(text: str) -> str:
    rest = text[1:] if text[:1] in ("+", "-") else text
    for number, unit in _DURATION_PART.findall(rest):
        if not number.strip("."):
            break
        if not unit:
            return f'time: missing unit in duration "{text}"'
        if unit not in _DURATION_UNITS:
            return f'time: unknown unit "{unit}" in duration "{text}"'
    return f'time: invalid duration "{text}"'
