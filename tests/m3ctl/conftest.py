"""A cluster that is not there: HTTP servers on loopback that answer as M3's coordinator and aggregators do, or as ours."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from m3ctl.cli import main

MINUTE_NS = 60_000_000_000
ENV = "gclu/api"


class Server:
    """Answers ``(method, path)`` with what ``answers`` says: (status, body), or a function of the headers that returns it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.more_headers: dict[str, str] = {}
        self.seen: list[tuple[str, str]] = []
        self.skew_s = 0.0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(length)
                key = (self.command, self.path)
                owner.seen.append(key)
                answer = owner.answers.get(key, (404, b"404 page not found\n"))
                status, body = answer(self.headers) if callable(answer) else answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in owner.more_headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _serve

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string((timestamp or time.time()) + owner.skew_s)

            def log_message(self, *_: Any) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            def get_request(self) -> tuple[socket.socket, Any]:
                taken, address = super().get_request()
                if tls is None:
                    return taken, address
                return tls.wrap_socket(taken, server_side=True), address

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Listener(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


def compact(value: Any, end: str = "") -> bytes:
    """JSON as M3 writes it."""
    return json.dumps(value, separators=(",", ":")).encode() + end.encode()


def error(status: int, text: str) -> tuple[int, bytes]:
    """M3's error envelope."""
    return status, compact({"status": "error", "error": text}, "\n")


def shard(number: int, cutover_ns: int, state: str = "INITIALIZING") -> dict[str, Any]:
    """A shard, all fields, as the admin API writes it."""
    return {
        "id": number, "state": state, "sourceId": "", "cutoverNanos": str(cutover_ns), "cutoffNanos": "0",
        "redirectToShardId": None,
    }  # fmt: skip


class FakeCluster:
    """Two aggregators in one shard set, four shards, replication factor 2; ``go``: they serve only what M3's own serve."""

    def __init__(self) -> None:
        self.now_ns = time.time_ns()
        self.cutover_ns = self.now_ns - self.now_ns % MINUTE_NS - 5 * MINUTE_NS
        self.coordinator = Server()
        self.aggregators = [Server(), Server()]
        self.listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        self.ports = [listener.getsockname()[1] for listener in self.listeners]
        self.ids = ["m3aggregator01:6000", "m3aggregator02:6000"]
        self.groups = ["availability-zone-a", "availability-zone-b"]
        self.states = ["leader", "follower"]
        self.num_shards = 4
        self.topics = {
            "aggregator_ingest": self.topic("aggregator_ingest", ("m3aggregator", "REPLICATED")),
            "aggregated_metrics": self.topic("aggregated_metrics", ("m3coordinator", "SHARED")),
        }
        self.flushed_ns = self.now_ns - 20_000_000_000
        self.advance_ns = 10_000_000_000
        """By which the flush times grow with every look."""
        self.lists: list[dict[str, Any]] = []
        """Further lists of ``/shards``."""
        answers = self.coordinator.answers
        answers["GET", "/health"] = (200, b'{"uptime":"1m2.5s","now":"2026-01-02 03:04:05.6 +0000 UTC m=+62.5"}\n')
        answers["GET", "/ready"] = (200, b"{}\n")
        answers["GET", "/api/v1/services/m3aggregator/placement"] = self._placement
        answers["GET", "/api/v1/services/m3coordinator/placement"] = self._output
        answers["GET", "/api/v1/topic"] = self._topic
        for number, server in enumerate(self.aggregators):
            server.answers["GET", "/health"] = (200, b'{"state":"OK"}\n')
            server.answers["GET", "/status"] = lambda _, n=number: (200, compact(self._status(n), "\n"))
            server.answers["POST", "/resign"] = lambda _, n=number: self._resign(n)

    def close(self) -> None:
        for server in (self.coordinator, *self.aggregators):
            server.close()
        for listener in self.listeners:
            listener.close()

    def ours(self) -> "FakeCluster":
        """The aggregators are ours: they serve ``/ready`` and ``/shards``, too."""
        for number, server in enumerate(self.aggregators):
            server.answers["GET", "/ready"] = (200, b'{"ready":true,"reasons":[],"notes":[]}\n')
            server.answers["GET", "/shards"] = lambda _, n=number: (200, compact(self._shards(n), "\n"))
        return self

    def topic(self, name: str, *consumers: tuple[str, str], shards: int = 4, env: str = ENV) -> dict[str, Any]:
        """A topic as the admin API answers it."""
        services = [
            {
                "serviceId": {"name": service, "environment": env, "zone": "embedded"},
                "consumptionType": kind, "messageTtlNanos": "300000000000", "filters": None,
            }
            for service, kind in consumers
        ]  # fmt: skip
        return {"topic": {"name": name, "numberOfShards": shards, "consumerServices": services}, "version": 2}

    def instance(self, number: int) -> dict[str, Any]:
        """An instance of the placement; its endpoint is a port that takes connections."""
        port = self.ports[number]
        return {
            "id": self.ids[number], "isolationGroup": self.groups[number], "zone": "embedded", "weight": 100,
            "endpoint": f"127.0.0.1:{port}", "shards": [shard(i, self.cutover_ns) for i in range(self.num_shards)],
            "shardSetId": 1, "hostname": "127.0.0.1", "port": port,
            "metadata": {"debugPort": self.aggregators[number].port}, "subclusterId": 0,
        }  # fmt: skip

    def _placement(self, headers: Any) -> tuple[int, bytes]:
        if headers["Cluster-Zone-Name"] != "embedded":
            return error(500, f"no etcd cluster found for zone: {headers['Cluster-Zone-Name']}")
        if headers["Cluster-Environment-Name"] != ENV:
            return error(404, "placement does not exist")
        placement = {
            "instances": {self.ids[n]: self.instance(n) for n in range(2)}, "replicaFactor": 2,
            "numShards": self.num_shards, "isSharded": True, "cutoverTime": "0", "isMirrored": True,
            "maxShardSetId": 1, "isSubclustered": False, "instancesPerSubcluster": 0,
        }  # fmt: skip
        return 200, compact({"placement": placement, "version": 1})

    def _output(self, headers: Any) -> tuple[int, bytes]:
        if headers["Cluster-Environment-Name"] != ENV:
            return error(404, "placement does not exist")
        port = self.ports[2]
        instance = {
            "id": "m3coordinator01", "isolationGroup": "", "zone": "embedded", "weight": 0,
            "endpoint": f"127.0.0.1:{port}", "shards": [], "shardSetId": 0, "hostname": "127.0.0.1", "port": port,
            "metadata": {"debugPort": 0}, "subclusterId": 0,
        }  # fmt: skip
        placement = {
            "instances": {"m3coordinator01": instance}, "replicaFactor": 1, "numShards": 0, "isSharded": False,
            "cutoverTime": "0", "isMirrored": False, "maxShardSetId": 0, "isSubclustered": False,
            "instancesPerSubcluster": 0,
        }  # fmt: skip
        return 200, compact({"placement": placement, "version": 1})

    def _topic(self, headers: Any) -> tuple[int, bytes]:
        found = self.topics.get(headers["Topic-Name"])
        return error(404, "key not found") if found is None else (200, compact(found))

    def _status(self, number: int) -> dict[str, Any]:
        return {"status": {"flushStatus": {"electionState": self.states[number], "canLead": True}}}

    def _resign(self, number: int) -> tuple[int, bytes]:
        self.states[number], self.states[1 - number] = "follower", "leader"
        return 200, b'{"state":"OK"}\n'

    def _shards(self, number: int) -> dict[str, Any]:
        self.flushed_ns += self.advance_ns
        rows = [
            {
                "shard": i, "worker": i // 2, "workerUp": True, "state": "INITIALIZING", "cutoverNs": self.cutover_ns,
                "entries": 7, "openWindows": 2, "lastFlushNs": self.flushed_ns, "flushedThroughNs": self.flushed_ns,
                "lagNs": 1_500_000_000,
            }
            for i in range(self.num_shards)
        ]  # fmt: skip
        lists = [
            {
                "name": "timed 10s", "resolutionNs": 10_000_000_000, "shards": 4, "flushedThroughNs": self.flushed_ns,
                "newestFlushedThroughNs": self.flushed_ns,
            },
            *({**row, "newestFlushedThroughNs": self.flushed_ns if row.get("moves") else 5} for row in self.lists),
        ]  # fmt: skip
        return {"instanceId": self.ids[number], "shards": rows, "lists": lists}


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    """A cluster of Go's aggregators; ``.ours()`` makes them ours."""
    made = FakeCluster()
    yield made
    made.close()


@pytest.fixture
def ctl(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``ctl("leaders")``: exit code, standard output, standard error of the command against the cluster."""

    def run(command: str, *arguments: str, env: str = ENV) -> tuple[int, str, str]:
        code = main([command, "--coordinator", cluster.coordinator.url, "--env", env, "--timeout", "2", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run
