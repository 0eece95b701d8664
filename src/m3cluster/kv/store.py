"""The key-value interface that everything of the cluster layer is written against (docs/architecture.md §7).

Keys are M3's full etcd keys (docs/m3/cluster.md, keys): ``_kv/{env}/{key}``, ``/topic/{env}/{name}``, ``/placement/{env}/m3aggregator``,
``_sd.placement/{env}/{service}``, ``_ld/{env}/{service}/{election}``. Versions are etcd's per-key versions: the first write is 1,
deletion resets to 0. Revisions grow with every write to the store and never go back.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class KVError(Exception):
    """Anything that went wrong between us and the store; the message says what and where."""


class KeyNotFoundError(KVError):
    """The key does not exist."""


class NotKeptError(KVError):
    """An earlier value of a key is not kept any more."""


class VersionMismatchError(KVError):
    """A conditional write found another version than the one it expected."""


class ConditionFailedError(KVError):
    """``put_if`` found that the other key does not have the expected create revision (any more)."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a key as read from the store."""

    data: bytes
    version: int
    """Writes since the key was created: 1, 2, …"""
    create_revision: int
    mod_revision: int


class Watch(Protocol):
    """The latest value of one key, coalesced: a slow reader sees the newest value, not every one.

    Iterating yields the current value at once if there is one, then each newer one; ``None`` means that the key was deleted.
    """

    def __aiter__(self) -> AsyncIterator[Value | None]: ...

    async def close(self) -> None:
        """Ends the iteration."""


class Listing(Protocol):
    """All keys below one prefix, for who looks at them again and again."""

    async def keys(self) -> list[tuple[str, Value]]:
        """As ``Store.keys``, but a store that is told of every change asks only when there has been one, or it cannot be sure: what comes
        back may be older than the question by as long as such news takes. Raises ``KVError``."""

    def close(self) -> None:
        """Nobody looks any more."""


class Lease(Protocol):
    """A time-limited claim that is kept alive in the background; keys bound to it vanish when it ends."""

    @property
    def id(self) -> int:
        """The lease id; its lower-case hex without padding names election keys."""

    @property
    def ttl_ns(self) -> int:
        """Time to live that was granted."""

    def deadline_ns(self) -> int:
        """On ``CLOCK_BOOTTIME``: time of *sending* the last answered keepalive + TTL (docs/architecture.md §4, Fencing)."""

    def failed_ns(self) -> int:
        """On ``CLOCK_BOOTTIME``: when a keepalive last had no answer in time; 0: all have had one."""

    async def lost(self) -> None:
        """Returns when the lease has ended, for whatever reason."""

    async def revoke(self) -> None:
        """Ends it now; its keys vanish."""


class Store(Protocol):
    """One key-value store. Every method may raise ``KVError``."""

    async def get(self, key: str) -> Value:
        """Raises ``KeyNotFoundError``."""

    async def set(self, key: str, data: bytes) -> int:
        """Unconditional write; returns the new version."""

    async def set_if_not_exists(self, key: str, data: bytes) -> int:
        """Raises ``VersionMismatchError`` if the key exists; returns 1."""

    async def check_and_set(self, key: str, version: int, data: bytes) -> int:
        """Writes if the key's version is ``version`` (0: must not exist), else ``VersionMismatchError``; returns ``version + 1``."""

    async def put_if(self, key: str, data: bytes, other_key: str, create_revision: int) -> int:
        """Writes ``key`` if ``other_key`` exists with that create revision, else ``ConditionFailedError``; returns the new version."""

    async def delete(self, key: str) -> Value:
        """Returns the last value; raises ``KeyNotFoundError``."""

    async def delete_if(self, key: str, create_revision: int) -> bool:
        """Deletes the key if it still has that create revision; returns whether it did."""

    async def keys(self, prefix: str) -> list[tuple[str, Value]]:
        """All keys that start with ``prefix``, in order of create revision."""

    def listing(self, prefix: str) -> Listing:
        """``keys`` for who asks again and again."""

    def watch(self, key: str) -> Watch:
        """A new watch of one key; survives restarts of the store."""

    async def grant(self, ttl_s: int) -> Lease:
        """A new lease, kept alive until revoked or lost."""

    async def put_with_lease(self, key: str, data: bytes, lease: Lease) -> Value:
        """Creates ``key`` bound to ``lease`` if it does not exist; returns the value that is there afterwards (ours or the older)."""

    async def wait_deleted(self, key: str, create_revision: int) -> None:
        """Returns as soon as ``key`` does not exist with that create revision."""

    def trouble(self) -> str | None:
        """One line for people while the store does not answer: which, since when, why and what to look at. None: it answers, as far as
        anybody has asked."""

    async def close(self) -> None:
        """Ends watches and leases of this client (leases are revoked) and frees the connection."""


async def get_uncached(store: Store, key: str) -> Value | None:
    """What the store holds now; None: no such key. ``Store.get`` may answer from a cache while the store is away. Raises ``KVError``."""
    return dict(await store.keys(key)).get(key)


@runtime_checkable
class KeepsHistory(Protocol):
    """What a store may offer besides ``Store``."""

    async def get_version(self, key: str, version: int) -> Value:
        """The value that a key had at a version, 1 or more, since it was last created.

        Raises ``KeyNotFoundError`` if the key does not exist or has not had that version yet, ``NotKeptError`` if it is too old.
        """
