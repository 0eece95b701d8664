"""``bench.memory``: what is made of ``/proc`` and of the metrics page, and a small instance taken apart."""

import json
import mmap
from pathlib import Path

import numpy as np
import pytest
from bench.memory import areas, main, tables

from m3x.reserve import reserve

_SMAPS = """\
7f00-7f01 rw-p 00000000 00:00 0
Pss:                  12 kB
VmFlags: rd wr mr mw me nr ac
7f01-7f02 rw-s 00000000 00:01 77    /memfd:front (deleted)
Pss:                   8 kB
VmFlags: rd wr sh
7f02-7f03 r-xp 00000000 08:01 12    /usr/lib/a library.so
Pss:                   4 kB
VmFlags: rd ex mr
7f03-7f04 rw-p 00000000 00:00 0     [heap]
Pss:                   2 kB
VmFlags: rd wr
7f04-7f05 rw-p 00000000 00:00 0
Pss:                   1 kB
VmFlags: rd wr
"""


def test_a_mapping_belongs_to_the_area_that_its_flags_and_its_name_say() -> None:
    assert areas(_SMAPS) == {"tables": 12 << 10, "shared": 8 << 10, "files": 4 << 10, "heap": 2 << 10, "other": 1 << 10}


def test_reserved_memory_that_is_touched_is_found_in_this_process() -> None:
    before = areas(Path("/proc/self/smaps").read_text()).get("tables", 0)
    table = reserve(1 << 24, np.uint8)
    table[: 8 << 20] = 1
    after = areas(Path("/proc/self/smaps").read_text())["tables"]
    assert after - before >= (8 << 20) - mmap.PAGESIZE


def test_tables_of_all_workers_are_added_up() -> None:
    page = (
        "# TYPE m3aggregator_engine_table_bytes gauge\n"
        'm3aggregator_engine_table_bytes{table="ids",worker="0"} 1.5e+06\n'
        'm3aggregator_engine_table_bytes{table="ids",worker="1"} 500000\n'
        'm3aggregator_engine_table_bytes{worker="0",table="entries"} 64.0\n'
        'm3aggregator_engine_entries{worker="0"} 7\n'
    )
    assert tables(page) == {"ids": 2_000_000, "entries": 64}


@pytest.mark.integration
def test_every_process_of_an_instance_is_accounted_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--series", "200", "--seconds", "3", "--resolution", "1", "--past", "1s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sent"] == found["acked"] > 0
    assert {"supervisor", "front", "worker 0", "zygote"} <= set(found["processes"])
    assert found["total"] == sum(found["processes"].values())
    for name, by_area in found["areas"].items():
        # Looked at twice, one after the other.
        assert sum(by_area.values()) == pytest.approx(found["processes"][name], rel=0.2, abs=8 << 20)
    assert found["areas"]["worker 0"]["tables"] > 0
