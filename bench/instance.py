"""A real aggregator to measure, alone: a KV of its own, a placement that is already cut over, both topics, one consumer of the output."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from lab import instances
from lab.cluster import member, write_cluster
from lab.kv import kv_of
from lab.waiting import wait_until

from m3x.process import cpu_seconds, resident_bytes, written_bytes

NUM_SHARDS = 64
_NAME = "m3aggregator-local"


def wakes(pid: int) -> int:
    """How often the threads of a process went to sleep so far."""
    texts = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


class Aggregator(instances.Aggregator):
    """A running instance with ``workers`` workers; use as a context manager. ``output``: ``host:port`` of the consumer."""

    def __init__(self, workers: int, output: str, overlay: Mapping[str, Any] | None = None, address: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="m3bench-"))
        kv = kv_of("embedded", self.folder)
        super().__init__(
            _NAME, self.folder, kv.section("m3aggregator"), address=address, workers=workers, overlay=overlay
        )
        kv.do(lambda store: write_cluster(store, [member(_NAME, self.address)], output, NUM_SHARDS))
        self.start()
        try:
            self.wait_until_ready()
            wait_until("the instance leads", self.leads)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and removes their directory."""
        self.process.stop(40)
        shutil.rmtree(self.folder, ignore_errors=True)

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by process; the snapshots of a worker that were written are its own."""
        return {name: cpu_seconds(pid, children=name.startswith("worker")) for name, pid in self.roles().items()}

    def written_bytes(self) -> int:
        """Bytes that its workers and their snapshots have written to files so far."""
        return sum(written_bytes(pid) for name, pid in self.roles().items() if name.startswith("worker"))

    def memory_mib(self) -> dict[str, float]:
        """Resident MiB by process."""
        return {name: resident_bytes(pid) / (1 << 20) for name, pid in self.roles().items()}
