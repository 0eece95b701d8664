"""Which environments there are: the keys of placements and topics say it (docs/m3/cluster.md, keys)."""

from m3cluster.kv import Store

__all__ = ["environments"]

_PLACES = (("/placement/", "placement"), ("_sd.placement/", "placement"), ("/topic/", "topic"))


async def environments(store: Store) -> dict[str, list[str]]:
    """Environment → what is in it (``placement m3aggregator``, ``topic aggregated_metrics``), both sorted. Raises ``KVError``.

    Stores with namespaces of their own are not looked at. An environment may contain slashes, a service and a topic do not.
    """
    found: dict[str, set[str]] = {}
    for prefix, kind in _PLACES:
        for key, _ in await store.keys(prefix):
            environment, slash, name = key.removeprefix(prefix).rpartition("/")
            if slash:
                found.setdefault(environment, set()).add(f"{kind} {name}")
    return {environment: sorted(found[environment]) for environment in sorted(found)}
