"""What writes to M3DB cost before the socket: values in columns → frames of calls, and errors of elements → columns.

CPU of this process. New series are those whose form is made by their first value; their numbers exist before, as ``SeriesTable`` is shared
by all sinks.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.prom_remote import numbered
from coordinator.sinks.series import SeriesTable
from m3db.connection import MessageIds
from m3db.thrift import marshal
from m3db.write import MOST_ELEMENTS, FormRules, SeriesForms, WriteRows, element_errors, encode_calls
from m3db.write.requests import WRITE
from m3db.write.warmup import warm

_TIME = 1_700_000_000
_TTL_MS = 10_000


def rows_of(forms: SeriesForms, series: NDArray[np.uint32]) -> WriteRows:
    """A value of each series."""
    count = len(series)
    zeros = np.zeros(count, np.uint16)
    time_type, values = np.zeros(count, np.uint8), np.random.default_rng(1).random(count)
    return WriteRows(
        forms, series, (b"agg_10s_30d",), zeros, np.full(count, _TIME, np.int64), time_type, values, (b"",), zeros
    )


def took(step: Callable[[], object], repeated: int, count: int) -> float:
    """Microseconds of CPU for each of ``count``: the best of so many repetitions."""
    best = float("inf")
    for _ in range(repeated):
        started = time.process_time()
        step()
        best = min(best, time.process_time() - started)
    return best / count * 1e6


def measure(options: argparse.Namespace) -> None:
    """Prints the figures."""
    table, reserve = SeriesTable(), MessageIds().reserve
    series = numbered(table, options.series)
    for scheme in ("quoted", "prepend_meta"):
        forms = SeriesForms(FormRules(1024, id_scheme=scheme))
        new = took(lambda forms=forms: forms.require(table, series), 1, options.series)  # type: ignore[misc]
        shuffled = np.random.default_rng(2).permutation(series)
        batches = [rows_of(forms, shuffled[at : at + options.rows]) for at in range(0, options.series, options.rows)]

        def encode(forms: SeriesForms = forms, batches: list[WriteRows] = batches) -> int:
            nbytes = 0
            for batch in batches:
                forms.require(table, batch.series)
                calls = encode_calls(batch, None, reserve, _TTL_MS, most_elements=options.elements)
                nbytes += len(calls.frames)
            return nbytes

        known = took(encode, options.repeated, options.series)
        print(f"{scheme}: {options.series} series in batches of {options.rows}, calls of {options.elements}")
        print(f"  a new series      {new:8.3f} us, {forms.size_bytes / options.series:.0f} B of memory")
        print(f"  forms and frames  {known:8.3f} us a value, {encode() / options.series:.0f} B on the wire")
    text = b'datapoint too far in past: id={__name__="http_server_request_duration_seconds_1"}, off_by=50m5s'
    listed = [{"index": k, "err": {"type": 1, "message": text}} for k in range(options.elements)]
    body = marshal(WRITE.result, {"err": {"errors": listed}})
    answers = took(lambda: element_errors(1, body, options.elements), 100, options.elements)
    print(f"an answer in which every element failed\n  errors            {answers:8.3f} us an element")


def main(arguments: list[str]) -> int:
    """``scripts/bench m3db``."""
    parser = argparse.ArgumentParser(prog="scripts/bench m3db", description=__doc__)
    parser.add_argument("--series", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=5000, help="of a batch")
    parser.add_argument("--elements", type=int, default=MOST_ELEMENTS, help="of a call")
    parser.add_argument("--repeated", type=int, default=5, help="the best of so many is shown")
    warm()
    measure(parser.parse_args(arguments))
    return 0
