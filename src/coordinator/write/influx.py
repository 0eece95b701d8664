"""``POST /api/v1/influxdb/write``: InfluxDB's line protocol (docs/m3/coordinator.md, InfluxDB line protocol).

A line is a point: ``measurement,tag=value field=1,other=2i 1700000000000000000``. Each field that is a number or a truth value is a series:
``__name__`` is measurement and field with a ``_`` between them, the tags are its labels; characters that Prometheus does not have in names
become ``_``. Texts are not kept. A line that cannot be read is refused by its number, and harms no other one.

Most bodies have neither backslashes nor quotation marks: their lines are cut at spaces and commas, and what stands before the first space
is looked up. All others go through the patterns below.
"""

import math
import re
from collections.abc import Generator
from functools import partial
from typing import NamedTuple

from starlette.requests import Request

from coordinator.not_kept import Reason
from coordinator.write.building import MOST_KNOWN, Builder, Known, label_fields
from coordinator.write.decoding import Decoded, inflate
from coordinator.write.options import BadRequestError, WriteOptions, content_encoding, parse_options
from coordinator.write.sender import M3Answers
from coordinator.write.steps import Steps, finished
from coordinator.write.turns import LARGE_BYTES
from m3metrics.errors import IdError
from m3metrics.ids import Tags
from m3x.clock import wall_ns

__all__ = ["PATH", "Influx"]

PATH = "/api/v1/influxdb/write"

_PRECISIONS = {
    "": 1, "n": 1, "ns": 1, "u": 1_000, "us": 1_000, "µ": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000,
    "m": 60_000_000_000, "h": 3_600_000_000_000,
}  # fmt: skip
"""Nanoseconds of what times are counted in, by the parameter ``precision``."""
_LEAST_NS, _MOST_NS = -(1 << 63), (1 << 63) - 1
_IN_NAMES = rb" ,=\""
"""What a backslash makes ordinary in the names of measurements and fields; in tags it is that without the quotation mark."""
_LINES_OF_A_STEP = 128
_SHOWN = 100
"""Bytes of a bad line that its sender is shown."""


def _rewriting(others: bytes) -> bytes:
    """The table that makes ``_`` of all bytes but letters, digits, ``_`` and ``others``."""
    return bytes(
        code if (bytes((code,)).isalnum() and code < 0x80) or code in b"_" + others else 0x5F for code in range(256)
    )


_NAME, _LABEL = _rewriting(b":"), _rewriting(b"")
_HEAD = re.compile(rb"(?:\\[ ,=]|[^ \n])++")
"""Measurement and tags: up to a space that no backslash stands before."""
_PART = re.compile(rb"(?:\\[ ,=]|[^,=])*+")
_FIELD = re.compile(rb'((?:\\[ ,=]|[^ ,=\n])++)=("(?:\\.|[^"\\])*+"|[^ ,"\n]++)(,?)', re.DOTALL)
_BLANK = b" \t\0"
"""What may stand in front of a line, and of its fields."""
_SPACES = re.compile(rb" *+")
_FRONT = re.compile(rb"[ \t\0]*+")
_TIME = re.compile(rb"-?[0-9]++(?=[ \r]*(?:\n|\Z))")
_END = re.compile(rb"[ \r]*(?:\n|\Z)")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_INTEGER = re.compile(rb"(-?[0-9]++)i|([0-9]++)u")
_TRUTH = {word: float(word[:1] in b"tT") for word in b"t T true True TRUE f F false False FALSE".split()}


class _LineError(ValueError):
    """A line cannot be read; the text says why."""


MAX_LINE_BYTES = 1 << 20
"""A line is read in one piece, and nothing else is done meanwhile."""
_TOO_LONG = _LineError(f"it is longer than {MAX_LINE_BYTES} bytes")


class _Point(NamedTuple):
    """What stands before the first space of a line, and the label bytes of its series by field. None: the labels are too long."""

    measurement: bytes
    labels: Tags
    series: dict[bytes, bytes | None]


