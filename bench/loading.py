"""Load on an instance as fast as it acknowledges, and what that costs: for benches that compare several."""

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.errors import LabError
from lab.processes import module_command

__all__ = ["Loaded", "load", "machine_ms", "replay"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load was, and what it cost."""

    messages: int
    """Acknowledged."""
    seconds: float
    message_bytes: int
    cpu_s: Mapping[str, float]
    """By process."""

    @property
    def us_per_message(self) -> float:
        """CPU of all processes."""
        return sum(self.cpu_s.values()) / self.messages * 1e6

    @property
    def per_cpu_second(self) -> float:
        """Messages a CPU second."""
        return self.messages / sum(self.cpu_s.values())


def replay(
    address: str,
    kind: str,
    series: int,
    seconds: float,
    connections: int,
    *,
    began: Callable[[], None],
    ended: Callable[[], None],
    warm: float = 0.0,
    rate: float = 0.0,
    resolution: int = 10,
) -> dict[str, Any]:
    """Runs ``bench.load``, a process of its own, whose options these are; returns what it says.

    ``began`` is called when messages are built and what is not counted is over, ``ended`` when all is acknowledged. Raises ``LabError`` if
    it says nothing.
    """
    command = module_command(
        "bench.load", "--target", address, "--kind", kind, "--series", str(series), "--seconds", str(seconds), "--connections",
        str(connections), "--warm", str(warm), "--rate", str(rate), "--resolution", str(resolution),
    )  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.readline()
        began()
        line = process.stdout.readline()
        ended()
        errors = process.stderr.read()
    if not line:
        raise LabError(f"the load generator failed: {errors}")
    result: dict[str, Any] = json.loads(line)
    return result


def load(
    address: str,
    cpu: Callable[[], Mapping[str, float]],
    kind: str,
    series: int,
    seconds: float,
    connections: int,
    warm: float = 0.0,
) -> Loaded:
    """Runs ``bench.load``, a process of its own; ``cpu``: seconds so far by process of what is loaded.

    ``warm``: seconds of the same load over the same connections before, which are not counted.
    Raises ``LabError`` if something that was sent is not acknowledged.
    """
    spans: list[Mapping[str, float]] = []

    def look() -> None:
        spans.append(cpu())

    result = replay(address, kind, series, seconds, connections, began=look, ended=look, warm=warm)
    before, after = spans
    if result["sent"] != result["acked"]:
        raise LabError(f"of {result['sent']} messages {result['acked']} were acknowledged: {result['failed']}")
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    return Loaded(result["acked"], result["seconds"], result["message_bytes"], spent)


def machine_ms() -> float:
    """How long ``sum(range(10**6))`` takes in Python at the moment, the best of five: by that factor figures of two runs may differ."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        sum(range(10**6))
        times.append(time.perf_counter() - began)
    return min(times) * 1e3
