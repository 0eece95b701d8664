"""The functions that render targets are compiled with: names, kinds of arguments, defaults (docs/m3/coordinator.md, graphite targets).

None of them is evaluated. ``find_function`` is all that others need.
"""

import json
from enum import StrEnum
from typing import NamedTuple

__all__ = ["Function", "Kind", "Value", "find_function", "function_names"]

Value = str | float | int | bool | None
"""A constant: a text, a float, an int, a boolean, or None where an omitted argument has no default of its own."""


class Kind(StrEnum):
    """What an argument is; the values are M3's names, as its errors have them."""

    SERIES = "singlePathSpec"
    LISTS = "multiplePathSpecs"
    FLOAT = "float64"
    INT = "int"
    STRING = "string"
    BOOL = "bool"
    ANY = "genericInterface"


class Function(NamedTuple):
    """``defaults``: by position from 0, of arguments that may be left out."""

    name: str
    kinds: tuple[Kind, ...]
    variadic: bool
    """Whether the last argument may come any number of times, or not at all."""
    defaults: dict[int, Value]
    shifts: bool
    """Whether it reads another range than the request's."""

    def kind(self, index: int) -> Kind:
        """What argument ``index``, counted from 0, has to be."""
        return self.kinds[min(index, len(self.kinds) - 1)]


_SIGNATURES = """
absolute: series
aggregate: series string
aggregateLine: series string="avg"
aggregateWithWildcards: series string int=-1...
alias: series string
aliasByMetric: series
aliasByNode: series int...
aliasSub: series string string
applyByNode: series int string string=""
asPercent: series any=null int...
averageAbove: series float
averageBelow: series float
averageSeries: lists...
averageSeriesWithWildcards: series int=-1...
cactiStyle: series
changed: series
consolidateBy: series string
constantLine: float
countSeries: lists...
cumulative: series
currentAbove: series float
currentBelow: series float
dashed: series float=5
delay: series int
derivative: series
diffSeries: lists...
divideSeries: series series
divideSeriesLists: series series
exclude: series string
exponentialMovingAverage: series any
fallbackSeries: series series
filterSeries: series string string float
grep: series string
group: lists...
groupByNode: series int string="average"
groupByNodes: series string int...
highest: series int=1 string="average"
highestAverage: series int
highestCurrent: series int
highestMax: series int
hitcount: series string bool=false
holtWintersAberration: series float
holtWintersConfidenceBands: series float
holtWintersForecast: series
identity: string
integral: series
integralByInterval: series string
interpolate: series int=-1
invert: series
isNonNull: series
keepLastValue: series int=-1
legendValue: series string
limit: series int
logarithm: series float=10
lowest: series int=1 string="average"
lowestAverage: series int
lowestCurrent: series int
maxSeries: lists...
maximumAbove: series float
minSeries: lists...
minimumAbove: series float
mostDeviant: series int
movingAverage: series any float=0
movingMax: series any float=0
movingMedian: series any float=0
movingMin: series any float=0
movingSum: series any float=0
movingWindow: series any string="avg" float=0
multiplySeries: lists...
multiplySeriesWithWildcards: series int=-1...
nPercentile: series float
nonNegativeDerivative: series float=NaN
offset: series float
offsetToZero: series
perSecond: series float=NaN
percentileOfSeries: series float any=false
pow: series float
powSeries: lists...
randomWalkFunction: string int=60
rangeOfSeries: series
removeAbovePercentile: series float
removeAboveValue: series float
removeBelowPercentile: series float
removeBelowValue: series float
removeEmptySeries: series float=0
roundFunction: series int=0
scale: series float
scaleToSeconds: series int
smartSummarize: series string string=""
sortBy: series string="average" bool=false
sortByMaxima: series
sortByMinima: series
sortByName: series bool=false bool=false
sortByTotal: series
squareRoot: series
stddevSeries: lists...
stdev: series int float=0.1
substr: series int=0 int=0
sumSeries: lists...
sumSeriesWithWildcards: series int=-1...
summarize: series string string="" bool=false
sustainedAbove: series float string
sustainedBelow: series float string
threshold: float string="" string=""
timeFunction: string int=60
timeShift: series string bool=true bool=false
timeSlice: series string string="now"
transformNull: series float=0
useSeriesAbove: series float string string
weightedAverage: series series int
"""
"""A function a line: kinds of its arguments, with defaults; dots: the last argument repeats."""
_ALIASES = {
    "abs": "absolute", "aliasByTags": "aliasByNode", "avg": "averageSeries", "log": "logarithm", "max": "maxSeries",
    "min": "minSeries", "randomWalk": "randomWalkFunction", "round": "roundFunction", "sum": "sumSeries", "time": "timeFunction",
}  # fmt: skip
_SHIFTING = {
    "exponentialMovingAverage", "hitcount", "movingAverage", "movingMax", "movingMedian", "movingMin", "movingSum", "movingWindow",
    "timeShift",
}  # fmt: skip
_KINDS = {
    "series": Kind.SERIES, "lists": Kind.LISTS, "float": Kind.FLOAT, "int": Kind.INT, "string": Kind.STRING, "bool": Kind.BOOL,
    "any": Kind.ANY,
}  # fmt: skip


def find_function(name: str) -> Function | None:
    """The function of that name or alias."""
    return _FUNCTIONS.get(name)


def function_names() -> list[str]:
    """All names and aliases, sorted."""
    return sorted(_FUNCTIONS)


def _function(line: str) -> Function:
    name, _, signature = line.partition(": ")
    kinds, defaults = [], {}
    for index, argument in enumerate(signature.removesuffix("...").split()):
        kind_name, _, default = argument.partition("=")
        kind = _KINDS[kind_name]
        kinds.append(kind)
        if default:
            value = json.loads(default)
            defaults[index] = float(value) if kind is Kind.FLOAT else value
    return Function(name, tuple(kinds), signature.endswith("..."), defaults, name in _SHIFTING)


_FUNCTIONS = {function.name: function for function in map(_function, _SIGNATURES.split("\n")[1:-1])}
_FUNCTIONS |= {alias: _FUNCTIONS[name] for alias, name in _ALIASES.items()}
