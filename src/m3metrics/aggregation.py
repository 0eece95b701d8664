"""Aggregation types, their ids and the type strings that outputs carry in their names (docs/m3/metrics.md, aggregation types).

An *aggregation id* is a 64-bit word with bit n set for type number n; 0 means "the defaults of the metric type".
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import IntEnum

import msgspec

from m3metrics.errors import PolicyError
from m3metrics.metric import MetricType

__all__ = [
    "DEFAULT_TYPES",
    "TRANSFORMS",
    "AggregationType",
    "TypesOptions",
    "aggregation_id_text",
    "compress",
    "decompress",
    "is_valid_for",
    "parse_type",
    "parse_types",
    "quantile_name",
    "quantiles_of",
    "types_text",
]


class AggregationType(IntEnum):
    """The types by number. The numbers are not in the order of the quantiles: P25 and P75 came last."""

    LAST = 1
    MIN = 2
    MAX = 3
    MEAN = 4
    MEDIAN = 5
    COUNT = 6
    SUM = 7
    SUM_SQ = 8
    STDEV = 9
    P10 = 10
    P20 = 11
    P30 = 12
    P40 = 13
    P50 = 14
    P60 = 15
    P70 = 16
    P80 = 17
    P90 = 18
    P95 = 19
    P99 = 20
    P999 = 21
    P9999 = 22
    P25 = 23
    P75 = 24

    @property
    def text(self) -> str:
        """The name in configuration and JSON: ``SumSq``."""
        return "".join(word.capitalize() for word in self.name.split("_"))

    @property
    def base_string(self) -> str:
        """The type string before transformation: ``lower``, ``p99``."""
        return _BASE_STRINGS.get(self, self.name.lower())

    @property
    def quantile(self) -> float | None:
        """The quantile that the type asks for, None for the others."""
        return _QUANTILES.get(self)

    @property
    def quantile_text(self) -> str | None:
        """The value of a Prometheus ``quantile`` tag; ``MEDIAN`` has none."""
        quantile = self.quantile
        return None if quantile is None or self is AggregationType.MEDIAN else str(quantile)


_BASE_STRINGS = {AggregationType.MIN: "lower", AggregationType.MAX: "upper"}
_QUANTILES = {AggregationType.MEDIAN: 0.5} | {
    kind: float(f"0.{kind.name[1:]}") for kind in AggregationType if kind.name[0] == "P"
}
_BY_TEXT = {kind.text.lower(): kind for kind in AggregationType}
_NUMBERS = frozenset(int(kind) for kind in AggregationType)
_BASIC = frozenset(range(AggregationType.MIN, AggregationType.STDEV + 1)) - {AggregationType.MEDIAN}

Types = tuple[AggregationType, ...]

DEFAULT_TYPES: dict[MetricType, Types] = {
    MetricType.COUNTER: (AggregationType.SUM,),
    MetricType.TIMER: (
        AggregationType.SUM,
        AggregationType.SUM_SQ,
        AggregationType.MEAN,
        AggregationType.MIN,
        AggregationType.MAX,
        AggregationType.COUNT,
        AggregationType.STDEV,
        AggregationType.MEDIAN,
        AggregationType.P50,
        AggregationType.P95,
        AggregationType.P99,
    ),
    MetricType.GAUGE: (AggregationType.LAST,),
}
"""M3's built-in defaults, in this order (it decides the order of the outputs)."""


def is_valid_for(metric_type: MetricType, number: int) -> bool:
    """Whether a type number may be asked of that metric type. For timers M3 refuses ``LAST`` only, even of numbers that are no type."""
    if metric_type is MetricType.TIMER:
        return number != AggregationType.LAST
    if metric_type is MetricType.COUNTER:
        return number in _BASIC
    return number in _BASIC or number == AggregationType.LAST


def parse_type(text: str) -> AggregationType:
    """The type of that name in any case (``min``, ``SumSq``); type strings such as ``lower`` are refused. Raises ``PolicyError``."""
    kind = _BY_TEXT.get(text.lower())
    if kind is None:
        raise PolicyError(f"invalid aggregation type: {text}")
    return kind


