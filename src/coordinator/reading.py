"""Which store answers queries, by the coordinator's file; of one without such a store every query is told where the data is."""

from starlette.routing import Route

from coordinator.config import CoordinatorConfig, LimitsConfig
from coordinator.query import EmbeddedSource, ReadOptions, Source, query_routes, unreadable_routes
from coordinator.sinks.prom_remote.credentials import shown_address
from coordinator.storage import Storage
from m3x.instrument import Scope

__all__ = ["read_defaults", "readable", "reading_routes"]

_DEFAULT_SERIES = 100_000


def reading_routes(config: CoordinatorConfig, storage: Storage | None, scope: Scope | None = None) -> list[Route]:
    """The routes of queries; ``scope``: that of the coordinator."""
    source = readable(storage)
    if source is None:
        return unreadable_routes(_where(config))
    lookback_ms = int(config.lookback_duration) // 1_000_000
    carbon = config.carbon
    return query_routes(
        source,
        lookback_ms,
        defaults=read_defaults(config, config.limits),
        find_defaults=read_defaults(config, carbon.limits_find or config.limits),
        render_defaults=read_defaults(config, carbon.limits_render or config.limits),
        watched=storage.store if storage is not None else None,
        scope=scope,
    )


def readable(storage: Storage | None) -> Source | None:
    """What stored series are read from; None: nothing can be."""
    if storage is None:
        return None
    if storage.source is None and storage.store is not None:
        return EmbeddedSource(storage.store)
    return storage.source


def read_defaults(config: CoordinatorConfig, section: LimitsConfig) -> ReadOptions:
    """What holds for queries that do not say otherwise, by the section of their limits."""
    limits = section.per_query
    return ReadOptions(
        series_limit=limits.max_fetched_series if limits.max_fetched_series > 0 else _DEFAULT_SERIES,
        docs_limit=max(limits.max_fetched_docs, 0),
        range_limit_ns=max(limits.max_fetched_range, 0),
        require_exhaustive=limits.require_exhaustive,
        timeout_s=config.query.timeout.seconds,
    )


def _where(config: CoordinatorConfig) -> str:
    """Where the data is, of a coordinator that has no store to read. No credentials, and no queries of addresses."""
    if not config.takes_samples:
        return f"a coordinator with backend: {config.backend} administrates only: it has no data"
    places = [f"{sink.called} ({sink.path})" for sink in config.sinks if sink.type == "file"]
    remote = config.prometheus_remote_backend
    if config.backend == "prom-remote" and remote is not None:
        places = [f"{one.name} ({shown_address(one.address)})" for one in remote.endpoints] + places
    return (
        "this coordinator has no store that it can read; ask where it writes to: "
        f"{', '.join(places)}. A sink of type embedded beside it would answer queries here"
    )
