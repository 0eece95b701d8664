"""The admin calls of the how-to "Setting up M3Aggregator", with the names of this machine; what exists is left alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.errors import LabError
from lab.http import request
from lab.kv import ENVIRONMENT, ZONE

NUM_SHARDS = 64
_TTL_NS = "300000000000"


@dataclass(frozen=True)
class AdminCall:
    """One POST of the how-to; skipped if ``GET`` of ``exists`` already answers with what it would make."""

    what: str
    path: str
    topic: str
    body: dict[str, Any]
    exists: str


def _consumer_service(name: str, consumption: str) -> dict[str, Any]:
    return {
        "consumerService": {
            "serviceId": {"name": name, "environment": ENVIRONMENT, "zone": ZONE},
            "consumptionType": consumption,
            "messageTtlNanos": _TTL_NS,
        }
    }


@dataclass(frozen=True)
class AggregatorInstance:
    """One instance of the aggregators' placement; ``endpoint`` is ``host:port`` for m3msg."""

    id: str
    endpoint: str
    isolation_group: str = "local"
    http_port: int = 0
    """Told as ``debugPort``; 0: the usual one."""

    def body(self) -> dict[str, Any]:
        """As the request has it."""
        host, port = self.endpoint.rsplit(":", 1)
        return {
            "id": self.id, "isolation_group": self.isolation_group, "zone": ZONE, "weight": 100,
            "endpoint": self.endpoint, "hostname": host, "port": int(port), "metadata": {"debugPort": self.http_port},
        }  # fmt: skip


def admin_calls(instance_id: str, endpoint: str, ingest_endpoint: str) -> list[AdminCall]:
    """The six calls for a single aggregator; endpoints are ``host:port``."""
    return cluster_calls([AggregatorInstance(instance_id, endpoint)], ingest_endpoint, replication_factor=1)


def cluster_calls(
    aggregators: Sequence[AggregatorInstance], ingest_endpoint: str, *, replication_factor: int
) -> list[AdminCall]:
    """The six calls, in the order of the how-to; ``ingest_endpoint`` is the coordinator's."""
    ingest_host, ingest_port = ingest_endpoint.rsplit(":", 1)
    aggregator = {
        "num_shards": NUM_SHARDS,
        "replication_factor": replication_factor,
        "instances": [one.body() for one in aggregators],
    }
    coordinator = {
        "instances": [
            {
                "id": "m3coordinator-local", "zone": ZONE,
                "endpoint": ingest_endpoint, "hostname": ingest_host, "port": int(ingest_port),
            }
        ]
    }  # fmt: skip
    services, topic = "/api/v1/services", "/api/v1/topic"
    return [
        AdminCall(
            "placement of m3aggregator", f"{services}/m3aggregator/placement/init", "", aggregator,
            f"{services}/m3aggregator/placement",
        ),
        AdminCall("topic aggregator_ingest", f"{topic}/init", "aggregator_ingest", {"numberOfShards": NUM_SHARDS}, topic),
        AdminCall(
            "consumer m3aggregator of aggregator_ingest", topic, "aggregator_ingest",
            _consumer_service("m3aggregator", "REPLICATED"), topic,
        ),
        AdminCall("topic aggregated_metrics", f"{topic}/init", "aggregated_metrics", {"numberOfShards": NUM_SHARDS}, topic),
        AdminCall(
            "placement of m3coordinator", f"{services}/m3coordinator/placement/init", "", coordinator,
            f"{services}/m3coordinator/placement",
        ),
        AdminCall(
            "consumer m3coordinator of aggregated_metrics", topic, "aggregated_metrics",
            _consumer_service("m3coordinator", "SHARED"), topic,
        ),
    ]  # fmt: skip


def create(base_url: str, calls: list[AdminCall]) -> list[str]:
    """Makes every call whose result does not exist yet; returns one line per call. Raises ``LabError`` with M3's error text."""
    lines = []
    for call in calls:
        if _exists(base_url, call):
            lines.append(f"{call.what}: exists")
            continue
        status, answer = _request(base_url, "POST", call.path, call.topic, call.body)
        if status != 200:
            raise LabError(f"POST {call.path} was answered with {status}: {answer}")
        lines.append(f"{call.what}: created")
    return lines


def _exists(base_url: str, call: AdminCall) -> bool:
    status, answer = _request(base_url, "GET", call.exists, call.topic, None)
    if status == 404:
        return False
    if status != 200:
        raise LabError(f"GET {call.exists} was answered with {status}: {answer}")
    if "consumerService" in call.body:
        name = call.body["consumerService"]["serviceId"]["name"]
        return any(s["serviceId"]["name"] == name for s in json.loads(answer)["topic"]["consumerServices"])
    return True


def _request(base_url: str, method: str, path: str, topic: str, body: dict[str, Any] | None) -> tuple[int, str]:
    headers = {"Cluster-Environment-Name": ENVIRONMENT, "Content-Type": "application/json"}
    if topic:
        headers["Topic-Name"] = topic
    data = None if body is None else json.dumps(body).encode()
    status, answer = request(method, base_url + path, data, headers)
    return status, answer.decode(errors="replace").strip()
