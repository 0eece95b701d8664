"""The key-value store of the cluster (docs/architecture.md §7).

``store``      the interface; open this first
``open``       ``open_store(Embedded(path))``: the store that a configuration names
``sections``   the YAML that names one, the same in both services
``rules``      versions, revisions, leases, conditions as SQL transactions: what every store does, where we carry it out ourselves
``leased``     what the stores have in common: watches, leases, and the end of both
``lease``      what the leases of all stores have in common
``watching``   watches
``refusals``   what stores say when they refuse
``contact``    whether a store answers, for logs and ``/ready``
``tasks``      the background tasks of a store

``sqlite``     an SQLite file shared by the processes of one machine, or the same inside one process, for tests
``etcd``       an etcd v3 cluster
``zookeeper``  a ZooKeeper ensemble

The three stores import the modules above and none of each other's. Of ``etcd`` and ``zookeeper`` everybody may import ``config``; the
rest is imported, and gRPC or kazoo with it, when such a store is opened. Users outside import from here, and ``sections`` for their
configuration. Imports ``m3x``, ``m3cluster.proto`` and ``m3cluster.keys`` only.
"""

from m3cluster.kv.etcd.config import Etcd, EtcdTLS
from m3cluster.kv.open import Embedded, Memory, StoreConfig, check_store, open_store
from m3cluster.kv.sqlite.memory import MemoryServer
from m3cluster.kv.store import (
    ConditionFailedError,
    KeepsHistory,
    KeyNotFoundError,
    KVError,
    Lease,
    Listing,
    NotKeptError,
    Store,
    Value,
    VersionMismatchError,
    Watch,
    get_uncached,
)
from m3cluster.kv.zookeeper.config import ZooKeeper

__all__ = [
    "ConditionFailedError",
    "Embedded",
    "Etcd",
    "EtcdTLS",
    "KVError",
    "KeepsHistory",
    "KeyNotFoundError",
    "Lease",
    "Listing",
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