def parse_types(text: str) -> Types:
    """A comma-separated list, without spaces. Raises ``PolicyError``."""
    return tuple(parse_type(part) for part in text.split(","))


def types_text(types: Iterable[AggregationType]) -> str:
    """The names joined with commas."""
    return ",".join(kind.text for kind in types)


def compress(numbers: Iterable[int]) -> int:
    """The aggregation id of those types; duplicates collapse. Raises ``PolicyError`` for a number that is no type."""
    word = 0
    for number in numbers:
        word |= 1 << _checked(number)
    return word


def decompress(word: int) -> Types:
    """The types of an aggregation id in ascending number; empty for 0. Raises ``PolicyError`` where a bit is no type."""
    return tuple(_checked(number) for number in range(word.bit_length()) if word >> number & 1)


def _checked(number: int) -> AggregationType:
    if number not in _NUMBERS:
        raise PolicyError(f"invalid Type: {'UnknownType' if number == 0 else f'Type({number})'}")
    return AggregationType(number)


def aggregation_id_text(word: int) -> str:
    """As ``types_text``; empty for the default id. Raises ``PolicyError``."""
    return types_text(decompress(word))


def quantiles_of(types: Iterable[AggregationType]) -> tuple[float, ...]:
    """The quantiles of the types in their order, unsorted; ``MEDIAN`` and ``P50`` count once."""
    return tuple(dict.fromkeys(kind.quantile for kind in types if kind.quantile is not None))


def quantile_name(quantile: float) -> str:
    """``p`` and the percentage's digits without its first point: 0.5 → ``p50``, 0.999 → ``p999``, 0.001 → ``p01``."""
    percent = Decimal(repr(quantile * 100.0))
    text = f"{percent:f}"
    return "p" + text.removesuffix(".0").replace(".", "", 1)


TRANSFORMS: dict[str, Callable[[bytes], bytes]] = {
    "noop": lambda base: base,
    "empty": lambda _base: b"",
    "suffix": lambda base: b"." + base,
}
"""``counterTransformFnType`` and its siblings: what becomes of a type string."""


class TypesOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Default aggregation types and type strings per metric type. Transforms are keys of ``TRANSFORMS``."""

    counter_types: Types = DEFAULT_TYPES[MetricType.COUNTER]
    timer_types: Types = DEFAULT_TYPES[MetricType.TIMER]
    gauge_types: Types = DEFAULT_TYPES[MetricType.GAUGE]
    counter_transform: str = "noop"
    timer_transform: str = "noop"
    gauge_transform: str = "noop"

    def __post_init__(self) -> None:
        for name in (self.counter_transform, self.timer_transform, self.gauge_transform):
            if name not in TRANSFORMS:
                raise PolicyError(f"invalid transform: {name!r} (expected one of {', '.join(TRANSFORMS)})")

    def types_of(self, metric_type: MetricType, aggregation_id: int = 0) -> Types:
        """What is computed: the types of the id, the defaults for 0. Raises ``PolicyError`` for an id with an invalid bit."""
        if aggregation_id:
            return decompress(aggregation_id)
        return {
            MetricType.COUNTER: self.counter_types,
            MetricType.TIMER: self.timer_types,
            MetricType.GAUGE: self.gauge_types,
        }[metric_type]

    def type_string(self, metric_type: MetricType, kind: AggregationType) -> bytes:
        """What is appended to the id of an output of that type: ``lower``, ``.p99``, or nothing."""
        transform = {
            MetricType.COUNTER: self.counter_transform,
            MetricType.TIMER: self.timer_transform,
            MetricType.GAUGE: self.gauge_transform,
        }[metric_type]
        return TRANSFORMS[transform](kind.base_string.encode())

    def type_for(self, metric_type: MetricType, string: bytes) -> AggregationType | None:
        """The first type with that type string; with ``empty`` the empty string finds ``LAST``."""
        return next((kind for kind in AggregationType if self.type_string(metric_type, kind) == string), None)
