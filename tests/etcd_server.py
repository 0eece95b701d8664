"""A real etcd for tests (Debian package etcd-server)."""

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from lab.ports import free_port
from tests.processes import stop

START_S = 60
ATTEMPTS = 5


class EtcdServer:
    """A real etcd on loopback, of one member unless ``form_cluster`` joins several; its ports and data survive ``kill`` and ``start``."""

    def __init__(self, directory: Path, *options: str, scheme: str = "http") -> None:
        self.directory = directory
        self._scheme = scheme
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._served = False
        self._take_ports()

    def _take_ports(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._url = f"{self._scheme}://{self.address}"
        self._peer = f"http://127.0.0.1:{free_port()}"
        self._metrics = f"http://127.0.0.1:{free_port()}"

    @staticmethod
    def binary() -> str:
        """Path of etcd; skips the test if it is missing, unless REQUIRE_SERVERS says that it must be there."""
        path = shutil.which("etcd")
        if path is None:
            if os.environ.get("REQUIRE_SERVERS"):
                pytest.fail("etcd is not installed, and REQUIRE_SERVERS is set")
            pytest.skip("etcd is not installed (Debian package etcd-server)")
        return path

    def launch(self) -> None:
        """Starts the process without waiting for it to serve."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [self.binary(), "--name=t", f"--data-dir={self.directory / 'data'}", "--log-level=error"]
        command += [f"--listen-client-urls={self._url}", f"--advertise-client-urls={self._url}"]
        command += [f"--listen-peer-urls={self._peer}", f"--initial-advertise-peer-urls={self._peer}"]
        command += [f"--initial-cluster=t={self._peer}", f"--listen-metrics-urls={self._metrics}"]
        command += ["--heartbeat-interval=50", "--election-timeout=250", *self._options]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    @classmethod
    def form_cluster(cls, servers: "list[EtcdServer]") -> None:
        """Starts servers that were never started as members of one cluster, and waits until they serve."""
        members = ",".join(f"t{i}={server._peer}" for i, server in enumerate(servers))
        for i, server in enumerate(servers):
            server._options = (*server._options, f"--name=t{i}", f"--initial-cluster={members}")
            server.launch()
        for server in servers:
            if not server._serves():
                pytest.fail(f"etcd does not serve: {server.log()}")
            server._served = True

    def start(self) -> "EtcdServer":
        """Starts the process and waits until it serves. The first start takes other ports where somebody was faster to take these."""
        for attempt in range(1 if self._served else ATTEMPTS):
            if attempt:
                shutil.rmtree(self.directory / "data", ignore_errors=True)
                self._take_ports()
            self.launch()
            if self._serves():
                self._served = True
                return self
            self.kill()
            if "address already in use" not in self.log():
                break
        pytest.fail(f"etcd does not serve: {self.log()}")

    def log(self) -> str:
        """The end of what it has said."""
        return (self.directory / "log").read_text()[-2000:]

    def _serves(self) -> bool:
        give_up = time.monotonic() + START_S
        while not self._healthy():
            if time.monotonic() > give_up or self._process is None or self._process.poll() is not None:
                return False
            time.sleep(0.02)
        return True

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._metrics}/health", timeout=1) as answer:
                return b"true" in answer.read()
        except OSError:
            return False

    def stop(self) -> None:
        """SIGSTOP; nothing is answered from here on."""
        assert self._process is not None
        stop(self._process.pid)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, unless it is dead already."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
