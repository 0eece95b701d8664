"""The KVs that a drill can run on: what the configuration of an instance says, how the drill itself reads it, and its faults."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from socket import create_connection
from typing import Any, TypeVar

from lab.ports import free_port
from lab.relay import RelayThread

from m3cluster.kv import Embedded, Etcd, Store, StoreConfig, ZooKeeper, open_store

__all__ = ["BACKENDS", "KV", "EmbeddedKV", "EtcdKV"]

T = TypeVar("T")
ENVIRONMENT = "namespace/m3db-cluster-name"


class KV:
    """Base: a KV without faults."""

    store: StoreConfig

    def section(self, instance: str) -> dict[str, Any]:
        """``kvClient`` of an instance."""
        raise NotImplementedError

    def do(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Runs something on a client of its own."""

        async def run() -> T:
            store = await open_store(self.store)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())

    def fault(self, action: str, instance: str) -> None:
        """Carries out a step of a plan that concerns the KV."""
        raise NotImplementedError(action)

    def close(self) -> None:
        """Ends its processes."""


class EmbeddedKV(KV):
    """The SQLite file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "kv.sqlite"
        self.store = Embedded(self._path)

    def section(self, instance: str) -> dict[str, Any]:
        return {"embedded": {"path": str(self._path)}}


class ServerKV(KV):
    """A server process on loopback; every instance reaches it through a relay of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.relays: dict[str, RelayThread] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def command(self) -> tuple[list[str], dict[str, str]]:
        """How to start it, and its environment."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it serves."""
        try:
            create_connection(("127.0.0.1", self.port), 0.5).close()
        except OSError:
            return False
        return True

    def start(self, timeout_s: float = 30.0) -> None:
        """Starts it and waits until it serves."""
        command, environment = self.command()
        with (self.folder / "kv.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve: {(self.folder / 'kv.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def endpoint(self, instance: str) -> str:
        """``host:port`` of the relay of an instance."""
        if instance not in self.relays:
            self.relays[instance] = RelayThread(f"127.0.0.1:{self.port}")
        return self.relays[instance].address

    def fault(self, action: str, instance: str) -> None:
        assert self._process is not None
        if action == "cut":
            self.relays[instance].hold_all()
        elif action == "join":
            self.relays[instance].release()
        elif action == "kv-start":
            self.start()
        elif action == "expire":
            self.expire(instance)
        else:
            number = {"kv-stop": signal.SIGSTOP, "kv-continue": signal.SIGCONT, "kv-kill": signal.SIGKILL}[action]
            os.killpg(self._process.pid, number)
            if action == "kv-kill":
                self._process.wait()

    def expire(self, instance: str) -> None:
        """Ends the session of an instance that leads or would like to."""
        raise NotImplementedError

    def close(self) -> None:
        for relay in self.relays.values():
            relay.close()
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class EtcdKV(ServerKV):
    """A single etcd."""

    def __init__(self, folder: Path) -> None:
        self._peer_port = free_port()
        super().__init__(folder)
        self.store = Etcd((f"127.0.0.1:{self.port}",))

    def command(self) -> tuple[list[str], dict[str, str]]:
        client, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._peer_port}"
        return [
            shutil.which("etcd") or "etcd", "--data-dir", str(self.folder / "etcd"), "--name", "drill",
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"drill={peer}",
            "--log-level", "warn",
        ], {}  # fmt: skip

    def section(self, instance: str) -> dict[str, Any]:
        return {
            "etcd": {
                "env": ENVIRONMENT,
                "zone": "embedded",
                "service": "m3aggregator",
                "cacheDir": str(self.folder / f"cache-{instance}"),
                "etcdClusters": [{"zone": "embedded", "endpoints": [self.endpoint(instance)]}],
            }
        }

    def expire(self, instance: str) -> None:
        async def delete(store: Store) -> None:
            # Without its key nobody leads; what the lease is worth does not matter any more.
            for key, value in await store.keys("_ld/"):
                if value.data == instance.encode():
                    await store.delete_if(key, value.create_revision)

        self.do(delete)


class ZooKeeperKV(ServerKV):
    """A single ZooKeeper, from Debian's jars."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store = ZooKeeper((f"127.0.0.1:{self.port}",))

    def command(self) -> tuple[list[str], dict[str, str]]:
        data = self.folder / "zookeeper"
        data.mkdir(exist_ok=True)
        config = self.folder / "zoo.cfg"
        config.write_text(
            f"dataDir={data}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\ntickTime=100\nmaxClientCnxns=0\n"
            "minSessionTimeout=200\nmaxSessionTimeout=60000\n4lw.commands.whitelist=srvr\npreAllocSize=64\n"
        )
        jars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-nop.jar"
        return [
            "java", "-Xmx96m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dzookeeper.admin.enableServer=false",
            "-Dzookeeper.jmx.log4j.disable=true", "-Djava.awt.headless=true", "-cp", jars,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(config),
        ], {}  # fmt: skip

    def answers(self) -> bool:
        try:
            with create_connection(("127.0.0.1", self.port), 1.0) as connection:
                connection.sendall(b"srvr")
                return b"Zookeeper version" in connection.recv(4096)
        except OSError:
            return False

    def section(self, instance: str) -> dict[str, Any]:
        return {"zookeeper": {"env": ENVIRONMENT, "zone": "embedded", "servers": [self.endpoint(instance)]}}

    def expire(self, instance: str) -> None:
        # Whoever presents the id and the password of a session may close it; to its owner it has expired then.
        from kazoo.client import KazooClient  # noqa: PLC0415

        reader = KazooClient(f"127.0.0.1:{self.port}")
        reader.start()
        sessions = [owner for owner, data in _owned(reader, "/") if instance.encode() in data]
        reader.stop()
        reader.close()
        for session in sessions:
            thief = KazooClient(f"127.0.0.1:{self.port}", client_id=(session, _password(session)))
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


BACKENDS: dict[str, Callable[[Path], KV]] = {"embedded": EmbeddedKV, "etcd": EtcdKV, "zookeeper": ZooKeeperKV}
