"""Times and spans as Graphite writes them: ``-1h``, ``noon yesterday+30min``, ``14:38_20150618`` (docs/m3/coordinator.md, graphite times).

What M3 quietly takes for now, or for another time than the text says, is understood here, or refused (docs/compatibility.md, Graphite).
Everything is in nanoseconds, times since the Unix epoch.
"""

import re
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from m3x.golang import SECOND_NS, parse_int64

__all__ = [
    "TimeTextError",
    "Zone",
    "format_time",
    "local_zone",
    "parse_duration",
    "parse_offset",
    "parse_time",
    "zone_named",
]

Zone = Callable[[int], int]
"""Seconds east of UTC at a Unix second."""

_DAY_S = 86_400
_EPOCH = datetime(1970, 1, 1)
_UNITS_NS = {
    "s": SECOND_NS,
    "min": 60 * SECOND_NS,
    "h": 3600 * SECOND_NS,
    "d": _DAY_S * SECOND_NS,
    "w": 7 * _DAY_S * SECOND_NS,
    "mon": 30 * _DAY_S * SECOND_NS,
    "y": 365 * _DAY_S * SECOND_NS,
}
"""A word of letters that begins with one of them is that unit."""
_SHORT_NS = {"m": 60 * SECOND_NS, "ms": SECOND_NS // 1000}
"""Words on their own."""
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_NAMED_HOURS = {"noon": 12, "midnight": 0, "teatime": 16}
_NAMED_DAYS = {"": 0, "today": 0, "yesterday": -1, "tomorrow": 1}

_INT = re.compile(r"[+-]?\d+", re.ASCII)
_SPAN = re.compile(r"([+-])(\d+[a-z].*)", re.ASCII | re.IGNORECASE)
_TERM = re.compile(r"(\d+)([a-z]+)", re.ASCII)
_CLOCK = re.compile(r"([01]?\d)(?::([0-5]\d)(am|pm)?|(am|pm))([\x00-\x7f]*)", re.ASCII)
_MONTH_DAY = re.compile(rf"({'|'.join(_MONTHS)})(\d{{1,2}})", re.ASCII)
_CALENDAR = re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII)
_Y, _YY, _M, _D = r"(?P<year>\d{4})", r"(?P<short>\d\d)", r"(?P<month>\d\d)", r"(?P<day>\d\d)"
_AT = r"(?P<hour>\d{1,2}):(?P<minute>\d\d) +"
_ABSOLUTE = [
    re.compile(layout, re.ASCII)
    for layout in (
        f"{_AT}{_YY}{_M}{_D}", f"{_AT}{_Y}{_M}{_D}", f"{_AT}{_M}/{_D}/{_YY}", rf"{_AT}{_D}\.{_M}\.{_YY}", rf"{_D}\.{_M}\.{_YY}",
        f"{_M}/{_D}/{_YY}", f"{_M}/{_D}/{_Y}", f"{_YY}{_M}{_D}", f"{_Y}{_M}{_D}",
    )
]  # fmt: skip


class TimeTextError(ValueError):
    """A text that is no time: M3's words, or ours where M3 takes it all the same."""


def local_zone(unix_s: int) -> int:
    """The ``Zone`` of this process."""
    return time.localtime(unix_s).tm_gmtoff


def zone_named(name: str) -> Zone:
    """The ``Zone`` of that name. Raises ``ZoneInfoNotFoundError``."""
    zone = ZoneInfo(name)

    def offset_s(unix_s: int) -> int:
        offset = datetime.fromtimestamp(unix_s, zone).utcoffset()
        assert offset is not None
        return offset // timedelta(seconds=1)

    return offset_s


class _Moment(NamedTuple):
    """A time as clocks of a zone show it, to the minute."""

    day: date
    hour: int
    minute: int

    @classmethod
    def of(cls, time_ns: int, zone: Zone) -> "_Moment":
        unix_s = time_ns // SECOND_NS
        shown = _EPOCH + timedelta(seconds=unix_s + zone(unix_s))
        return cls(shown.date(), shown.hour, shown.minute)

    def time_ns(self, zone: Zone) -> int:
        """Where clocks are set back or forward, the offset that holds at the time of the first guess decides."""
        shown_s = _days(self.day.year, self.day.month, self.day.day) * _DAY_S + self.hour * 3600 + self.minute * 60
        return (shown_s - zone(shown_s - zone(shown_s))) * SECOND_NS


def parse_time(text: str, now_ns: int, zone: Zone = local_zone, absolute_offset_ns: int = 0) -> int:
    """The time that ``text`` means at ``now_ns``, in ns. Raises ``TimeTextError``.

    ``zone``: where noon, today and the like are; dates are in UTC, and ``absolute_offset_ns`` is added to them.
    """
    if not text:
        raise TimeTextError("time cannot be empty")
    if text == "now":
        return now_ns
    absolute = _absolute(text.replace("_", " "))
    if absolute is not None:
        return absolute + absolute_offset_ns
    seconds = _unix_seconds(text)
    if seconds is not None:
        return seconds * SECOND_NS
    plain = text.lower().replace(",", "").replace(" ", "")
    if not plain:
        raise TimeTextError("time cannot be blank")
    sign = next((one for one in "+-" if one in plain), "")
    reference, *offsets = plain.split(sign) if sign else [plain]
    if len(offsets) > 1:
        raise TimeTextError(f"unknown time string {plain}")
    base_ns = _reference(reference, now_ns, zone)
    if not offsets:
        return base_ns
    offset = sign + offsets[0].strip()
    return base_ns + (parse_duration(offset) if offset.startswith("-") and not reference else parse_offset(offset))


