"""What M3DB's nodes refuse, as answers to a query: the statuses are M3's (docs/m3/coordinator.md, reading from M3DB)."""

from coordinator.query.errors import QueryError
from m3db.errors import CallError, CallFailure, ErrorFlag, M3DBError, NodeError
from m3db.read.index_query import IndexQueryError
from m3db.reader import ReadError

__all__ = ["refusal"]


def refusal(error: M3DBError) -> QueryError:
    """400 for what fails at any time, limits among them; 504 where nodes took too long; 500 for the rest."""
    if isinstance(error, IndexQueryError):
        return QueryError(str(error))
    causes = error.errors if isinstance(error, ReadError) else ()
    for host, cause in causes:
        if isinstance(cause, NodeError) and cause.bad_request:
            if ErrorFlag.RESOURCE_EXHAUSTED in cause.flags:
                return QueryError(
                    f"{cause.text} (node {host}); ask for fewer series or a shorter range", kind="execution"
                )
            return QueryError(f"{cause.text} (node {host})")
    if any(_late(cause) for _, cause in causes):
        return QueryError(str(error), kind="timeout", status=504)
    return QueryError(str(error), kind="internal", status=500)


def _late(error: M3DBError) -> bool:
    return (isinstance(error, CallError) and error.kind is CallFailure.TIMEOUT) or (
        isinstance(error, NodeError) and ErrorFlag.SERVER_TIMEOUT in error.flags
    )
