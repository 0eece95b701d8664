"""What stores say when they refuse: the same words, whichever store it is."""

from m3cluster.kv.store import ConditionFailedError, KeyNotFoundError, KVError, Value, VersionMismatchError

__all__ = ["condition_failed", "lease_ended", "no_version", "not_found", "version_mismatch"]


def not_found(key: str) -> KeyNotFoundError:
    """There is no such key."""
    return KeyNotFoundError(f"key not found: {key}")


def no_version(key: str, version: int, current: int) -> KeyNotFoundError:
    """The key has not had that version since it was created."""
    return KeyNotFoundError(f"{key} has no version {version}; the current one is {current}")


def version_mismatch(key: str, expected: int, found: Value | None) -> VersionMismatchError:
    """``found`` is what the key has instead; None: it does not exist."""
    return VersionMismatchError(f"{key}: expected version {expected}, found {found.version if found else 0}")


def condition_failed(key: str, other_key: str, expected: int, found: Value | None) -> ConditionFailedError:
    """``found`` is what ``other_key`` has instead of the create revision ``expected``; None: it does not exist."""
    there = found.create_revision if found else "no such key"
    return ConditionFailedError(f"{key}: expected create revision {expected} of {other_key}, found {there}")


def lease_ended(key: str, lease: int) -> KVError:
    """The lease that ``key`` was to be bound to is over."""
    return KVError(f"{key}: lease {lease:x} has ended; ask for a new one")
