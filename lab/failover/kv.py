"""The KV of a drill: every instance reaches its server through a relay of its own, so that one of them can be cut off; and its faults."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lab.kv import KV, kv_of
from lab.relay import RelayThread
from m3cluster.kv import Store

__all__ = ["FaultyKV"]

T = TypeVar("T")


class FaultyKV:
    """A KV of the given kind (``lab.kv.KINDS``), serving; its log and data are in ``folder``."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        self._kv: KV = kv_of(kind, folder)
        self._relays: dict[str, RelayThread] = {}
        if self._kv.server is not None:
            self._kv.server.start()

    def section(self, instance: str) -> dict[str, Any]:
        """``kvClient`` of an instance."""
        server = self._kv.server
        if server is None:
            return self._kv.section(instance)
        if instance not in self._relays:
            self._relays[instance] = RelayThread(server.address)
        return self._kv.section(instance, self._relays[instance].address)

    def do(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Runs something on a client of its own that no fault cuts off."""
        return self._kv.do(work)

    def fault(self, action: str, instance: str) -> None:
        """Carries out a step of a plan that concerns the KV."""
        server = self._kv.server
        assert server is not None, f"{action} needs a server"
        if action == "cut":
            self._relays[instance].hold_all()
        elif action == "join":
            self._relays[instance].release()
        elif action == "expire":
            self._expire(instance, server.address)
        else:
            {
                "kv-start": server.start,
                "kv-stop": server.stop,
                "kv-continue": server.resume,
                "kv-kill": server.kill,
            }[action]()

    def _expire(self, instance: str, address: str) -> None:
        """Ends the session of an instance that leads or would like to."""
        if self._kind == "zookeeper":
            _steal_sessions(address, instance)
        else:
            self.do(lambda store: _delete_candidate(store, instance))

    def close(self) -> None:
        """Ends its server and relays."""
        for relay in self._relays.values():
            relay.close()
        if self._kv.server is not None:
            self._kv.server.kill()


async def _delete_candidate(store: Store, instance: str) -> None:
    # Without its key nobody leads; what the lease is worth does not matter any more.
    for key, value in await store.keys("_ld/"):
        if value.data == instance.encode():
            await store.delete_if(key, value.create_revision)


def _steal_sessions(address: str, instance: str) -> None:
    """Whoever presents the id and the password of a session may close it; to its owner it has expired then."""
    from kazoo.client import KazooClient  # noqa: PLC0415 - only drills on ZooKeeper need it

    reader = KazooClient(address)
    reader.start()
    sessions = [owner for owner, data in _owned(reader, "/") if instance.encode() in data]
    reader.stop()
    reader.close()
    for session in sessions:
        thief = KazooClient(address, client_id=(session, _password(session)))
        thief.start()
        thief.stop()
        thief.close()


def _owned(client: Any, path: str) -> Iterator[tuple[int, bytes]]:
    """Session and data of all nodes that belong to sessions."""
    for name in client.get_children(path):
        below = f"{path.rstrip('/')}/{name}"
        data, stat = client.get(below)
        if stat.ephemeralOwner:
            yield stat.ephemeralOwner, data
        yield from _owned(client, below)


def _password(session: int) -> bytes:
    """A server that knows a session only from its log takes this as its password: 16 bytes of Java's ``Random``, seeded with its id."""
    mask, multiplier = (1 << 48) - 1, 0x5DEECE66D
    seed = ((session ^ 0xB3415C00) ^ multiplier) & mask
    out = bytearray()
    for _ in range(4):
        seed = (seed * multiplier + 0xB) & mask
        out += (seed >> 16 & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(out)
