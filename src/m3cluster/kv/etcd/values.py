"""Keys and values between the store's types and etcd's messages."""

from typing import Any

from m3cluster.kv.store import KVError, Value
from m3cluster.proto import MessageValue

__all__ = ["key_bytes", "key_text", "prefix_end", "read_response", "value_of"]


def key_bytes(key: str) -> bytes:
    """A key on the wire."""
    return key.encode("utf-8", "surrogateescape")


def key_text(key: bytes) -> str:
    """A key from the wire, whatever bytes others use in theirs."""
    return key.decode("utf-8", "surrogateescape")


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys with ``prefix``; one zero byte means: no end."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else b"\0"


def value_of(found: list[MessageValue]) -> Value | None:
    """The first of the key-values that were found."""
    if not found:
        return None
    return Value(found[0]["value"], found[0]["version"], found[0]["create_revision"], found[0]["mod_revision"])


def read_response(answer: MessageValue, number: int, kind: str) -> MessageValue:
    """The answer to operation ``number`` of a transaction; raises ``KVError`` if it is none of its ``kind``."""
    responses: list[MessageValue] = answer["responses"]
    response: Any = responses[number][kind] if number < len(responses) else None
    if not isinstance(response, dict):
        raise KVError(
            f"etcd answered a transaction without a {kind} as response {number}; is this an etcd 3.4 or newer?"
        )
    return response
