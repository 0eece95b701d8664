"""The methods of a node that write: what is checked, what is stored, which errors come back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lab.m3db import structs
from lab.m3db.faults import Error
from lab.m3db.judge import Judge
from lab.m3db.namespaces import HOUR_NS, Namespace
from lab.m3db.series import BrokenTagsError, CutTagsError, Tags, parse_tags, quoted_id
from lab.m3db.storage import Point, Storage
from lab.m3db.thrift import write

__all__ = ["Crash", "ElementError", "Failed", "Reply", "Told", "Writer", "exception", "told_by"]

_BAD, _INTERNAL = 1, 0
_RESERVED = b"_m3ninx_id"
_YEARS_NS = 20 * 365 * 24 * HOUR_NS
Scheme = Callable[[Tags], bytes]


class Crash(Exception):
    """A real node would end."""


class Failed(Exception):
    """An error frame: ``code`` and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class ElementError:
    """What becomes of an element, or of a call that has none."""

    type: int
    text: str
    flags: int = 0

    def printed(self) -> str:
        """As the text of an error frame has it."""
        kind = "BAD_REQUEST" if self.type == _BAD else "INTERNAL_ERROR"
        return f"Error({{Type:{kind} Message:{self.text} Flags:{self.flags}}})"

    def fields(self) -> dict[str, Any]:
        """As a struct."""
        return {"type": self.type, "message": self.text, "flags": self.flags}


@dataclass(frozen=True, slots=True)
class Reply:
    """Code and struct of an answer."""

    code: int
    body: bytes


def exception(error: ElementError) -> Reply:
    """An answer that is an error."""
    return Reply(1, write(structs.ERROR_RESULT, {"err": error.fields()}))


