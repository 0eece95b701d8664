"""Queries as the real coordinator answered them from a real node: the same calls, and the same answers.

The recorded calls say what was asked over HTTP: the range of ``query_range`` begins a look-back of five minutes later, and its end is
exclusive there, while here it belongs to the range.
"""

import base64
import re
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from tests.golden.vectors import Vector, cases

from coordinator.config import Namespace
from coordinator.query import ReadOptions, query_routes
from coordinator.query.m3db import M3DBSource
from m3db.connection import Answer
from m3db.options import SessionOptions
from m3db.reader import Reader
from m3db.tchannel import FrameReader
from m3db.tchannel.calls import Assembly
from m3db.tchannel.fragments import ResponseHead, read_fragment
from m3db.thrift import METHODS, unmarshal
from m3db.topology import Host, Topology
from m3x.instrument import Registry

VECTORS = [one for one in cases("m3db/coordinator.jsonl.gz", "config", "phase") if "http_status" in one.values[0]]
READS = [one for one in VECTORS if one.values[0]["calls"][0]["method"] in {"fetchTagged", "aggregateRaw"}]
S = 10**9
MS = 10**6
LOOKBACK_S = 300
NAMESPACES = (Namespace("default", 0, 6 * 3600 * S), Namespace("agg10s", 10 * S, 12 * 3600 * S))
QUERIES = {
    "read_query_range": "read_{}",
    "read_matchers": 'read_{}{{host=~"a|b",dc!="x"}}',
    "read_empty": "nothing_{}",
    "read_big": '{{__name__=~"big_{}_.+"}}',
    "read_raw": "raw_{}",
    "labels": "",
    "series_ids": "read_{}",
}
"""What the notes of the phases say, with the number of the run in the names."""


class Recorded:
    """A session with one node, which answers as the recorded one did."""

    options = SessionOptions()
    topology = Topology.static([Host("node", "127.0.0.1:9000")], 16)

    def __init__(self, vector: Vector) -> None:
        (self.recorded,) = vector["calls"]
        self.bodies: list[bytes] = []

    def hosts_for_reading(self) -> "Recorded":
        return self

    async def call(self, host: int, method: str, body: bytes, timeout_s: float) -> Answer:
        assert (host, method) == (0, self.recorded["method"])
        assert 0 <= timeout_s * 1000 - self.recorded["ttl_ms"] < 2000
        self.bodies.append(body)
        answer = assembled(self.recorded["response_frames"])
        assert isinstance(answer.head, ResponseHead)
        return Answer(answer.head.code, bytes(answer.arguments[2]))


def assembled(frames: list[str]) -> Assembly:
    """One call, or the answer to one."""
    reader = FrameReader()
    first, *rest = [frame for data in frames for frame in reader.feed(base64.b64decode(data))]
    message = Assembly(read_fragment(first))
    for frame in rest:
        message.add(read_fragment(frame))
    assert message.complete
    return message


def asked(vector: Vector) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Path, parameters and headers of the request."""
    call = vector["calls"][0]["request"]
    start_s, end_s = call["rangeStart"] // S, call["rangeEnd"] // S
    headers = {}
    if call["nameSpace"] == "agg10s":
        headers = {"M3-Metrics-Type": "aggregated", "M3-Storage-Policy": "10s:12h"}
    found = re.search(r"_(s\d+)", bytes.fromhex(call["query_hex"]).decode())
    query = QUERIES[vector["phase"]].format(found and found[1])
    span: dict[str, Any] = {"start": start_s, "end": end_s}
    if vector["phase"] == "labels":
        return "/api/v1/labels", span, headers
    if vector["phase"] == "series_ids":
        return "/api/v1/series", {**span, "match[]": query}, headers
    return "/api/v1/query_range", {**span, "start": start_s + LOOKBACK_S, "query": query, "step": 10}, headers


@pytest.mark.parametrize("vector", READS)
async def test_reads(vector: Vector) -> None:
    session = Recorded(vector)
    now_ns = vector["calls"][0]["request"]["rangeEnd"]
    source = M3DBSource(Reader(session, Registry().scope("m3db")), lambda: NAMESPACES, clock=lambda: now_ns)
    routes = query_routes(source, defaults=ReadOptions(series_limit=100_000))
    path, params, headers = asked(vector)
    transport = httpx.ASGITransport(app=Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as client:
        answer = await client.get(path, params=params, headers=headers)
    method = METHODS[session.recorded["method"]]
    request = unmarshal(method.args, bytes(assembled(session.recorded["request_frames"]).arguments[2]))["req"]
    assert session.bodies == [method.body({**request, "rangeEnd": request["rangeEnd"] + MS})]
    assert answer.status_code == vector["http_status"]
    ours, theirs = answer.json(), vector["http_body"]
    if theirs == "left out":
        recorded = method.outcome(bytes(assembled(session.recorded["response_frames"]).arguments[2]))
        assert len(ours["data"]["result"]) == len(recorded["elements"]) > 50
    elif vector["phase"] == "series_ids":
        assert sorted(map(str, ours["data"])) == sorted(map(str, theirs["data"]))
    else:
        assert ours == theirs
