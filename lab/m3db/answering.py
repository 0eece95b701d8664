"""A call on its way through a node: checked, carried out, answered; pure but for the node's state."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.m3db import structs
from lab.m3db.faults import Fault, Kind
from lab.m3db.judge import Judge
from lab.m3db.reads import Reads
from lab.m3db.thrift import Struct, ThriftError, read, write
from lab.m3db.wire import Call
from lab.m3db.writes import Crash, ElementError, Failed, Reply, Told, Writer, exception, told_by

__all__ = ["Methods", "State"]

_SERVICE = "Node"
_BAD_REQUEST, _UNEXPECTED = 6, 5
_NO_DATABASE = "database is not yet initialized"


@dataclass(slots=True)
class State:
    """What operators see of a node."""

    database: bool = True
    """False: a node that has no placement and no namespaces yet."""
    bootstrapped: bool = True
    calls: dict[str, int] = field(default_factory=dict)
    """Complete calls, by method."""


Handler = Callable[[dict[str, Any], Told], Reply]


class Methods:
    """The methods of a node. ``answer`` never waits."""

    def __init__(self, writer: Writer, reads: Reads, state: State, judge: Judge) -> None:
        self._judge, self._state, self._writer = judge, state, writer
        self._handlers: dict[str, tuple[Struct, Handler]] = {
            "health": (structs.arguments("health"), self._health),
            "bootstrapped": (structs.arguments("bootstrapped"), self._bootstrapped),
            "bootstrappedInPlacementOrNoPlacement": (
                structs.arguments("bootstrappedInPlacementOrNoPlacement"),
                self._bootstrapped_if_placed,
            ),
            "setWriteNewSeriesAsync": (structs.SET_NEW_SERIES_ASYNC, self._set_new_series_async),
            "writeTaggedBatchRaw": (structs.WRITE_TAGGED_BATCH_RAW, self._whole(writer.batch)),
            "writeTaggedBatchRawV2": (structs.WRITE_TAGGED_BATCH_RAW_V2, self._whole(writer.batch_v2)),
            "writeBatchRaw": (structs.WRITE_BATCH_RAW, self._whole(writer.batch_untagged)),
            "writeTagged": (structs.WRITE_TAGGED, self._single(writer.tagged)),
            "fetchTagged": (structs.FETCH_TAGGED, self._single(reads.fetch_tagged)),
            "aggregateRaw": (structs.AGGREGATE_RAW, self._single(reads.aggregate)),
            "fetch": (structs.FETCH, self._single(reads.fetch)),
            "query": (structs.QUERY, self._single(reads.query)),
        }

    def answer(self, call: Call, fault: Fault | None) -> Reply | None:
        """The answer; None: there is none. Raises ``Failed`` for an error frame, ``Crash`` if a node ends of it."""
        service, separator, method = call.method.partition("::")
        if not (call.service == service == _SERVICE and separator and method in self._handlers):
            self._judge.note(f"method {call.method!r} of service {call.service!r}")
            raise Failed(_BAD_REQUEST, f'no handler for service "{call.service}" and method "{call.method}"')
        self._judge_headers(call)
        self._state.calls[method] = self._state.calls.get(method, 0) + 1
        if call.ttl_ms == 0:
            self._judge.note(f"{method} with a TTL of 0")
            return None
        if not self._headers_are_whole(call.arg2):
            self._judge.note(f"application headers {call.arg2.hex()!r}, whose length is wrong")
            return None
        if call.arg2 != b"\x00\x00":
            self._judge.note("application headers")
        if fault is not None and fault.kind is Kind.BLIND:
            return Reply(0, write(structs.VOID_RESULT, {}))
        table, handler = self._handlers[method]
        try:
            arguments = read(table, call.body, self._judge)
        except ThriftError as error:
            self._judge.note(f"{method}: {error}")
            raise Failed(_UNEXPECTED if error.clean else _BAD_REQUEST, str(error)) from None
        if arguments["_rest"]:
            self._judge.note(f"{method}: {arguments['_rest']} bytes behind the struct")
            return None
        told: Told = lambda _: None  # noqa: E731 - nothing is told
        if fault is not None and fault.kind is Kind.ELEMENTS:
            told = told_by(fault.error, fault.indices, fault.text)
        if table.fields and arguments["req"] is None:
            self._judge.note(f"{method} without its request: a node ends of it")
            raise Crash(f"{method} without its request")
        return handler(arguments.get("req") or {}, told)

    def _judge_headers(self, call: Call) -> None:
        if call.headers.keys() != {"as", "cn"} or call.headers["as"] != "thrift" or not call.headers["cn"]:
            self._judge.note(f"transport headers {call.headers}")

    def _headers_are_whole(self, arg2: bytes) -> bool:
        at = 2
        for _ in range(2 * int.from_bytes(arg2[:2], "big")):
            at += 2 + int.from_bytes(arg2[at : at + 2], "big")
        return at == len(arg2)

    def _whole(self, handler: Handler) -> Handler:
        """Failures are error frames."""

        def guarded(request: dict[str, Any], told: Told) -> Reply:
            if not self._state.database:
                raise Failed(_UNEXPECTED, f"Error({{Type:INTERNAL_ERROR Message:{_NO_DATABASE} Flags:0}})")
            return handler(request, told)

        return guarded

    def _single(self, handler: Handler) -> Handler:
        """Failures are exceptions."""

        def guarded(request: dict[str, Any], told: Told) -> Reply:
            error = None if self._state.database else ElementError(0, _NO_DATABASE)
            error = error or told(0)
            return exception(error) if error else handler(request, told)

        return guarded

    # --- what operators ask

    def _health(self, _: dict[str, Any], told: Told) -> Reply:
        if error := told(0):
            return exception(error)
        ok = {"ok": True, "status": "up", "bootstrapped": self._state.database and self._state.bootstrapped}
        return Reply(
            0,
            write(
                structs.HEALTH_RESULT,
                {
                    "success": {
                        **ok,
                    }
                },
            ),
        )

    def _bootstrapped(self, _: dict[str, Any], told: Told) -> Reply:
        error = told(0)
        if not self._state.database:
            error = ElementError(0, _NO_DATABASE)
        elif not self._state.bootstrapped:
            error = ElementError(0, "node is not bootstrapped")
        return exception(error) if error else Reply(0, write(structs.EMPTY_RESULT, {"success": {}}))

    def _bootstrapped_if_placed(self, request: dict[str, Any], told: Told) -> Reply:
        if not self._state.database:
            return Reply(0, write(structs.EMPTY_RESULT, {"success": {}}))
        return self._bootstrapped(request, told)

    def _set_new_series_async(self, request: dict[str, Any], told: Told) -> Reply:
        if error := told(0):
            return exception(error)
        self._writer.new_series_async = request["writeNewSeriesAsync"]
        return Reply(0, write(structs.VOID_RESULT, {}))