class Influx(M3Answers):
    """The line protocol of InfluxDB 1.x, and of 2.x as far as lines go."""

    handler = "influx-write"
    title = "write in InfluxDB's line protocol"
    success = 204

    def __init__(self, most_known: int = MOST_KNOWN) -> None:
        """``most_known``: points and series that are remembered."""
        self._points: Known[bytes, _Point] = Known(most_known)

    def options(self, request: Request) -> WriteOptions:
        """See ``Sender``."""
        precision = request.query_params.get("precision", "")
        if precision not in _PRECISIONS:
            raise BadRequestError(f"precision={precision!r} is unknown; it may be ns, u, ms, s, m or h")
        return parse_options(request.headers, dialect=precision, encoding=content_encoding(request.headers))

    def decode(self, body: bytes, options: WriteOptions) -> Decoded:
        """See ``Sender``; times in nanoseconds."""
        return finished(self.steps(body, options))

    def steps(self, body: bytes, options: WriteOptions) -> Steps[Decoded]:
        """See ``turns``."""
        if not body:
            raise BadRequestError("empty request body")
        unpack = partial(inflate, body, options.encoding)
        data = unpack() if len(body) < LARGE_BYTES else (yield unpack)
        lines = _Lines(self._points, _PRECISIONS[options.dialect])
        if b"\\" in data or b'"' in data:
            yield from lines.read_with_patterns(data)
        else:
            for number, line in enumerate(data.split(b"\n"), 1):
                lines.read_plain(number, line)
                if number % _LINES_OF_A_STEP == 0:
                    yield None
        return lines.builder.decoded(options)


class _Lines:
    """The lines of one body."""

    def __init__(self, points: Known[bytes, _Point], unit_ns: int) -> None:
        self.builder = Builder(unit_ns=1)
        self._points = points
        self._unit_ns = unit_ns
        now_ns = wall_ns()
        self._now_ns = now_ns - now_ns % unit_ns
        """Of points without a time."""

    def read_plain(self, number: int, line: bytes) -> None:
        """A line of a body without backslashes and quotation marks."""
        if len(line) > MAX_LINE_BYTES:
            self._refuse(number, line, _TOO_LONG)
            return
        parts = [part for part in line.lstrip(_BLANK).rstrip(b" \r").split(b" ") if part]
        if not parts or parts[0].startswith(b"#"):
            return
        try:
            if len(parts) > 3:
                raise _LineError("it has more than three parts")
            if len(parts) == 1:
                raise _LineError("it has no fields")
            fields = []
            for field in parts[1].lstrip(_BLANK).split(b","):
                name, equals, value = field.partition(b"=")
                if not equals or b"=" in value:
                    raise _LineError(f"{_text(field)} is no field; fields are name=value")
                fields.append((name, value))
            self._add(parts[0], fields, parts[2] if len(parts) == 3 else None)
        except _LineError as error:
            self._refuse(number, line, error)

    def read_with_patterns(self, data: bytes) -> Generator[None, None, None]:
        """A whole body, in steps; a text may have line ends in it."""
        at, number, step = 0, 1, 0
        while at < len(data):
            begin, at = at, _matched(_FRONT, data, at)
            end = data.find(b"\n", at)
            end = len(data) if end < 0 else end
            if not data[at:end].strip() or data.startswith(b"#", at):
                at, number = end + 1, number + 1
                continue
            try:
                if end - at > MAX_LINE_BYTES:
                    raise _TOO_LONG
                at = self._read(data, at)
            except _LineError as error:
                self._refuse(number, data[begin:end], error)
                at = end + 1
            number += data.count(b"\n", begin, at)
            step += 1
            if step % _LINES_OF_A_STEP == 0:
                yield

    def _read(self, data: bytes, at: int) -> int:
        """Takes the line that begins there; where the next one does. Raises ``_LineError``."""
        found = _HEAD.match(data, at)
        assert found is not None
        head, at = found[0], _matched(_FRONT, data, found.end())
        fields: list[tuple[bytes, bytes]] = []
        while True:
            found = _FIELD.match(data, at)
            if found is None:
                raise _LineError(
                    "fields are missing, or one of them is not name=value"
                    if not fields
                    else "a field is not name=value"
                )
            fields.append((_unescaped(found[1], _IN_NAMES), found[2]))
            at = found.end()
            if not found[3]:
                break
        at = _matched(_SPACES, data, at)
        found, time = _TIME.match(data, at), None
        if found is not None:
            time, at = found[0], found.end()
        end = _END.match(data, at)
        if end is None:
            raise _LineError("what stands behind its fields is no time")
        self._add(head, fields, time)
        return max(end.end(), at + 1)

    def _add(self, head: bytes, fields: list[tuple[bytes, bytes]], time: bytes | None) -> None:
        """A point; all of its fields, or none. Raises ``_LineError``."""
        point = self._points.get(head) or self._points.keep(head, _point_of(head))
        time_ns = self._now_ns if time is None else _time_of(time) * self._unit_ns
        if not _LEAST_NS <= time_ns <= _MOST_NS:
            raise _LineError("its time does not fit into 64 bits of nanoseconds")
        numbers = [(name, _value_of(name, value)) for name, value in fields]
        add, known = self.builder.add, point.series
        for name, value in numbers:
            if value is None:
                self.builder.leave(Reason.NO_NUMBER)
                continue
            labels = known.get(name, b"")
            if labels == b"":
                labels = known[name] = _labels_of(point, name)
                self._points.weigh()
            if labels is None:
                self.builder.refuse(
                    Reason.INVALID_LABELS, f"a label of {_text(point.measurement)} is longer than 65535 bytes"
                )
            else:
                add(labels, time_ns, value)

    def _refuse(self, number: int, line: bytes, error: _LineError) -> None:
        self.builder.refuse(Reason.MALFORMED, f"line {number} cannot be read: {error}: {_text(line)}")


