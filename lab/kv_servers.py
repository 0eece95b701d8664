"""Real KV servers on loopback, run as ordinary processes from Debian's packages; each can be stopped, killed and started again."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from lab.errors import LabError
from lab.http import try_get
from lab.ports import free_port
from lab.processes import Process, stop

__all__ = ["EtcdServer", "KVServer", "ServerMissing", "ZooKeeperServer"]

START_S = 60.0


class ServerMissing(LabError):
    """The server is not installed."""


class KVServer:
    """A server of one process whose port and data survive ``kill`` and ``start``."""

    name: str
    port: int
    poll_s = 0.05

    def __init__(self, directory: Path, *, ends_with_us: bool = False) -> None:
        self.directory = directory
        self.log_file = directory.with_name(f"{directory.name}.log")
        self.process: Process | None = None
        self._ends_with_us = ends_with_us

    @staticmethod
    def require() -> None:
        """Raises ``ServerMissing``, naming the Debian package, if it cannot be started here."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """Its command line; writes the files that it reads."""
        raise NotImplementedError

    def serves(self) -> bool:
        """Whether it answers as one that is ready does."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process, which was launched."""
        assert self.process is not None
        return self.process.pid

    def launch(self) -> Process:
        """Starts the process without waiting for it to serve."""
        self.require()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.process = Process(
            self.name, self.command(), self.log_file, cwd=self.directory, ends_with_us=self._ends_with_us
        )
        return self.process

    def wait(self) -> Self:
        """Waits until it serves. Raises ``LabError`` if it ends, or does not within a minute."""
        give_up = time.monotonic() + START_S
        while not self.serves():
            if time.monotonic() > give_up or self.process is None or not self.process.running:
                raise LabError(f"{self.name} does not serve; its log {self.log_file} ends with:\n{self.log()}")
            time.sleep(self.poll_s)
        return self

    def start(self) -> Self:
        """Starts the process and waits until it serves. Raises as ``wait``, and ``ServerMissing``."""
        self.launch()
        return self.wait()

    def log(self) -> str:
        """The end of what it has said."""
        return self.log_file.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """SIGSTOP; nothing is answered from here on."""
        stop(self.pid)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, unless it is dead already."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()


class EtcdServer(KVServer):
    """A real etcd, of one member unless ``form_cluster`` joins several. ``options`` are etcd's own.

    ``quick``: for tests, with shorter terms of its own elections than etcd has by default.
    """

    name = "etcd"
    poll_s = 0.02
    _ATTEMPTS = 5

    def __init__(
        self, directory: Path, *options: str, scheme: str = "http", quick: bool = True, ends_with_us: bool = False
    ) -> None:
        super().__init__(directory, ends_with_us=ends_with_us)
        self._scheme = scheme
        quickly = ("--heartbeat-interval=50", "--election-timeout=250")
        self._options = (*(quickly if quick else ()), *options)
        self._served = False
        self._take_ports()

    def _take_ports(self) -> None:
        self.port = free_port()
        self._peer = f"http://127.0.0.1:{free_port()}"
        self._metrics = f"http://127.0.0.1:{free_port()}"

    @staticmethod
    def require() -> None:
        if shutil.which("etcd") is None:
            raise ServerMissing("etcd is not installed: apt-get install etcd-server (Debian)")

    def command(self) -> list[str]:
        url = f"{self._scheme}://{self.address}"
        return [
            "etcd", "--name=t", f"--data-dir={self.directory / 'data'}", "--log-level=error",
            f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
            f"--listen-peer-urls={self._peer}", f"--initial-advertise-peer-urls={self._peer}",
            f"--initial-cluster=t={self._peer}", f"--listen-metrics-urls={self._metrics}", *self._options,
        ]  # fmt: skip

    @classmethod
    def form_cluster(cls, servers: "Sequence[EtcdServer]") -> None:
        """Starts servers that were never started as members of one cluster, and waits until they serve. Raises as ``start``."""
        members = ",".join(f"t{i}={server._peer}" for i, server in enumerate(servers))
        for i, server in enumerate(servers):
            server._options = (*server._options, f"--name=t{i}", f"--initial-cluster={members}")
            server.launch()
        for server in servers:
            server.wait()

    def start(self) -> Self:
        """The first start takes other ports where somebody was faster to take these."""
        attempts = 1 if self._served else self._ATTEMPTS
        while True:
            self.launch()
            attempts -= 1
            try:
                return self.wait()
            except LabError:
                self.kill()
                if not attempts or "address already in use" not in self.log():
                    raise
            shutil.rmtree(self.directory / "data", ignore_errors=True)
            self._take_ports()

    def wait(self) -> Self:
        super().wait()
        self._served = True
        return self

    def serves(self) -> bool:
        status, health = try_get(f"{self._metrics}/health", 1.0)
        return status == 200 and "true" in health


