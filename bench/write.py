"""What a sample costs a whole coordinator by the protocol that it is sent in: CPU of its processes from socket to the aggregators' acks.

    scripts/bench write [--protocol 1.0|2.0|otlp|otlp-json|influx|json|carbon …] [--series 2000] [--connections 4] [--seconds 4] [--turns 2]
                        [--workers 1]

One coordinator is loaded by each protocol in turn, by all of them if none is named. A request has one sample for each of ``--series`` known
series of eight labels (JSON: one sample; carbon: lines of four parts); OTLP's are monotonic sums, lines of InfluxDB have four fields. The
first turn of each, with new series, does not count. The aggregator is a consumer in this process that acks at once.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import json_format
from lab.prometheus import request_2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from bench.rules_bench import requests
from bench.writes import Aggregator, Loaded, Send, posting, serving
from coordinator.write.media import MESSAGE_2

__all__ = ["main"]

_BODIES = 8
_FIELDS = 4
_PER_METRIC = 100
_LINES_AHEAD = 20_000
"""Carbon lines that are sent before earlier ones have been acknowledged."""


class _Load(NamedTuple):
    bodies: Sequence[bytes]
    samples: int
    """Of a body."""
    send: Send | None
    """None: lines of carbon."""


def _labels(i: int) -> dict[str, str]:
    return {
        "host": f"host-{i}", "code": str(200 + i % 5), "dc": "east", "app": f"a{i % 30}", "env": "prod", "team": "x",
        "instance_name": f"10.0.0.{i % 250}:9100",
    }  # fmt: skip


def _otlp(first: int, series: int) -> Any:
    def attribute(name: str, value: str) -> dict[str, Any]:
        return {"key": name, "value": {"string_value": value}}

    def point(i: int) -> dict[str, Any]:
        labels = [attribute(name, value) for name, value in _labels(i).items()]
        return {"time_unix_nano": time.time_ns(), "start_time_unix_nano": 1, "as_int": i, "attributes": labels}

    metrics = [
        {
            "name": f"node.cpu.{begin // _PER_METRIC % 50}",
            "sum": {
                "aggregation_temporality": 2,
                "is_monotonic": True,
                "data_points": [point(first + i) for i in range(begin, min(begin + _PER_METRIC, series))],
            },
        }
        for begin in range(0, series, _PER_METRIC)
    ]
    of_resource: Any = {"scope_metrics": [{"metrics": metrics}]}
    return ExportMetricsServiceRequest(resource_metrics=[of_resource])


def _influx(first: int, series: int) -> bytes:
    def line(i: int) -> str:
        tags = ",".join(f"{name}={value}" for name, value in _labels(i).items())
        fields = ",".join(f"f{k}={i * 0.37 + k}" for k in range(_FIELDS))
        return f"node,{tags} {fields} {time.time_ns()}\n"

    return "".join(line(first + i) for i in range(series // _FIELDS)).encode()


def _json(first: int) -> bytes:
    tags = {"__name__": "node_cpu", **_labels(first)}
    return json.dumps({"tags": tags, "timestamp": str(time.time()), "value": 1.5}).encode()


def _carbon(first: int, series: int) -> bytes:
    return "".join(f"servers.host-{first + i}.cpu.usage {i * 0.5} {time.time():.0f}\n" for i in range(series)).encode()


def _load(protocol: str, series: int) -> _Load:
    firsts = range(0, _BODIES * series, series)
    if protocol == "1.0":
        return _Load(requests(_BODIES * series, 0, series), series, posting("/api/v1/prom/remote/write"))
    if protocol == "2.0":
        media = f"application/x-protobuf;proto={MESSAGE_2}"
        bodies = requests(_BODIES * series, 0, series, request_2)
        return _Load(bodies, series, posting("/api/v1/prom/remote/write", media))
    if protocol == "otlp":
        bodies = [_otlp(first, series).SerializeToString() for first in firsts]
        return _Load(bodies, series, posting("/api/v1/otlp/v1/metrics"))
    if protocol == "otlp-json":
        bodies = [json_format.MessageToJson(_otlp(first, series), indent=None).encode() for first in firsts]
        return _Load(bodies, series, posting("/api/v1/otlp/v1/metrics", "application/json"))
    if protocol == "influx":
        samples = series // _FIELDS * _FIELDS
        return _Load(
            [_influx(first, series) for first in firsts], samples, posting("/api/v1/influxdb/write", "text/plain")
        )
    if protocol == "json":
        bodies = [_json(first) for first in range(_BODIES * 64)]
        return _Load(bodies, 1, posting("/api/v1/json/write", "application/json"))
    return _Load([_carbon(first, series) for first in firsts], series, None)


_PROTOCOLS = ("1.0", "2.0", "otlp", "otlp-json", "influx", "json", "carbon")


def _lines(aggregator: Aggregator, samples: int) -> Send:
    """Sends lines, no more than are taken."""
    sent, before = 0, aggregator.messages

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> bool:
        nonlocal sent
        sent += samples
        writer.write(body)
        await writer.drain()
        while aggregator.messages - before < sent - _LINES_AHEAD:  # noqa: ASYNC110 - counted in a handler
            await asyncio.sleep(0.002)
        return False

    return send


async def _measure(folder: Path, coordinator: Loaded, loads: Mapping[str, _Load], options: argparse.Namespace) -> None:
    async with serving(folder) as aggregator:
        await asyncio.to_thread(coordinator.wait)
        spent: dict[str, list[float]] = {protocol: [] for protocol in loads}
        for turn in range(options.turns + 1):
            for protocol, load in loads.items():
                send, port = load.send, 0
                if send is None:
                    send, port = _lines(aggregator, load.samples), coordinator.carbon_port
                coordinator.cpu_s, coordinator.samples = 0.0, 0
                await coordinator.turn(
                    load.bodies, load.samples, options.connections, options.seconds, aggregator, send, port
                )
                if turn:
                    spent[protocol].append(coordinator.cpu_s / coordinator.samples)
    for protocol, costs in spent.items():
        print(
            f"{protocol:10} {1 / min(costs) / 1000:8.0f} k samples per CPU second, {min(costs) * 1e6:.2f} us a sample "
            f"(best of {len(costs)}; {', '.join(f'{cost * 1e6:.2f}' for cost in costs)})"
        )


def main(arguments: list[str]) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/bench write", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--protocol", action="append", choices=_PROTOCOLS, help="which one; may be given several times")
    parser.add_argument("--series", type=int, default=2000, help="samples of a request")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one turn")
    parser.add_argument("--turns", type=int, default=2, help="of each")
    parser.add_argument("--workers", type=int, default=1, help="processes that take writes")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="bench-write-"))
    coordinator = Loaded("buffered", folder, {"writes": {"ack": "buffered"}}, workers=options.workers)
    try:
        loads = {protocol: _load(protocol, options.series) for protocol in options.protocol or _PROTOCOLS}
        asyncio.run(_measure(folder, coordinator, loads, options))
    finally:
        coordinator.process.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0
