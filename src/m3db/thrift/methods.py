"""The calls that a client makes of nodes: names, arguments, results (docs/m3/m3db_wire.md, methods)."""

from dataclasses import dataclass, field
from typing import Any

from m3db.errors import NodeError, ThriftError
from m3db.thrift import structs
from m3db.thrift.plain import marshal, unmarshal
from m3db.thrift.schema import Field, Struct, StructValue

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the service ``Node``."""

    name: str
    request: Struct | None = None
    """None: it takes no arguments."""
    success: Struct | None = None
    """None: it has no result."""
    error: Struct = structs.ERROR
    """What it declares to end with otherwise."""
    args: Struct = field(init=False, repr=False)
    """What is on the wire: the request as field 1 of a struct."""
    result: Struct = field(init=False, repr=False)
    """What is on the wire: the success as field 0, or the error as field 1."""

    def __post_init__(self) -> None:
        args = () if self.request is None else (Field(1, "req", self.request, required=True),)
        object.__setattr__(self, "args", Struct(f"{self.name} arguments", args))
        success = () if self.success is None else (Field(0, "success", self.success),)
        object.__setattr__(self, "result", Struct(f"{self.name} result", (*success, Field(1, "err", self.error))))

    def body(self, request: StructValue | None = None) -> bytes:
        """The argument bytes of a call. Raises ``ThriftError``."""
        return marshal(self.args, {} if request is None else {"req": request})

    def outcome(self, body: bytes) -> Any:
        """The success of an answer, None of a method without result. Raises ``NodeError`` where it is an ``Error``, and
        ``ThriftError`` where it is neither.

        Not for methods that declare another error."""
        values = unmarshal(self.result, body)
        if "err" in values:
            error = values["err"]
            raise NodeError(error["type"], error["message"].decode(errors="backslashreplace"), error["flags"])
        if self.success is not None and "success" not in values:
            raise ThriftError(f"{self.name}: neither a result nor an error")
        return values.get("success")


METHODS = {
    method.name: method
    for method in (
        Method("health", None, structs.NODE_HEALTH_RESULT),
        Method("bootstrapped", None, Struct("NodeBootstrappedResult")),
        Method("bootstrappedInPlacementOrNoPlacement", None, Struct("NodeBootstrappedInPlacementOrNoPlacementResult")),
        Method("writeTaggedBatchRaw", structs.WRITE_TAGGED_BATCH_RAW_REQUEST, error=structs.WRITE_BATCH_RAW_ERRORS),
        Method("fetchTagged", structs.FETCH_TAGGED_REQUEST, structs.FETCH_TAGGED_RESULT),
        Method("aggregateRaw", structs.AGGREGATE_QUERY_RAW_REQUEST, structs.AGGREGATE_QUERY_RAW_RESULT),
    )
}
"""By name."""