class ZooKeeperServer(KVServer):
    """A real ZooKeeper from Debian's jars. Session timeouts may be between 0.2 s and a minute.

    ``ensemble``: lines of the configuration that name all its members, of which this is number ``member``. ``quick``: for tests, its log is
    written and not synced; kill -9 of the process loses nothing of it. ``tls``: it has a second port, ``secure_port``, with mutual TLS; PEM
    files with its certificate and key, and with the authorities of its clients.
    """

    name = "zookeeper"
    _JAR = Path("/usr/share/java/zookeeper.jar")
    _MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
    _TICK_MS = 100
    # A small, quickly started virtual machine.
    _JAVA = (
        "java", "-Xmx96m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:CICompilerCount=1",
        "-XX:-UsePerfData", "-Dzookeeper.admin.enableServer=false", "-Dzookeeper.jmx.log4j.disable=true",
        "-Djava.awt.headless=true",
    )  # fmt: skip

    def __init__(
        self,
        directory: Path,
        *,
        ensemble: tuple[str, ...] = (),
        member: int = 0,
        quick: bool = True,
        ends_with_us: bool = False,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(directory, ends_with_us=ends_with_us)
        self.port, self.secure_port = free_port(), free_port()
        self._tls = tls
        self._ensemble, self._member, self._quick = ensemble, member, quick

    @classmethod
    def ensemble(cls, directory: Path, members: int = 3) -> "list[ZooKeeperServer]":
        """The servers of one ensemble, not started yet."""
        numbers = range(1, members + 1)
        lines = tuple(f"server.{number}=127.0.0.1:{free_port()}:{free_port()}" for number in numbers)
        return [cls(directory / f"zookeeper{number}", ensemble=lines, member=number) for number in numbers]

    @staticmethod
    def require() -> None:
        for name, there in (("java", shutil.which("java")), ("ZooKeeper", ZooKeeperServer._JAR.exists())):
            if not there:
                raise ServerMissing(f"{name} is not installed: apt-get install zookeeper (Debian)")

    def command(self) -> list[str]:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        lines = [
            f"dataDir={data}", f"clientPort={self.port}", "clientPortAddress=127.0.0.1", f"tickTime={self._TICK_MS}",
            "initLimit=50", "syncLimit=20", f"minSessionTimeout={2 * self._TICK_MS}", "maxSessionTimeout=60000",
            "maxClientCnxns=0", "4lw.commands.whitelist=srvr", "preAllocSize=64", "snapCount=10000",
        ]  # fmt: skip
        if self._tls is not None:
            lines += [
                f"secureClientPort={self.secure_port}", "secureClientPortAddress=127.0.0.1",
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
                f"ssl.keyStore.location={self._tls[0]}", "ssl.keyStore.type=PEM",
                f"ssl.trustStore.location={self._tls[1]}", "ssl.trustStore.type=PEM",
            ]  # fmt: skip
        if self._ensemble:
            (data / "myid").write_text(str(self._member))
            lines += self._ensemble
        config = self.directory / "zoo.cfg"
        config.write_text("\n".join(lines) + "\n")
        synced = ["-Dzookeeper.forceSync=no"] if self._quick else []
        jars = [
            self._JAR,
            *(self._JAR.with_name(name) for name in ("slf4j-nop.jar", "netty-codec.jar", "netty-resolver.jar")),
        ]
        return [*self._JAVA, *synced, "-cp", ":".join(map(str, jars)), self._MAIN, str(config)]

    def serves(self) -> bool:
        return b"Zookeeper version" in self.ask()

    def ask(self, word: bytes = b"srvr") -> bytes:
        """What it answers to one of its four-letter words; nothing if it does not take connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(word)
                answer = b""
                while part := connection.recv(4096):
                    answer += part
                return answer
        except OSError:
            return b""
