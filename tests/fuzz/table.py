"""The table: every parser of bytes and texts that others write (docs/developing.md, a parser of what others write)."""

from tests.fuzz import (
    rows_cluster,
    rows_disk,
    rows_m3db,
    rows_m3msg,
    rows_metrics,
    rows_queries,
    rows_senders,
    rows_sinks,
    rows_symbols,
    rows_writers,
    rows_writes,
)
from tests.fuzz.parser import Parser

__all__ = ["PARSERS"]

_PARTS = (
    rows_m3msg,
    rows_metrics,
    rows_writes,
    rows_senders,
    rows_sinks,
    rows_symbols,
    rows_queries,
    rows_m3db,
    rows_cluster,
    rows_disk,
    rows_writers,
)
PARSERS: dict[str, Parser] = {row.name: row for part in _PARTS for row in part.PARSERS}
