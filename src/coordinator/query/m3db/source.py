"""M3DB as a source of queries: matchers into index queries, namespaces asked at once, their answers put together.

What is asked is what the Go coordinator asks (docs/m3/coordinator.md, reading from M3DB), but for the end of the range, which belongs to it
here.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import reduce
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from coordinator.config import Namespace
from coordinator.matchers import Matcher, MatchOp
from coordinator.query.errors import QueryError
from coordinator.query.m3db.consolidate import Found, consolidated, distinct
from coordinator.query.m3db.fan_out import FanOut, Part, fan_out
from coordinator.query.m3db.refusals import refusal
from coordinator.query.m3db.tags import asked_for, judged_here, labels_of, sorted_tags
from coordinator.query.source import LATEST_MS, Alternatives, Listing, Notes, ReadOptions, Selection, Series
from m3db.errors import M3DBError
from m3db.read.aggregate import Aggregated
from m3db.read.index_query import IndexMatcher, MatchKind, Query, disjunction, marshal_query, query_of
from m3db.read.merge import Fetched
from m3db.reader import Reader
from m3x.clock import wall_ns
from m3x.golang import go_duration

__all__ = ["M3DBSource"]

_MS = 1_000_000
_LATEST_NS = (1 << 63) - 1
_Answer = TypeVar("_Answer")


class M3DBSource:
    """``Source`` over the nodes of M3DB; ``namespaces`` says what there is now.

    ``odd_tags``: whether there may be tags without value or names that are there twice, which the index has otherwise than queries.
    """

    lists_cheaply = False
    knows_ids = True

    def __init__(
        self,
        reader: Reader,
        namespaces: Callable[[], Sequence[Namespace]],
        *,
        odd_tags: bool = False,
        clock: Callable[[], int] = wall_ns,
    ) -> None:
        self._reader = reader
        self._namespaces = namespaces
        self._odd_tags = odd_tags
        self._clock = clock

    def oldest_ms(self, resolution_ms: int) -> int:
        """See ``Source``."""
        kept = [one.retention_ns for one in self._namespaces() if one.resolution_ns == resolution_ms * _MS]
        return (self._clock() - max(kept, default=0)) // _MS

    async def select(
        self, matchers: Sequence[Matcher], start_ms: int, end_ms: int, options: ReadOptions, *, lookback_ms: int = 0
    ) -> Selection:
        """See ``Source``. A series is read from one namespace, and from the unaggregated one for what comes late (``fan_out``)."""
        start_ns, end_ns = _range(start_ms - lookback_ms, end_ms, options)
        plan = self._plan(start_ns, end_ns, options)
        query = marshal_query(self._query(matchers))

        def begin_ns(part: Part) -> int:
            """Where points begin that may be wanted: values of a coarse resolution are looked back for longer."""
            more_ns = part.namespace.resolution_ns - lookback_ms * _MS if lookback_ms else 0
            return start_ns - max(more_ns, 0)

        found = await _all([self._fetch(part, query, begin_ns(part), end_ns, options) for part in plan.parts])

        def arranged() -> Selection:
            columns = [_found(part, one, self._judged(matchers)) for part, one in zip(plan.parts, found, strict=True)]
            notes = reduce(Notes.joined, (one.series.notes for one in columns), _notes(plan, found))
            return consolidated(plan, columns, options.series_limit, notes)

        return await asyncio.to_thread(arranged)

    async def label_names(
        self, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions
    ) -> Listing:
        """See ``Source``."""
        if self._odd_tags:
            listed = await self.series(alternatives, start_ms, end_ms, options)
            return Listing(await asyncio.to_thread(labels_of(listed).names), listed.notes)
        return await self._listing(_any_of(alternatives), (), start_ms, end_ms, options)

    async def label_values(
        self, name: bytes, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions
    ) -> Listing:
        """See ``Source``."""
        there = Matcher(MatchOp.NOT_EQUAL, name, b"")
        having = [(there, *(one for one in matchers if one != there)) for matchers in alternatives or ((),)]
        if self._odd_tags:
            listed = await self.series(having, start_ms, end_ms, options)
            return Listing(await asyncio.to_thread(labels_of(listed).values, name), listed.notes)
        return await self._listing(_any_of(having), (name,), start_ms, end_ms, options)

    async def series(self, alternatives: Alternatives, start_ms: int, end_ms: int, options: ReadOptions) -> Series:
        """See ``Source``."""
        start_ns, end_ns = self._span(start_ms, end_ms, options)
        plan = self._plan(start_ns, end_ns, options)
        asked = [(matchers, part) for matchers in alternatives or ((),) for part in plan.parts]
        found = await _all(
            [
                self._fetch(part, marshal_query(self._query(matchers)), start_ns, end_ns, options, data=False)
                for matchers, part in asked
            ]
        )
        judged = [self._judged(matchers) for matchers, _ in asked]
        listed = await asyncio.to_thread(lambda: distinct(list(map(_listed, found, judged))))
        return Series(listed.arena, listed.at, listed.size, listed.notes.joined(_notes(plan, found)))

    def _query(self, matchers: Sequence[Matcher]) -> Query:
        """What nodes are asked for."""
        return _query(asked_for(matchers) if self._odd_tags else matchers)

    def _judged(self, matchers: Sequence[Matcher]) -> Sequence[Matcher]:
        """Which of them are decided here."""
        return judged_here(matchers) if self._odd_tags else ()

    def _span(self, start_ms: int, end_ms: int, options: ReadOptions) -> tuple[int, int]:
        """Of a listing: a range that does not say where it ends does so now, as M3's."""
        return _range(start_ms, self._clock() // _MS if end_ms >= LATEST_MS else end_ms, options)

    def _plan(self, start_ns: int, end_ns: int, options: ReadOptions) -> FanOut:
        restriction, namespaces = options.restriction, self._namespaces()
        return fan_out(namespaces, start_ns, end_ns, self._clock(), restriction, paths=options.paths)

    async def _fetch(
        self, part: Part, query: bytes, start_ns: int, end_ns: int, options: ReadOptions, *, data: bool = True
    ) -> Fetched:
        return await self._reader.fetch_tagged(
            part.namespace.name.encode(),
            query,
            *part.narrowed(start_ns, end_ns),
            series_limit=options.series_limit,
            docs_limit=options.docs_limit,
            require_exhaustive=options.require_exhaustive,
            fetch_data=data,
            timeout_s=options.timeout_s,
        )

    async def _listing(
        self, query: Query, names: Sequence[bytes], start_ms: int, end_ms: int, options: ReadOptions
    ) -> Listing:
        """The values of the labels ``names``; without any, the names that there are."""
        start_ns, end_ns = self._span(start_ms, end_ms, options)
        plan = self._plan(start_ns, end_ns, options)
        data = marshal_query(query)
        found = await _all(
            [
                self._reader.aggregate(
                    part.namespace.name.encode(),
                    data,
                    *part.narrowed(start_ns, end_ns),
                    names=names,
                    names_only=not names,
                    series_limit=options.series_limit,
                    docs_limit=options.docs_limit,
                    require_exhaustive=options.require_exhaustive,
                    timeout_s=options.timeout_s,
                )
                for part in plan.parts
            ]
        )
        texts: set[bytes] = set()
        for one in found:
            texts.update(*(one.tags.get(name, ()) for name in names) if names else (one.tags,))
        return Listing(sorted(texts), _notes(plan, found))


def _query(matchers: Sequence[Matcher]) -> Query:
    # M3 makes a query that matches nothing of several matchers that all match everything.
    kept = [one for one in matchers if not (one.op is MatchOp.REGEX and one.value == b".*")]
    return query_of([IndexMatcher(MatchKind(int(one.op)), one.name, one.value) for one in kept])


def _any_of(alternatives: Alternatives) -> Query:
    queries = [_query(matchers) for matchers in alternatives or ((),)]
    return queries[0] if len(queries) == 1 else disjunction(queries)


def _range(start_ms: int, end_ms: int, options: ReadOptions) -> tuple[int, int]:
    """Nanoseconds, the end exclusive. Raises ``QueryError`` for a range beyond the limit, unless it may be cut."""
    limit_ns = options.range_limit_ns
    if 0 < limit_ns < (end_ms - start_ms) * _MS:
        if options.require_exhaustive:
            raise QueryError(
                f"query exceeded limit: require_exhaustive=true, range_limit={go_duration(limit_ns)}, "
                f"range_matched={go_duration((end_ms - start_ms) * _MS)}",
                kind="execution",
            )
        start_ms = end_ms - limit_ns // _MS
    return max(start_ms * _MS, 0), min(max((end_ms + 1) * _MS, 0), _LATEST_NS)


async def _all(asked: Sequence[Coroutine[None, None, _Answer]]) -> list[_Answer]:
    """The answers, in order. Raises ``QueryError`` when one of them fails; nothing more is waited for then."""
    tasks = [asyncio.create_task(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    except M3DBError as error:
        raise refusal(error) from error
    finally:
        for task in tasks:
            task.cancel()


def _notes(plan: FanOut, answers: Sequence[Fetched | Aggregated]) -> Notes:
    names = sorted(part.namespace.name for part in plan.parts)
    return Notes(limited=not all(one.exhaustive for one in answers), places=tuple(names))


def _found(part: Part, fetched: Fetched, judged: Sequence[Matcher]) -> Found:
    """The series of an answer that have points and tags, and match."""
    series, kept = _kept(fetched, judged)
    begins, counts = fetched.offsets[:-1], np.diff(fetched.offsets)
    rows = kept[counts[kept] > 0]
    chosen = Series(series.arena, series.at[rows], series.size[rows], series.notes)
    return Found(part, chosen, begins[rows], counts[rows], fetched.time_ns // _MS, fetched.bits)


def _listed(fetched: Fetched, judged: Sequence[Matcher]) -> Series:
    """The series of an answer without points."""
    series, kept = _kept(fetched, judged)
    return Series(series.arena, series.at[kept], series.size[kept], series.notes)


def _kept(fetched: Fetched, judged: Sequence[Matcher]) -> tuple[Series, NDArray[np.int64]]:
    """The series of an answer, and which of them have tags, and labels that match."""
    series, bad = sorted_tags(fetched.tags)
    rows = labels_of(series).match(judged) if judged else np.arange(len(series))
    return series, np.setdiff1d(rows, bad, assume_unique=True)
