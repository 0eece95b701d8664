"""Errors of nodes as answers to queries."""

import pytest

from coordinator.query.m3db.refusals import refusal
from m3db.errors import CallError, CallFailure, ErrorFlag, ErrorType, M3DBError, NodeError
from m3db.read.index_query import IndexQueryError
from m3db.reader import ReadError

LIMIT = NodeError(ErrorType.BAD_REQUEST, "query exceeded limit", ErrorFlag.RESOURCE_EXHAUSTED)
UNKNOWN = NodeError(ErrorType.BAD_REQUEST, "unknown namespace: x")
LATE = NodeError(ErrorType.INTERNAL, "late", ErrorFlag.SERVER_TIMEOUT)
TIMEOUT = CallError(CallFailure.TIMEOUT, "no answer")
GONE = CallError(CallFailure.NETWORK, "gone")


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        ([GONE, LIMIT], (400, "execution", "query exceeded limit (node n1); ask for fewer series or a shorter range")),
        ([TIMEOUT, UNKNOWN], (400, "bad_data", "unknown namespace: x (node n1)")),
        ([GONE, LATE], (504, "timeout", "too few")),
        ([TIMEOUT, GONE], (504, "timeout", "too few")),
        ([GONE, NodeError(ErrorType.INTERNAL, "x")], (500, "internal", "too few")),
        ([], (500, "internal", "too few")),
    ],
)
def test_by_what_the_nodes_said(causes: list[M3DBError], expected: tuple[int, str, str]) -> None:
    error = refusal(ReadError("too few", [(f"n{i}", cause) for i, cause in enumerate(causes)]))
    assert (error.status, error.kind, str(error)) == expected


def test_a_bad_pattern() -> None:
    error = refusal(IndexQueryError("regex error"))
    assert (error.status, error.kind) == (400, "bad_data")