class Writer:
    """Writes into ``storage`` what a node takes.

    ``now``: its clock, in ns. ``shard_fault``: why the node does not take a series id, because of its shard; None: it does.
    ``new_series_async``, a node's default: that the time of a point is refused is not reported for a series that is not known yet;
    ``dropped`` has these. Tags that the index does not take are always reported.
    """

    def __init__(
        self, storage: Storage, namespaces: dict[str, Namespace], judge: Judge, now: Callable[[], int],
        shard_fault: Callable[[bytes], str | None], scheme: Scheme = quoted_id,
    ) -> None:  # fmt: skip
        self.storage, self.namespaces = storage, namespaces
        self.new_series_async = True
        self.dropped: list[str] = []
        self.stored: Callable[[str, bytes, bytes, Point, int], None] | None = None
        """Told of each point that was stored."""
        self.scheme = scheme
        self._judge, self._now, self._shard_fault = judge, now, shard_fault

    # --- methods

    def batch(self, request: dict[str, Any], told: "Told") -> Reply:
        """``writeTaggedBatchRaw``."""
        space = self._namespace(request["nameSpace"])
        return _batch_reply(self._elements(((space, element) for element in request["elements"]), told))

    def batch_v2(self, request: dict[str, Any], told: "Told") -> Reply:
        """``writeTaggedBatchRawV2``: elements are sorted by namespace first, and errors name places in the sorted list."""
        names, elements = request["nameSpaces"], request["elements"]
        for element in elements:
            if not 0 <= element["nameSpace"] < len(names):
                self._judge.note(f"namespace {element['nameSpace']} of {len(names)}")
                text = f"namespace index: {element['nameSpace']} is out of range of provided namespaces"
                raise Failed(5, text)
        ordered = sorted(elements, key=lambda element: int(element["nameSpace"]))
        if ordered != elements:
            self._judge.note("elements of several namespaces that are not grouped: indices of errors say nothing")
        spaces = ((self._namespace(names[element["nameSpace"]]), element) for element in ordered)
        return _batch_reply(self._elements(spaces, told))

    def batch_untagged(self, request: dict[str, Any], told: "Told") -> Reply:
        """``writeBatchRaw``."""
        space = self._namespace(request["nameSpace"])
        pairs = ((space, {**element, "encodedTags": None}) for element in request["elements"])
        return _batch_reply(self._elements(pairs, told))

    def tagged(self, request: dict[str, Any], told: "Told") -> Reply:
        """``writeTagged``: one point."""
        space = self.namespaces.get(request["nameSpace"])
        if space is None:
            return exception(_unknown(request["nameSpace"], self._judge))
        tags = [(_raw(tag["name"]), _raw(tag["value"])) for tag in request["tags"]]
        error = told(0) or self._time_type(request["datapoint"])
        error = error or self._point(space, _raw(request["iD"]), b"", tags, request["datapoint"])
        return exception(error) if error else Reply(0, write(structs.VOID_RESULT, {}))

    # --- elements

    def _elements(
        self, elements: Iterable[tuple[Namespace, dict[str, Any]]], told: "Told"
    ) -> list[tuple[int, ElementError]]:
        unknown_times, others = [], []
        count = 0
        for index, (space, element) in enumerate(elements):
            count += 1
            if error := self._time_type(element["datapoint"]):
                unknown_times.append((index, error))
            elif error := told(index) or self._element(space, element):
                others.append((index, error))
        if not count:
            self._judge.note("a batch without elements")
        return unknown_times + others

    def _namespace(self, name: bytes) -> Namespace:
        space = self.namespaces.get(name.decode("utf-8", "surrogateescape"))
        if space is None:
            raise Failed(5, _unknown(name.decode("utf-8", "replace"), self._judge).printed())
        return space

    def _time_type(self, datapoint: dict[str, Any]) -> ElementError | None:
        if datapoint["timestampTimeType"] in structs.TIME_UNITS:
            return None
        self._judge.note(f"TimeType {datapoint['timestampTimeType']}")
        return ElementError(_BAD, "unknown time type")

    def _element(self, space: Namespace, element: dict[str, Any]) -> ElementError | None:
        block, series_id = element["encodedTags"], element["iD"]
        if block is None:
            return self._point(space, series_id, b"", [], element["datapoint"])
        tags: Tags = []
        broken = None
        try:
            tags, rest = parse_tags(block)
        except CutTagsError as error:
            self._judge.note(f"{error}: a node ends of it")
            raise Crash(str(error)) from error
        except BrokenTagsError as error:
            self._judge.note(f"tag block: {error}")
            broken = ElementError(_INTERNAL if error.internal else _BAD, str(error))
        else:
            self._judge_tags(series_id, block, tags, rest)
        return self._point(space, series_id, block, tags, element["datapoint"], broken)

    def _judge_tags(self, series_id: bytes, block: bytes, tags: Tags, rest: int) -> None:
        if not block:
            self._judge.note("an empty tag block")
        if rest:
            self._judge.note(f"{rest} bytes behind the tags of {series_id!r}")
        names = [name for name, _ in tags]
        if any(name >= after for name, after in pairwise(names)):
            self._judge.note(f"tags of {series_id!r} are not sorted, or one occurs twice")
        if series_id != (wanted := self.scheme(tags)):
            self._judge.note(f"id {series_id!r} of tags whose id is {wanted!r}")

    def _point(
        self, space: Namespace, series_id: bytes, block: bytes, tags: Tags, datapoint: dict[str, Any], broken: ElementError | None = None
    ) -> ElementError | None:  # fmt: skip
        time_ns = datapoint["timestamp"] * structs.TIME_UNITS[datapoint["timestampTimeType"]]
        if datapoint["annotation"] == b"":
            self._judge.note(f"an empty annotation for {series_id!r}")
        if abs(time_ns - self._now()) > _YEARS_NS:
            self._judge.note(
                f"time {datapoint['timestamp']} in TimeType {datapoint['timestampTimeType']} for {series_id!r}"
            )
        if fault := self._shard_fault(series_id):
            return ElementError(_INTERNAL, fault)
        is_new = self.storage.find(space.name, series_id) is None
        if is_new and (error := broken or _document_error(tags)):
            return error
        if refusal := space.refusal(series_id, time_ns, self._now()):
            if is_new and self.new_series_async:
                self.dropped.append(refusal)
                return None
            return ElementError(_BAD, refusal)
        point = Point(time_ns, datapoint["value"], datapoint["timestampTimeType"], datapoint["annotation"] or b"")
        self.storage.write(space.name, series_id, block, tags, point, space.block_ns)
        if self.stored is not None:
            self.stored(space.name, series_id, block, point, space.block_ns)
        return None


Told = Callable[[int], ElementError | None]
"""Index of an element → the error that a fault gives it."""


def told_by(error: Error, indices: Sequence[int] | None, text: str) -> Told:
    """A fault as what elements are told."""
    kind, flags = error.numbers
    return lambda index: ElementError(kind, text, flags) if indices is None or index in indices else None


def _unknown(name: str, judge: Judge) -> ElementError:
    judge.note(f"namespace {name!r}, which there is not")
    return ElementError(_BAD, f"unknown namespace: {name}")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _document_error(tags: Tags) -> ElementError | None:
    """Why the index does not take a series of these tags."""
    for name, value in tags:
        if name == _RESERVED:
            return ElementError(_INTERNAL, f"unable to parse metric using reserved field name: {_RESERVED.decode()}")
        for literal, what in ((name, "name"), (value, "value")):
            try:
                literal.decode()
            except UnicodeDecodeError:
                numbers = " ".join(map(str, literal))
                text = f"document has invalid non-UTF8 field {what}: {what}=[{numbers}], {what}_hex={literal.hex()}"
                return ElementError(_INTERNAL, text)
    return None


def _batch_reply(errors: list[tuple[int, ElementError]]) -> Reply:
    if not errors:
        return Reply(0, write(structs.VOID_RESULT, {}))
    listed = [{"index": index, "err": error.fields()} for index, error in errors]
    return Reply(1, write(structs.BATCH_ERRORS, {"err": {"errors": listed}}))
