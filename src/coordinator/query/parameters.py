"""Parameters of a request, from the URL and from a form, and the times and durations in them."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request

from coordinator.query.errors import QueryError
from coordinator.query.source import ReadOptions, Restriction
from m3metrics.errors import PolicyError
from m3metrics.policy import StoragePolicy
from m3x.config import Duration
from m3x.golang import parse_bool

__all__ = ["Parameters", "body_of", "label_name", "read_options", "read_parameters", "read_restriction"]

_MAX_BODY_BYTES = 16 << 20
_DURATION = re.compile(r"(\d{1,15})(ms|[smhdwy])")
_UNITS_MS = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 7 * 86_400_000,
    "y": 365 * 86_400_000,
}
_MAX_TIME_S = 1 << 43
_MAX_TIMEOUT_S = 600
_COUNT = re.compile(r"-?[0-9]{1,18}")
_ESCAPED = re.compile(r"U__(?:[^_]|__|_[0-9a-fA-F]{1,5}_)*")
_ESCAPE = re.compile(r"__|_([0-9a-fA-F]{1,5})_")
_Value = TypeVar("_Value")


class Parameters:
    """Names may be given several times."""

    def __init__(self, pairs: list[tuple[str, str]], now_ms: int) -> None:
        self._pairs = pairs
        self.now_ms = now_ms

    def all(self, name: str) -> list[str]:
        """Every value of ``name``, in order."""
        return [value for key, value in self._pairs if key == name]

    def text(self, name: str, default: str = "") -> str:
        """The first value."""
        return next((value for key, value in self._pairs if key == name), default)

    def time_ms(self, name: str, default_ms: int | None = None) -> int:
        """A point in time: Unix seconds (decimals allowed), RFC 3339 or ``now``. Raises ``QueryError``."""
        text = self.text(name)
        if not text:
            if default_ms is None:
                raise QueryError(f"invalid parameter {name!r}: it is missing; expected Unix seconds or RFC 3339")
            return default_ms
        if text == "now":
            return self.now_ms
        try:
            seconds = float(text)
        except ValueError:
            seconds = _rfc3339(name, text)
        if not abs(seconds) < _MAX_TIME_S:
            raise QueryError(f"invalid parameter {name!r}: {text!r} is out of range")
        return round(seconds * 1000)

    def step_ms(self, name: str = "step") -> int:
        """A positive duration. Raises ``QueryError``."""
        text = self.text(name)
        step_ms = self.duration_ms(name) if text else 0
        if step_ms <= 0:
            raise QueryError(
                f"error parsing param: {name}, error: expected positive step size, instead got: {text or 0}"
            )
        return step_ms

    def duration_ms(self, name: str) -> int:
        """Seconds, or text such as ``1m30s``. Raises ``QueryError``."""
        text = self.text(name)
        try:
            return round(max(min(float(text), _MAX_TIME_S), -_MAX_TIME_S) * 1000)
        except ValueError:
            parts = _DURATION.findall(text)
            if not text or "".join(number + unit for number, unit in parts) != text:
                raise QueryError(f"error parsing param: {name}, error: {text!r} is not a duration") from None
            return sum(int(number) * _UNITS_MS[unit] for number, unit in parts)

    def limit(self, name: str = "limit") -> int:
        """How many there may be in an answer; 0: any number. Raises ``QueryError``."""
        text = self.text(name)
        if text and not _COUNT.fullmatch(text):
            raise QueryError(f"invalid parameter {name!r}: {text!r} is not a number")
        if text.startswith("-"):
            raise QueryError(f"invalid parameter {name!r}: {text!r} is below 0")
        return int(text or 0)


def label_name(text: str) -> str:
    """A label's name as it stands in a path: plain, or escaped as Prometheus escapes what is no letter: ``U__a_2e_b`` for ``a.b``."""

    def character(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else "_"

    if not _ESCAPED.fullmatch(text):
        return text
    name = _ESCAPE.sub(character, text.removeprefix("U__"))
    return text if any("\ud800" <= one <= "\udfff" for one in name) else name


def _rfc3339(name: str, text: str) -> float:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise QueryError(f"invalid parameter {name!r}: cannot parse {text!r} to a valid timestamp") from None
    if parsed.tzinfo is None:
        raise QueryError(f"invalid parameter {name!r}: {text!r} has no time zone")
    return parsed.timestamp()


async def body_of(request: Request) -> bytes:
    """The body, at most 16 MiB. Raises ``QueryError``."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise QueryError(f"the request body is larger than {_MAX_BODY_BYTES} bytes", status=413)
    return bytes(body)


async def read_parameters(request: Request, now_ms: int) -> Parameters:
    """Those of the URL, and of a form in the body; the form's come first, as in Prometheus. Raises ``QueryError``."""
    pairs: list[tuple[str, str]] = []
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if request.method == "POST" and kind == "application/x-www-form-urlencoded":
        try:
            pairs = parse_qsl((await body_of(request)).decode(), keep_blank_values=True, max_num_fields=1000)
        except ValueError as error:
            raise QueryError(f"the form in the request body cannot be read: {error}") from None
    return Parameters(pairs + request.query_params.multi_items(), now_ms)


def read_options(request: Request, defaults: ReadOptions) -> ReadOptions:
    """What M3's headers say, over ``defaults`` (docs/m3/coordinator.md, query headers). Raises ``QueryError``."""
    headers = request.headers
    return msgspec.structs.replace(
        defaults,
        restriction=read_restriction(headers),
        series_limit=_header(headers, "M3-Limit-Max-Series", _count, defaults.series_limit),
        docs_limit=_header(headers, "M3-Limit-Max-Docs", _count, defaults.docs_limit),
        range_limit_ns=_header(headers, "M3-Limit-Max-Range", Duration.parse, defaults.range_limit_ns),
        require_exhaustive=_header(headers, "M3-Limit-Require-Exhaustive", parse_bool, defaults.require_exhaustive),
        timeout_s=_header(headers, "M3-Timeout", _timeout, defaults.timeout_s),
    )


def read_restriction(headers: Headers) -> Restriction:
    """To which part of storage the headers restrict a query. Raises ``QueryError``."""
    kind, wanted = headers.get("M3-Metrics-Type", ""), headers.get("M3-Storage-Policy", "")
    if kind not in ("", "aggregated", "unaggregated"):
        raise QueryError(f"invalid M3-Metrics-Type header: {kind!r}; expected aggregated or unaggregated")
    try:
        policy = StoragePolicy.parse(wanted) if wanted else None
    except PolicyError as error:
        raise QueryError(f"invalid M3-Storage-Policy header: {error}") from None
    return Restriction(kind == "aggregated" if kind else None, policy)


def _header(headers: Headers, name: str, read: Callable[[str], _Value], default: _Value) -> _Value:
    text = headers.get(name, "")
    try:
        return read(text) if text else default
    except ValueError as error:
        raise QueryError(f"invalid {name} header: {text!r}: {error}") from None


def _count(text: str) -> int:
    """A limit; nothing below 1 is one."""
    if not _COUNT.fullmatch(text):
        raise ValueError("it is not a number")
    return max(int(text), 0)


def _timeout(text: str) -> float:
    seconds = Duration.parse(text) / 1e9
    if not 0 < seconds <= _MAX_TIMEOUT_S:
        raise ValueError(f"expected more than nothing, and at most {_MAX_TIMEOUT_S} s")
    return seconds
