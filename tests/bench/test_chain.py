"""The bench of the whole chain: what it sends, how it counts, and its smallest form with real processes."""

import json
import shlex
import sys
from pathlib import Path

import cramjam
import pytest
from bench.chain.command import arguments, main
from bench.chain.samples import Samples
from bench.chain.store import count_series
from lab.prometheus import decode_write

from m3ctl.bench.remote_write import write_request

RELAY = """
import http.server, sys, urllib.request

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        urllib.request.urlopen(urllib.request.Request(sys.argv[2], body, {"Content-Encoding": "snappy"}))
        self.send_response(204)
        self.end_headers()

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""A rival that aggregates nothing: with one sample a window the store gets as many values."""


def test_a_pass_has_a_sample_of_each_series_with_new_times_and_values() -> None:
    samples = Samples(25, 10)
    passes = []
    for _ in range(2):
        samples.turn()
        bodies = [bytes(cramjam.snappy.decompress_raw(samples.body(k))) for k in range(samples.requests)]
        assert [count_series(body) for body in bodies] == [10, 10, 5]
        series = [one for body in bodies for one in decode_write(body)]
        assert all(labels == sorted(labels) for labels, _ in series)
        passes.append({dict(labels)[b"host"]: points for labels, points in series})
    assert set(passes[0]) == {b"host-%08d" % k for k in range(25)}
    assert set(passes[0]) == set(passes[1])
    for points in zip(passes[0].values(), (passes[1][host] for host in passes[0]), strict=True):
        (((before, then),), ((after, now),)) = points
        assert before != after
        assert then <= now


def test_series_of_any_request_are_counted() -> None:
    body = write_request([((("__name__", "a" * size),), 1.0, 5) for size in (1, 200, 20_000)])
    assert count_series(bytes(cramjam.snappy.decompress_raw(body))) == 3
    # Metadata, which stores are told as well.
    assert count_series(b"\x1a\x02\x08\x01") == 0


@pytest.mark.parametrize("against", ["nothing", "=x", "a b=c", "name="])
def test_a_rival_without_a_name_or_a_command_is_refused(against: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--against", against])
    assert "NAME=COMMAND" in capsys.readouterr().err


def test_sections_of_the_coordinator_are_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments(["--coordinator", "writes: {ack: aggregated}"]).coordinator == {"writes": {"ack": "aggregated"}}
    with pytest.raises(SystemExit):
        arguments(["--coordinator", "aggregated"])
    assert "expected sections" in capsys.readouterr().err


@pytest.mark.integration
def test_ours_and_a_rival_get_the_same_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "relay.py"
    script.write_text(RELAY)
    rival = f"relay={shlex.join([sys.executable, str(script)])} {{port}} {{receiver}}"
    code = main(["--series", "50", "--windows", "1", "--resolution", "2", "--against", rival, "--json"])
    ours, other = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert code == 0
    assert (ours["chain"], other["chain"]) == ("ours", "relay")
    for chain in (ours, other):
        assert [part["values"] for part in chain["parts"].values()] == [50, 50]
        assert [part["samples"] for part in chain["parts"].values()] == [50, 50]
        assert chain["peak_mib_total"] > 0
    assert {"coordinator", "supervisor", "front", "worker 0"} <= set(ours["peak_mib"])
