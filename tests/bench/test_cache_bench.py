"""The bench of the series cache: that its requests are what it says, and its smallest form."""

import cramjam
import numpy as np
import pytest
from bench.cache_bench import Requests, main

from coordinator import prompb
from m3x.protobuf import unmarshal


def test_the_series_of_a_request_are_those_of_its_numbers() -> None:
    requests = Requests()
    for first in (0, 5_000):
        body = bytes(cramjam.snappy.decompress_raw(requests.body(np.arange(first, first + 1000))))
        series = unmarshal(prompb.WRITE_REQUEST, body)["timeseries"]
        hosts = [{one["name"]: one["value"] for one in entry["labels"]}[b"host"] for entry in series]
        assert hosts == [b"h%09d" % number for number in range(first, first + 1000)]


def test_a_cache_that_holds_all_series(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--series", "2000"]) == 0
    assert "2000 series, 0 rules" in capsys.readouterr().out


def test_a_cache_that_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--over", "1.2", "--max-bytes", str(1 << 20)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "1.2 times" in first
    assert "10 % of all samples" in second
