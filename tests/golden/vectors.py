"""Vectors captured from the real M3: where they lie, who reads which file, and how lines become test cases.

The folder is ``$GOLDEN_DIR``, or ``../shared/golden`` beside the repository. Each file has exactly one reader: a test module
(``READERS``) or a later change (``LATER``). ``test_vectors.py`` fails for a file that nobody reads.
"""

import gzip
import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[3] / "shared" / "golden")
REQUIRED = os.environ.get("REQUIRE_GOLDEN") == "1"
CORPORA = ("engine", "coordinator", "coordinator_embedded", "cluster", "prom_remote", "m3db", "config", "graphite")

READERS = {
    "engine/codec.jsonl": "golden/test_engine.py",
    "engine/frames.jsonl": "golden/test_engine.py",
    "engine/quantiles.jsonl": "golden/test_engine_values.py",
    "engine/aggregations.jsonl": "golden/test_engine_values.py",
    "engine/shards.jsonl": "golden/test_engine.py",
    "engine/suffixes.jsonl": "golden/test_engine.py",
    "coordinator/ids.jsonl": "golden/test_coordinator.py",
    "coordinator/appender.jsonl.gz": "golden/test_appender.py",
    "coordinator/filters.jsonl": "golden/test_filters.py",
    "coordinator/rules_match.jsonl.gz": "golden/test_rules.py",
    "cluster/kv_values.jsonl": "golden/test_cluster.py",
    "cluster/etcd_requests.jsonl": "golden/test_etcd_requests.py",
    "cluster/admin_api.jsonl": "golden/test_cluster.py",
    "cluster/placements.jsonl": "golden/test_cluster.py",
    "engine/scripts.jsonl.gz": "golden/test_engine_scripts.py",
    "coordinator/configs": "coordinator/write/test_golden_write.py",
    "coordinator/ingest_to_write.jsonl": "coordinator/ingest/test_golden_ingest.py",
    "coordinator/promql_smoke.jsonl": "coordinator/query/conftest.py",
    "coordinator/write_to_m3msg.jsonl": "coordinator/write/test_golden_write.py",
    "coordinator_embedded/auto.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/carbon.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/dup.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/empty.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/faults.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/flip.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/kv.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/mapping.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/misc.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/noop.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/past.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/rollup.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/suffix.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/untimed.jsonl": "golden/test_coordinator_embedded.py",
    "coordinator_embedded/configs": "golden/test_coordinator_embedded.py",
    "prom_remote/configs": "golden/test_prom_remote.py",
    "prom_remote/connections.jsonl": "golden/test_prom_remote.py",
    "prom_remote/m3msg.jsonl": "golden/test_prom_remote.py",
    "prom_remote/remote_write.jsonl": "golden/test_prom_remote.py",
    "m3db/coordinator.jsonl.gz": "golden/test_m3db_coordinator.py",
    "m3db/exchanges.jsonl": "golden/test_m3db_exchanges.py",
    "m3db/fetch.jsonl.gz": "golden/test_m3db_fetch.py",
    "m3db/ids.jsonl": "golden/test_m3db_ids.py",
    "m3db/m3tsz.jsonl": "golden/test_m3db_m3tsz.py",
    "m3db/queries.jsonl": "golden/test_m3db_queries.py",
    "m3db/thrift.jsonl": "golden/test_m3db_thrift.py",
    "m3db/consistency.jsonl": "golden/test_m3db_cluster.py",
    "m3db/kv.jsonl": "golden/test_m3db_cluster.py",
    "m3db/behaviour.jsonl": "golden/test_m3db_behaviour.py",
    "config/keys.jsonl": "golden/test_config.py",
    "config/keys_check.jsonl": "golden/test_config.py",
    "config/load.jsonl": "golden/test_config.py",
    "graphite/times.jsonl": "golden/test_graphite.py",
    "graphite/lexer.jsonl": "golden/test_graphite.py",
    "graphite/functions.jsonl": "golden/test_graphite.py",
    "graphite/requests.jsonl": "golden/test_graphite.py",
}
"""Where each file is read, as a path below ``tests``."""

ALSO = (
    "m3ctl/test_migrate.py",
    "golden/test_m3db_double.py",
    "golden/test_m3db_double_reads.py",
    "golden/test_m3db_reading.py",
)
"""Modules that compare something else with files that have their reader."""

LATER: dict[str, str] = {}
"""What no module here reads yet, and with which change it will be."""

Vector = dict[str, Any]


def present() -> bool:
    """Whether the vectors are there at all."""
    return ROOT.is_dir()


def names() -> set[str]:
    """Files and folders of vectors that exist, as the tables name them."""
    return {f"{corpus}/{path.name}" for corpus in CORPORA for path in (ROOT / corpus).iterdir() if path.suffix != ".md"}


def lines(name: str) -> Iterator[Vector]:
    """The vectors of one file, ``.gz`` or not."""
    path = ROOT / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for line in file:
            yield json.loads(line)


def cases(name: str, *label: str) -> list[Any]:
    """One pytest parameter per vector; its id is the line number and the values of the ``label`` keys."""
    return [
        pytest.param(vector, id="-".join([str(number), *(str(vector.get(key, "")) for key in label)]))
        for number, vector in enumerate(lines(name), 1)
    ]


def bits(value: float) -> str:
    """The IEEE-754 pattern as the vectors write it; every NaN alike."""
    return "nan" if math.isnan(value) else struct.pack(">d", value).hex()


def same_bits(text: str) -> str:
    """A pattern of the vectors, made comparable with ``bits``."""
    return bits(from_bits(text))


def from_bits(text: str) -> float:
    """The double of a pattern."""
    value: float = struct.unpack(">d", bytes.fromhex(text))[0]
    return value


def raw(text: str | dict[str, str]) -> bytes:
    """Bytes of a tag: text, or ``{"hex": …}`` where it is no UTF-8."""
    return text.encode() if isinstance(text, str) else bytes.fromhex(text["hex"])