def parse_duration(text: str) -> int:
    """``-1h``, ``-1d12h``: a span into the past, in ns, at most 0. Raises ``TimeTextError``."""
    if not text.startswith("-"):
        raise TimeTextError(f"invalid relative time {text}")
    try:
        return parse_offset(text)
    except TimeTextError as error:
        raise TimeTextError(str(error).replace("time offset", "relative time", 1)) from None


def parse_offset(text: str) -> int:
    """``+1h``, ``-1d12h`` or nothing: a span, in ns. Raises ``TimeTextError``."""
    if not text:
        return 0
    found = _SPAN.fullmatch(text)
    if found is None:
        raise TimeTextError(f"invalid time offset {text}")
    sign, terms = found.groups()
    terms = terms.lower().replace(",", "").replace(" ", "")
    total_ns, at = 0, 0
    while at < len(terms):
        term = _TERM.match(terms, at)
        unit_ns = None if term is None else _unit_ns(term[2])
        if term is None or unit_ns is None:
            raise TimeTextError(f"invalid time offset {text}")
        number = term[1].lstrip("0") or "0"
        if len(number) > 10 or int(number) > (1 << 31) - 1:
            raise TimeTextError(f'invalid time offset strconv.ParseInt: parsing "{term[1]}": value out of range')
        total_ns += int(number) * unit_ns
        at = term.end()
    return -total_ns if sign == "-" else total_ns


def format_time(time_ns: int, zone: Zone) -> str:
    """``13:00 240310``: the time on clocks of ``zone``, with a blank where requests have ``_``."""
    day, hour, minute = _Moment.of(time_ns, zone)
    return f"{hour:02d}:{minute:02d} {day:%y%m%d}"


def _unit_ns(word: str) -> int | None:
    if word in _SHORT_NS:
        return _SHORT_NS[word]
    return next((size for prefix, size in _UNITS_NS.items() if word.startswith(prefix)), None)


def _unix_seconds(text: str) -> int | None:
    """Raises ``TimeTextError`` for digits that look like a date and are none."""
    seconds = parse_int64(text) if _INT.fullmatch(text) else None
    if seconds is None:
        return None
    found = _CALENDAR.fullmatch(text)
    if found is not None and int(found[1]) > 1900 and int(found[2]) < 13 and int(found[3]) < 32:
        raise TimeTextError(f"the date {text} does not exist")
    return seconds


def _absolute(text: str) -> int | None:
    """A date in UTC, with or without the time of day."""
    for layout in _ABSOLUTE:
        found = layout.fullmatch(text)
        if found is None:
            continue
        part = {name: int(digits) for name, digits in found.groupdict().items()}
        year = part["year"] if "year" in part else part["short"] + (1900 if part["short"] >= 69 else 2000)
        hour, minute = part.get("hour", 0), part.get("minute", 0)
        try:
            days = _days(year, part["month"], part["day"])
        except ValueError:
            continue
        if hour < 24 and minute < 60:
            return (days * _DAY_S + hour * 3600 + minute * 60) * SECOND_NS
    return None


def _days(year: int, month: int, day: int) -> int:
    """Days since the Unix epoch. Raises ``ValueError`` for a day that does not exist."""
    # The calendar repeats after 400 years, and ours begins with the year 1.
    return date(year or 400, month, day).toordinal() - _EPOCH.toordinal() - 146_097 * (year == 0)


def _reference(text: str, now_ns: int, zone: Zone) -> int:
    """``now``, a date, or a day and a time of day. Raises ``TimeTextError``."""
    if text in ("", "now"):
        return now_ns
    absolute = _absolute(text)
    if absolute is not None:
        return absolute
    now = _Moment.of(now_ns, zone)
    hour, minute, rest = now.hour, now.minute, text
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        hours, minutes, half, half_alone, rest = clock.groups()
        hour, minute = int(hours), int(minutes or 0)
        if "pm" in (half, half_alone):
            hour = (hour + 12) % 24
    for name, named_hour in _NAMED_HOURS.items():
        if rest.startswith(name):
            hour, minute, rest = named_hour, 0, rest.removeprefix(name)
            break
    moment = _Moment(now.day, hour, minute)
    if rest in _NAMED_DAYS:
        return moment.time_ns(zone) + _NAMED_DAYS[rest] * _UNITS_NS["d"]
    if rest in _WEEKDAYS:
        today_ns = moment.time_ns(zone)
        back = (_Moment.of(today_ns, zone).day.weekday() - _WEEKDAYS.index(rest)) % 7
        return today_ns - back * _UNITS_NS["d"]
    month_day = _MONTH_DAY.fullmatch(rest)
    if month_day is None:
        raise TimeTextError(f"unknown time reference {text}")
    try:
        day = date(now.day.year, _MONTHS.index(month_day[1]) + 1, int(month_day[2]))
    except ValueError:
        why = f"{month_day[1]} {now.day.year} has no day {int(month_day[2])}"
        raise TimeTextError(f"unknown time reference {text}: {why}") from None
    return _Moment(day, hour, minute).time_ns(zone)
