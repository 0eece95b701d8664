"""Names and values of tags, from the answers to ``aggregateRaw`` (docs/m3/m3db_reading.md, tagged reads)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3db.read import aggregate_kernels as kernels
from m3db.read.answers import bytes_of, rows_of
from m3db.thrift import METHODS
from m3db.thrift.structs import AggregateType

__all__ = ["Aggregated", "merge_aggregated", "read_aggregated", "request_body"]

_METHOD = METHODS["aggregateRaw"]


@dataclass(frozen=True, slots=True)
class Aggregated:
    """Names of tags, each with its values; both sorted. No values where only names were asked for."""

    tags: dict[bytes, list[bytes]]
    exhaustive: bool
    """Whether these are all there are."""


def request_body(
    namespace: bytes,
    query: bytes,
    start_ns: int,
    end_ns: int,
    *,
    names: Sequence[bytes] = (),
    names_only: bool = False,
    series_limit: int = 0,
    docs_limit: int = 0,
    require_exhaustive: bool = True,
) -> bytes:
    """The arguments of a call, as the coordinator writes them; ``names``: only of these tags, if there are any. A limit of 0 is none."""
    request = {
        "query": query,
        "rangeStart": start_ns,
        "rangeEnd": end_ns,
        "nameSpace": namespace,
        "tagNameFilter": list(names),
        "aggregateQueryType": AggregateType.NAMES if names_only else AggregateType.NAMES_AND_VALUES,
    }
    if series_limit:
        request["seriesLimit"] = series_limit
    if docs_limit:
        request["docsLimit"] = docs_limit
    if require_exhaustive:
        request["requireExhaustive"] = True
    return _METHOD.body(request)


def read_aggregated(body: bytes) -> Aggregated:
    """The answer of one node. Raises ``NodeError`` where it is an error, ``ThriftError`` where its bytes are bad."""
    names, values, exhaustive = rows_of(_METHOD, kernels.scan, kernels.NAME, kernels.VALUE, body, bytes_of(body))
    begins = np.zeros(len(names), np.int64)
    begins[1:] = names["values"][:-1]
    texts = [body[at : at + size] for at, size in values.tolist()]
    tags: dict[bytes, set[bytes]] = {}
    for (at, size, stop), begin in zip(names.tolist(), begins.tolist(), strict=True):
        tags.setdefault(body[at : at + size], set()).update(texts[begin:stop])
    return Aggregated({name: sorted(tags[name]) for name in sorted(tags)}, exhaustive)


def merge_aggregated(answers: Sequence[Aggregated], *, limit: int = 0) -> Aggregated:
    """All names and values of some answers.

    With a limit names are taken in their order until there are so many values, as in M3; the result then is not exhaustive.
    """
    joined: dict[bytes, set[bytes]] = {}
    for answer in answers:
        for name, values in answer.tags.items():
            joined.setdefault(name, set()).update(values)
    tags: dict[bytes, list[bytes]] = {}
    count = 0
    for name in sorted(joined):
        if limit and count >= limit:
            return Aggregated(tags, False)
        tags[name] = sorted(joined[name])
        count += len(tags[name])
    return Aggregated(tags, all(answer.exhaustive for answer in answers) and not 0 < limit < count)
