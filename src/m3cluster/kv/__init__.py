"""The key-value store of the cluster (docs/architecture.md §6).

``store``         the interface; open this first
``open``          ``open_store(Embedded(path))``: the store that a configuration names
``embedded``      an SQLite file shared by the processes of one machine
``memory``        the same inside one process, for tests
``tables``        the rules of both: versions, revisions, leases, conditions as SQL transactions
``sqlite_store``  the asyncio shell around them
``watching``      watches

Imports ``m3x`` only.
"""

from m3cluster.kv.memory import MemoryServer
from m3cluster.kv.open import Embedded, Memory, StoreConfig, open_store
from m3cluster.kv.store import (
    ConditionFailedError,
    KeyNotFoundError,
    KVError,
    Lease,
    Store,
    Value,
    VersionMismatchError,
    Watch,
)

__all__ = [
    "ConditionFailedError",
    "Embedded",
    "KVError",
    "KeyNotFoundError",
    "Lease",
    "Memory",
    "MemoryServer",
    "Store",
    "StoreConfig",
    "Value",
    "VersionMismatchError",
    "Watch",
    "open_store",
]