def _matched(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Where what matches there ends; the pattern matches everything, if need be nothing."""
    found = pattern.match(data, at)
    return at if found is None else found.end()


def _text(line: bytes) -> str:
    return repr(line[:_SHOWN].decode(errors="replace"))


def _unescaped(part: bytes, escaped: bytes = rb" ,=") -> bytes:
    return re.sub(rb"\\([%s])" % escaped, rb"\1", part) if b"\\" in part else part


def _point_of(head: bytes) -> _Point:
    """Raises ``_LineError``."""
    measurement, at = re.match(rb"(?:\\[ ,=]|[^,])*+", head)[0], 0  # type: ignore[index]
    if not measurement:
        raise _LineError("it has no measurement")
    labels, at = [], len(measurement)
    while at < len(head):
        found = _PART.match(head, at + 1)
        assert found is not None
        name, at = found[0], found.end()
        if head[at : at + 1] != b"=":
            raise _LineError(f"tag {_text(name)} has no value")
        found = _PART.match(head, at + 1)
        assert found is not None
        value, at = found[0], found.end()
        if not name or not value or head[at : at + 1] == b"=":
            raise _LineError(f"tag {_text(name)} is not name=value")
        labels.append((_rewritten(_unescaped(name), _LABEL), _unescaped(value)))
    return _Point(_unescaped(measurement, _IN_NAMES), labels, {})


def _labels_of(point: _Point, field: bytes) -> bytes | None:
    name = _rewritten(point.measurement + b"_" + field, _NAME)
    try:
        return label_fields([(b"__name__", name), *point.labels])
    except IdError:
        return None


def _rewritten(name: bytes, table: bytes) -> bytes:
    """As Prometheus has names: what it does not know in them becomes ``_``, and so does a digit in front."""
    rewritten = name.translate(table)
    return b"_" + rewritten[1:] if rewritten[:1].isdigit() else rewritten


def _time_of(text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > 20:
        raise _LineError(f"its time {_text(text)} is no whole number")
    return int(text)


def _value_of(field: bytes, text: bytes) -> float | None:
    """The value of a field; None: it is a text. Raises ``_LineError``."""
    if not field:
        raise _LineError("a field has no name")
    if _NUMBER.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise _LineError(f"field {_text(field)}: {_text(text)} is too large for a number")
        return value
    integer = _INTEGER.fullmatch(text)
    if integer is not None:
        digits = integer[1] or integer[2]
        # Longer ones do not fit, and Python would refuse to convert very long ones, zeros in front included.
        whole = int(digits.lstrip(b"-0")[:21] or b"0") * (-1 if digits[:1] == b"-" else 1)
        if not (-(1 << 63) <= whole < 1 << 63 if integer[1] else whole < 1 << 64):
            raise _LineError(f"field {_text(field)}: {_text(text)} does not fit into 64 bits")
        return float(whole)
    if text[:1] == b'"' and text[-1:] == b'"' and len(text) > 1:
        return None
    truth = _TRUTH.get(text)
    if truth is None:
        raise _LineError(f"field {_text(field)}: {_text(text)} is neither a number nor a text nor true or false")
    return truth
