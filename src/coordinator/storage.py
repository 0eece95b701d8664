"""What the file of a coordinator asks for as storage: the embedded store, M3DB, sinks behind queues, several of them, or nothing.

====================================  =======================================  ==============================================
file                                  port 7507 writes to                      direct writes, through the hub
====================================  =======================================  ==============================================
embedded alone                        the store itself: safe means committed,  the store, without a queue
                                      what it refuses is known
M3DB, ``prom-remote``, several        the hub: safe means in every queue       the hub, for as long as ``writeTimeout`` watched
``noop-etcd``                         nothing, it is not there                 nothing
====================================  =======================================  ==============================================
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from coordinator.config import CoordinatorConfig
from coordinator.config.sinks import QueueConfig, QueueOverrides
from coordinator.downsample.policies import policy_of
from coordinator.ingest import HubOutlet, Outlet, StoreOutlet
from coordinator.m3db import M3DBStorage, open_m3db
from coordinator.namespaces import NamespacesNow
from coordinator.query import Source
from coordinator.sinks import EmbeddedSink, FileSink, Hub, QueuedSink, QueueOptions, Sink, open_hub
from coordinator.sinks.metric_types import MetricTypes
from coordinator.sinks.prom_remote import LabelRules
from coordinator.sinks.prom_remote.opening import open_sinks
from coordinator.store import Store, StoreOptions, open_store
from coordinator.write import HubDirectStore
from m3cluster import kv
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["Storage", "open_storage"]

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Storage:
    """What there is to write to, and to read from."""

    outlet: Outlet
    """For values that come back from the aggregators."""
    direct: HubDirectStore
    hub: Hub
    store: Store | None
    """The embedded store."""
    source: Source | None = None
    """What queries are answered from, if that is not the embedded store."""
    namespaces: NamespacesNow = field(default_factory=NamespacesNow)
    m3db: M3DBStorage | None = None
    types: MetricTypes | None = None
    """What endpoints are told of metrics; None: none is."""

    def problems(self) -> list[str]:
        """What an operator should know, one line each."""
        lines = self.hub.problems()
        return lines if self.m3db is None else [*self.m3db.problems(self.hub.status()), *lines]


@contextlib.asynccontextmanager
async def open_storage(
    config: CoordinatorConfig, data_dir: Path, scope: Scope, kv_store: kv.Store | None = None
) -> AsyncIterator[Storage]:
    """Until the context ends; what is in queues stays there. ``kv_store``: for M3DB.

    Raises ``StoreError``, ``SegmentError``, ``TLSError``, ``KVError`` or ``OSError``.
    """
    async with contextlib.AsyncExitStack() as stack:
        store = None
        if config.has_embedded_store:
            store = await stack.enter_async_context(_embedded_store(config, data_dir, scope))
        sink_scope = scope.sub("sink")
        types = _types(config)
        m3db = None
        if config.store == "m3db":
            assert kv_store is not None
            m3db = await stack.enter_async_context(open_m3db(config, kv_store, scope))
        sinks = _sinks(config, store, None if types is None else (types, sink_scope), m3db)
        directory = data_dir / config.sink_queue.directory
        hub = await stack.enter_async_context(open_hub(sinks, directory, sink_scope))
        outlet: Outlet = StoreOutlet(store) if store is not None and config.embedded_alone else HubOutlet(hub, types)
        namespaces = NamespacesNow(config.namespaces) if m3db is None else m3db.namespaces
        direct = HubDirectStore(hub, namespaces.current, config.write_timeout.seconds)

        def changed() -> None:
            direct.set_namespaces(namespaces.current)
            hub.reconsider()

        namespaces.follow(changed)
        yield Storage(outlet, direct, hub, store, None if m3db is None else m3db.source, namespaces, m3db, types)


def _embedded_store(
    config: CoordinatorConfig, data_dir: Path, scope: Scope
) -> contextlib.AbstractAsyncContextManager[Store]:
    """With a table for each namespace that has a retention."""
    policies = list(
        dict.fromkeys(policy_of(n.resolution_ns, n.retention_ns) for n in config.namespaces if n.retention_ns > 0)
    )
    share = config.memory_shares.store
    options = StoreOptions(
        memory_bytes=share if config.aggregates_inside else min(StoreOptions().memory_bytes, share),
        allow_duplicate_tag_names=config.tag_options.allow_tag_name_duplicates,
        allow_empty_tag_values=config.tag_options.allow_tag_value_empty,
    )
    return open_store(data_dir / config.embedded_storage.path, policies, options, scope.sub("store"))


def _types(config: CoordinatorConfig) -> MetricTypes | None:
    """For the endpoints that are to be told the types of metrics, if there are such."""
    return MetricTypes(config.tag_options.metric_name.encode()) if config.sends_metadata else None


def _sinks(
    config: CoordinatorConfig,
    store: Store | None,
    told: tuple[MetricTypes, Scope] | None,
    m3db: M3DBStorage | None,
) -> list[QueuedSink]:
    """All sinks of the file, with the options of their queues. ``told``: see ``prom_remote.opening``."""
    if store is not None and config.embedded_alone:
        return [QueuedSink(EmbeddedSink.of(store, config.namespaces), None)]
    found: list[tuple[Sink, QueueOverrides]] = []
    remote = config.prometheus_remote_backend
    if config.backend == "prom-remote" and remote is not None:
        rules = LabelRules(
            metric_name=config.tag_options.metric_name.encode(),
            bucket_name=config.tag_options.bucket_name.encode(),
            allow_duplicates=config.tag_options.allow_tag_name_duplicates,
            allow_empty_values=config.tag_options.allow_tag_value_empty,
        )
        found += zip(open_sinks(remote, rules, told), (one.queue for one in remote.endpoints), strict=True)
    elif m3db is not None:
        found.append((m3db.sink, QueueOverrides()))
    elif config.store == "embedded":
        assert store is not None
        found.append((EmbeddedSink.of(store, config.namespaces), QueueOverrides()))
    for section in config.sinks:
        if section.type == "file":
            found.append((FileSink(section.path, section.attributes, section.called), section.queue))
        elif section.type == "embedded":
            assert store is not None
            found.append((EmbeddedSink.of(store, config.namespaces, section.called, section.attributes), section.queue))
        else:
            assert_never(section.type)
    most = config.memory_shares.sink_window
    return [QueuedSink(sink, _queue_options(own.over(config.sink_queue), most)) for sink, own in found]


def _queue_options(section: QueueConfig, most_bytes: int) -> QueueOptions:
    """``most_bytes``: what of it may be in memory, whatever the file says."""
    return QueueOptions(
        max_bytes=section.max_bytes,
        segment_bytes=section.segment_bytes,
        sync=section.sync,
        sync_interval_s=section.sync_interval.seconds,
        drop_oldest=section.on_full == "dropOldest",
        window_bytes=min(section.window_bytes, most_bytes),
    )
