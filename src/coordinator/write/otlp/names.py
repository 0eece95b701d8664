"""Names of metrics, units and attributes → names of Prometheus, with suffixes for unit and kind.

The rules are those of Prometheus (its default ``UnderscoreEscapingWithSuffixes``), which are OpenTelemetry's too: a name is cut at all
characters that Prometheus does not have in names, and joined again with single ``_``; behind it the unit in full, ``_total`` for what only
grows, ``_ratio`` for gauges of unit 1. What a name has already is not put there twice. Names of attributes keep every ``_``, and have
``key`` in front of a single ``_``, ``key_`` in front of a digit: what Prometheus does unless its file says otherwise.
"""

import re

__all__ = ["NamingError", "label_name", "metric_name"]

_UNITS = {
    "d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds",
    "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes", "TiBy": "tibibytes",
    "KBy": "kilobytes", "MBy": "megabytes", "GBy": "gigabytes", "TBy": "terabytes",
    "m": "meters", "V": "volts", "A": "amperes", "J": "joules", "W": "watts", "g": "grams",
    "Cel": "celsius", "Hz": "hertz", "1": "", "%": "percent",
}  # fmt: skip
"""By their code in UCUM."""
_PER_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}
"""What stands behind a slash."""
_NO_NAME = re.compile(r"[^a-zA-Z0-9:]+")
_NO_LABEL = re.compile(r"[^a-zA-Z0-9]")


class NamingError(ValueError):
    """There is no name for it in Prometheus; the text says for what."""


def metric_name(name: str, unit: str, *, grows: bool = False, gauge: bool = False) -> str:
    """``grows``: a monotonic sum. Raises ``NamingError``."""
    words = [word for word in _NO_NAME.split(name) if word]
    words += _unit_words(unit, words)
    if grows:
        words = [word for word in words if word != "total"] + ["total"]
    if gauge and unit == "1":
        words = [word for word in words if word != "ratio"] + ["ratio"]
    made = "_".join(words)
    if made[:1].isdigit():
        made = f"_{made}"
    if not made.strip("_"):
        raise NamingError(f"metric {name!r} has no name in Prometheus")
    return made


def label_name(name: str) -> str:
    """Raises ``NamingError``."""
    made = _NO_LABEL.sub("_", name)
    if made[:1].isdigit():
        made = f"key_{made}"
    elif made.startswith("_") and not made.startswith("__"):
        made = f"key{made}"
    if not made.strip("_"):
        raise NamingError(f"attribute {name!r} has no name in Prometheus")
    return made


def _unit_words(unit: str, words: list[str]) -> list[str]:
    """What the unit adds to a name of ``words``. What is in braces is no unit but a remark."""
    main, _, per = (part.strip() for part in unit.partition("/"))
    main = "" if "{" in main or "}" in main else _cleaned(_UNITS.get(main, main))
    per = "" if "{" in per or "}" in per else _PER_UNITS.get(per, per)
    per = _cleaned(f"per_{per}").removesuffix("_") if per else ""
    if per == "per" or per in words:
        per = ""
    if main in words:
        main = ""
    if per:
        main = main.removesuffix("_")
    return [word for word in (main, per) if word]


def _cleaned(unit: str) -> str:
    return _NO_NAME.sub("_", unit).removeprefix("_")
