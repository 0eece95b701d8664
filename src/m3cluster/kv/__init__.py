"""The key-value store of the cluster (docs/architecture.md §6).

``store``         the interface; open this first
``open``          ``open_store(Embedded(path))``: the store that a configuration names
``sections``      the YAML that names one, the same in both services
``embedded``      an SQLite file shared by the processes of one machine
``memory``        the same inside one process, for tests
``tables``        the rules of both: versions, revisions, leases, conditions as SQL transactions
``sqlite_store``  the asyncio shell around them
``watching``      watches
``contact``       whether a store answers, for logs and ``/ready``
``lease``         what the leases of all backends have in common
``tasks``         the background tasks of a store

``etcd_config``   names an etcd v3 cluster; the rest of ``etcd_*`` is imported, and gRPC with it, when one is opened:
                  ``etcd_store`` the operations (open this first), ``etcd_connection`` endpoints and failover, ``etcd_channel`` gRPC,
                  ``etcd_messages`` and ``etcd_values`` the wire, ``etcd_watch`` one stream for all watches, ``etcd_lease`` leases,
                  ``etcd_cache`` the file for a start without etcd

``zookeeper_config``  names a ZooKeeper ensemble; the rest of ``zookeeper_*`` is imported, and kazoo with it, when one is opened:
                  ``zookeeper_store`` the operations (open this first), ``zookeeper_session`` a session on the event loop,
                  ``zookeeper_kazoo`` kazoo's threads and sockets, ``zookeeper_watch`` watches, ``zookeeper_lease`` leases,
                  ``zookeeper_paths`` keys as paths

Imports ``m3x`` and ``m3cluster.proto`` only.
"""

from m3cluster.kv.etcd_config import Etcd, EtcdTLS
from m3cluster.kv.memory import MemoryServer
from m3cluster.kv.open import Embedded, Memory, StoreConfig, check_store, open_store
from m3cluster.kv.store import (
    ConditionFailedError,
    KeepsHistory,
    KeyNotFoundError,
    KVError,
    Lease,
    NotKeptError,
    Store,
    Value,
    VersionMismatchError,
    Watch,
    get_uncached,
)
from m3cluster.kv.zookeeper_config import ZooKeeper

__all__ = [
    "ConditionFailedError",
    "Embedded",
    "Etcd",
    "EtcdTLS",
    "KVError",
    "KeepsHistory",
    "KeyNotFoundError",
    "Lease",
    "Memory",
    "MemoryServer",
    "NotKeptError",
    "Store",
    "StoreConfig",
    "Value",
    "VersionMismatchError",
    "Watch",
    "ZooKeeper",
    "check_store",
    "get_uncached",
    "open_store",
]
