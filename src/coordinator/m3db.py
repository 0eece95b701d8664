"""M3DB as the store of a coordinator: its session, the namespaces as they come and go, a sink, and what queries are answered from.

Opening waits for nobody: until nodes and namespaces are known, values wait in the sink's queue.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace

from coordinator.config import CoordinatorConfig
from coordinator.config.m3db import DynamicClusterConfig, M3DBClientConfig
from coordinator.namespaces import NamespacesNow
from coordinator.query import Source
from coordinator.query.m3db import M3DBSource, readable
from coordinator.sinks import SinkStatus
from coordinator.sinks.m3db import M3DBSink, Targets
from coordinator.sinks.m3db.troubles import late_lines, namespace_lines, shard_lines
from m3cluster import kv
from m3db.following import FollowedNamespaces, FollowedTopology
from m3db.namespaces import Namespaces
from m3db.options import RetryOptions, SessionOptions
from m3db.reader import Reader
from m3db.session import FixedTopology, Session, TopologySource
from m3db.topology import Topology
from m3db.write import FormRules
from m3x.instrument import Scope
from m3x.log import logger

__all__ = ["M3DBStorage", "open_m3db"]

_log = logger(__name__)
_LOOK_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class M3DBStorage:
    """What there is of it."""

    sink: M3DBSink
    source: Source
    namespaces: NamespacesNow
    problems: Callable[[list[SinkStatus]], list[str]]
    """Lines for ``/ready``; given what is known of the sinks."""


class _Registry:
    """The namespaces of the registry, for those who want to know."""

    def __init__(
        self, store: kv.Store, followed: FollowedNamespaces, targets: Targets, namespaces: NamespacesNow
    ) -> None:
        self.followed = followed
        self._store = store
        self._targets = targets
        self._namespaces = namespaces
        self._last: Namespaces | None = None
        self._told = False

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.followed.run(self._changed))
            group.create_task(self._look())

    async def _look(self) -> None:
        """A watch says nothing of a registry that there has never been."""
        while not self._told:
            try:
                if await kv.get_uncached(self._store, self.followed.key) is None and not self._told:
                    self._changed(None)
            except kv.KVError:
                pass
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _changed(self, found: Namespaces | None) -> None:
        first, self._told = not self._told, True
        self._targets.put(found)
        if self._targets.fixed:
            return
        if found is None and first:
            _log.warning(
                "no initial namespaces found. namespaces will be added via watch updates", key=self.followed.key
            )
        for line in self._targets.problems:
            _log.warning(line)
        before, now = (one.by_name if one is not None else {} for one in (self._last, found))
        self._last = found
        _log.info(
            "refreshed cluster namespaces",
            added=sorted(now.keys() - before.keys()),
            removed=sorted(before.keys() - now.keys()),
            updated=sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
        )
        self._namespaces.put(readable(found))


@contextlib.asynccontextmanager
async def open_m3db(config: CoordinatorConfig, store: kv.Store, scope: Scope) -> AsyncIterator[M3DBStorage]:
    """Until the context ends; ``store``: the KV of ``clusterManagement``. Raises ``KVError`` where that of the nodes cannot be used."""
    client = config.m3db_client
    assert client is not None
    async with contextlib.AsyncExitStack() as stack:
        nodes_kv, environment = await _kv(stack, config, client, store)
        options = _options(client)
        topology = _topology(client, nodes_kv, environment, options)
        client_scope = scope.sub("m3db-client")
        session = Session(options, topology, client_scope)
        failed: list[str] = []
        await stack.enter_async_context(_background(session.run(), "m3db session", failed))
        targets = Targets(config.namespaces or None)
        namespaces = NamespacesNow(config.namespaces, fixed=targets.fixed)
        registry = _Registry(nodes_kv, FollowedNamespaces(nodes_kv, environment), targets, namespaces)
        await stack.enter_async_context(_background(registry.run(), "m3db namespaces", failed))
        grace_ns = int(config.ingest.no_namespace_grace) if config.ingest is not None else 0
        rules = FormRules(
            shards=0,
            id_scheme=config.tag_options.id_scheme,
            allow_duplicates=config.tag_options.allow_tag_name_duplicates,
            allow_empty_values=config.tag_options.allow_tag_value_empty,
        )
        sink = M3DBSink(session, targets, rules, grace_ns=grace_ns)
        odd_tags = rules.allow_duplicates or rules.allow_empty_values
        source = M3DBSource(Reader(session, client_scope), lambda: namespaces.current, odd_tags=odd_tags)

        def problems(sinks: list[SinkStatus]) -> list[str]:
            followed = registry.followed
            lines = [f"M3DB: {line}" for line in [*failed, *session.trouble()]]
            lines += shard_lines(session.topology, session.hosts, options.rules)
            return [
                *lines,
                *namespace_lines(targets, followed.key, followed.fault),
                *late_lines(sinks, sink.name, targets),
            ]

        yield M3DBStorage(sink, source, namespaces, problems)


def _options(client: M3DBClientConfig) -> SessionOptions:
    """What fails is tried again by the queue, row by row: a session that waits would hold what has nothing to do with it."""
    options = client.session_options()
    return replace(options, write_retry=RetryOptions(options.write_retry.backoff, 0))


async def _kv(
    stack: contextlib.AsyncExitStack, config: CoordinatorConfig, client: M3DBClientConfig, store: kv.Store
) -> tuple[kv.Store, str]:
    """The KV of the nodes, and the environment of their keys."""
    cluster = client.config.synchronous
    if not isinstance(cluster, DynamicClusterConfig):
        return store, config.cluster_state.environment
    if not cluster.service.etcd_clusters or config.is_own_etcd(cluster.service):
        return store, cluster.environment
    own = await kv.open_store(cluster.service.client())
    stack.push_async_callback(own.close)
    return own, cluster.environment


def _topology(client: M3DBClientConfig, store: kv.Store, environment: str, options: SessionOptions) -> TopologySource:
    cluster = client.config.synchronous
    if isinstance(cluster, DynamicClusterConfig):
        return FollowedTopology(store, environment, cluster.service.service, options.hash_seed)
    found = cluster.topology.found
    return FixedTopology(Topology.static(found.hosts, found.num_shards, found.replicas))


@contextlib.asynccontextmanager
async def _background(work: Coroutine[None, None, None], name: str, failed: list[str]) -> AsyncIterator[None]:
    """Runs ``work`` beside the context; ``failed`` gets a line if it ends before."""
    task = asyncio.create_task(work, name=name)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception()
            failed.append(f"{name} has ended by a mistake of ours ({error!r}): restart the process")
            _log.error("a part of the store has ended", part=name, exception=error)

    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
