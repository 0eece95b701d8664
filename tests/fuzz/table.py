"""The table: every parser of bytes and texts that others write (docs/developing.md, a parser of what others write)."""

from tests.fuzz import rows_cluster, rows_m3db, rows_m3msg, rows_metrics, rows_queries, rows_writes
from tests.fuzz.parser import Parser

__all__ = ["PARSERS"]

PARSERS: dict[str, Parser] = {
    row.name: row
    for part in (rows_cluster, rows_m3db, rows_m3msg, rows_metrics, rows_queries, rows_writes)
    for row in part.PARSERS
}
