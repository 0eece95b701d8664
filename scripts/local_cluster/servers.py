"""The KV of the cluster: a file, or a server of a Debian package that is started for it on free ports of loopback."""

import shutil
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from local_stack.cluster import ENVIRONMENT
from local_stack.processes import Service, StackError

from local_cluster.layout import free_port

__all__ = ["KINDS", "KV", "kv_of"]

KINDS = ("embedded", "etcd", "zookeeper")
_START_S = 60.0
_ZOOKEEPER_JAR = Path("/usr/share/java/zookeeper.jar")
_ZOOKEEPER_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"


class KV(Protocol):
    """A KV that the services can be pointed at."""

    def start(self) -> Service | None:
        """Starts what it needs, or again what has ended; None: nothing is needed. Raises ``StackError``."""

    def wait(self, service: Service) -> None:
        """Until it serves. Raises ``StackError``."""

    def section(self, service: str) -> dict[str, Any]:
        """The section ``kvClient`` (aggregator) or ``clusterManagement`` (coordinator) of a service's file."""

    def m3ctl(self) -> str:
        """The options with which ``m3ctl`` reads it."""


class EmbeddedKV:
    """An SQLite file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "kv.sqlite"

    def start(self) -> Service | None:
        """Nothing to start."""
        return None

    def wait(self, service: Service) -> None:
        """Nothing to wait for."""

    def section(self, service: str) -> dict[str, Any]:
        """The same for both services."""
        return {"embedded": {"path": str(self._path)}}

    def m3ctl(self) -> str:
        """The file."""
        return f"--embedded {self._path}"


class EtcdKV:
    """One etcd server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._client, self._peer = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"

    def start(self) -> Service | None:
        """Needs ``etcd``."""
        binary = shutil.which("etcd")
        if binary is None:
            raise StackError("etcd is not installed: apt-get install etcd-server (Debian), or use --kv embedded")
        client, peer = f"http://{self._client}", f"http://{self._peer}"
        command = [
            "--name=local", f"--data-dir={self._folder / 'etcd'}", "--log-level=warn",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=local={peer}",
        ]  # fmt: skip
        return Service("etcd", command, self._folder / "etcd.log", program=[binary])

    def wait(self, service: Service) -> None:
        """Until it is healthy."""
        _wait(service, lambda: _http_ok(f"http://{self._client}/health"))

    def section(self, service: str) -> dict[str, Any]:
        """M3's block; what the local files say of an embedded KV is taken back."""
        etcd = {
            "env": ENVIRONMENT, "zone": "embedded", "service": service, "cacheDir": str(self._folder / "cache"),
            "etcdClusters": [{"zone": "embedded", "endpoints": [self._client]}],
        }  # fmt: skip
        return {"etcd": etcd, "embedded": None}

    def m3ctl(self) -> str:
        """The endpoint."""
        return f"--etcd {self._client}"


class ZooKeeperKV:
    """One ZooKeeper server, from Debian's jars."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()

    def start(self) -> Service | None:
        """Needs ``java`` and ZooKeeper's jars."""
        java = shutil.which("java")
        if java is None or not _ZOOKEEPER_JAR.exists():
            missing = "java" if java is None else str(_ZOOKEEPER_JAR)
            raise StackError(f"{missing} is missing: apt-get install zookeeper (Debian), or use --kv embedded")
        data = self._folder / "zookeeper"
        data.mkdir(exist_ok=True)
        config = self._folder / "zoo.cfg"
        config.write_text(
            f"dataDir={data}\nclientPort={self._port}\nclientPortAddress=127.0.0.1\n"
            "tickTime=1000\nmaxClientCnxns=0\n4lw.commands.whitelist=srvr\n"
        )
        classes = f"{_ZOOKEEPER_JAR}:/usr/share/java/slf4j-nop.jar"
        command = ["-Xmx96m", "-Dzookeeper.admin.enableServer=false", "-cp", classes, _ZOOKEEPER_MAIN, str(config)]
        return Service("zookeeper", command, self._folder / "zookeeper.log", program=[java])

    def wait(self, service: Service) -> None:
        """Until it answers its four-letter words."""
        _wait(service, self._serves)

    def section(self, service: str) -> dict[str, Any]:
        """The same for both services."""
        return {"zookeeper": {"servers": [f"127.0.0.1:{self._port}"]}, "embedded": None}

    def m3ctl(self) -> str:
        """The server."""
        return f"--zookeeper 127.0.0.1:{self._port}"

    def _serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"srvr")
                return connection.recv(64).startswith(b"Zookeeper version")
        except OSError:
            return False


def _wait(service: Service, serves: Callable[[], bool]) -> None:
    """Until it serves. Raises ``StackError``."""
    deadline = time.monotonic() + _START_S
    while not serves():
        service.check()
        if time.monotonic() > deadline:
            raise StackError(f"{service.name} does not serve after {_START_S:g} s; log: {service.log_file}")
        time.sleep(0.1)


def _http_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def kv_of(kind: str, folder: Path) -> KV:
    """The KV that ``--kv`` names, one of ``KINDS``."""
    kinds: dict[str, Callable[[Path], KV]] = {"embedded": EmbeddedKV, "etcd": EtcdKV, "zookeeper": ZooKeeperKV}
    return kinds[kind](folder)
