"""A real ZooKeeper on loopback for tests, run as an ordinary process from Debian's jars."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from lab.ports import free_port

START_S = 60
JAR = Path("/usr/share/java/zookeeper.jar")
# A small, quickly started virtual machine; the log is written, not synced: kill -9 of the process loses nothing of it.
JAVA = [
    "java",
    "-Xmx96m",
    "-Xshare:auto",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:CICompilerCount=1",
    "-XX:-UsePerfData",
    "-Dzookeeper.admin.enableServer=false",
    "-Dzookeeper.forceSync=no",
    "-Dzookeeper.jmx.log4j.disable=true",
    "-Djava.awt.headless=true",
]
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
TICK_MS = 100


class ZooKeeperServer:
    """One server; its port and data survive ``kill`` and ``start``. Session timeouts may be between 0.2 s and a minute.

    ``ensemble``: lines of the configuration that name all its members, of which this is number ``member``.
    """

    def __init__(self, directory: Path, *, ensemble: tuple[str, ...] = (), member: int = 0) -> None:
        self.directory = directory
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._ensemble = ensemble
        self._member = member
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def ensemble(cls, directory: Path, members: int = 3) -> "list[ZooKeeperServer]":
        """The servers of one ensemble, not started yet."""
        numbers = range(1, members + 1)
        lines = tuple(f"server.{number}=127.0.0.1:{free_port()}:{free_port()}" for number in numbers)
        return [cls(directory / f"zookeeper{number}", ensemble=lines, member=number) for number in numbers]

    @staticmethod
    def require() -> None:
        """Skips the test if ZooKeeper is missing; fails it if REQUIRE_SERVERS says that it must be there."""
        if shutil.which("java") is None or not JAR.exists():
            if os.environ.get("REQUIRE_SERVERS"):
                pytest.fail("ZooKeeper or Java is not installed, and REQUIRE_SERVERS is set")
            pytest.skip("ZooKeeper is not installed (Debian package zookeeper)")

    def launch(self) -> None:
        """Starts the process without waiting for it to serve."""
        self.require()
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        lines = [f"dataDir={data}", f"clientPort={self.port}", "clientPortAddress=127.0.0.1", f"tickTime={TICK_MS}"]
        lines += ["initLimit=50", "syncLimit=20", f"minSessionTimeout={2 * TICK_MS}", "maxSessionTimeout=60000"]
        lines += ["maxClientCnxns=0", "4lw.commands.whitelist=srvr", "preAllocSize=64", "snapCount=10000"]
        if self._ensemble:
            (data / "myid").write_text(str(self._member))
            lines += self._ensemble
        config = self.directory / "zoo.cfg"
        config.write_text("\n".join(lines) + "\n")
        command = [*JAVA, "-cp", f"{JAR}:/usr/share/java/slf4j-nop.jar", MAIN, str(config)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)

    def start(self) -> "ZooKeeperServer":
        """Starts the process and waits until it serves."""
        self.launch()
        return self.wait()

    def wait(self) -> "ZooKeeperServer":
        """Waits until it serves."""
        give_up = time.monotonic() + START_S
        while b"Zookeeper version" not in self.ask():
            if time.monotonic() > give_up or self._process is None or self._process.poll() is not None:
                pytest.fail(f"ZooKeeper does not serve: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        return self

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

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, unless it is dead already."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
