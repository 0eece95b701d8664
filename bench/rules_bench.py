"""What a series costs the coordinator when it is met for the first time, and afterwards, by number of rules.

    scripts/bench rules --rules 200 --matching 5

Remote writes of series with eight labels go through the writer in this process, on one core; nothing is sent. Half of the rules are
mapping rules, half rollup rules (PerSecond, then a sum by two labels), with filters on names, values and beginnings. ``--matching`` per
cent of the series match a rollup rule, the others match none. Counts are checked: every series comes out once, with the rollup in its
pipeline.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Any

import cramjam

from coordinator.config.cluster import Namespace
from coordinator.downsample import Downsampler, RulesInEffect
from coordinator.prompb import WRITE_REQUEST
from coordinator.write import RemoteWriter, SeriesCache
from coordinator.write.options import WriteOptions
from m3metrics.filters import compile_filter
from m3metrics.pipeline import TransformationOp, TransformationType
from m3metrics.policy import StoragePolicy
from m3metrics.rules import (
    MappingRule,
    MappingSnapshot,
    RollupRule,
    RollupRuleOp,
    RollupSnapshot,
    RollupTarget,
    RuleSet,
)
from m3msg.batch import MessageBatch
from m3x.instrument import Registry
from m3x.protobuf import marshal

_SUM = 1 << 7
_POLICIES = (StoragePolicy.parse("10s:2d"),)
_PER_REQUEST = 1000


class Sink:
    """Counts."""

    largest_message = 1 << 20
    largest_batch = 100 << 20

    def __init__(self) -> None:
        self.messages = 0

    def ready(self, nbytes: int) -> int | None:
        """Always."""
        return 64

    async def admit(self, nbytes: int) -> int:
        """Always."""
        return 64

    def produce(self, batch: MessageBatch) -> bool:
        """Drops the batch."""
        self.messages += len(batch)
        return True


def rule_set(rules: int) -> RuleSet:
    """Rules of four kinds in turn; the first matches the series that shall match."""
    mapping, rollup = [], []
    for i in range(rules):
        text = (
            f"__name__:http_requests_{i} code:*",
            f"app:service{i} env:prod",
            f"__name__:metric_{i}* dc:{{east,west}}",
            f"team:team{i} __name__:!debug*",
        )[i % 4]
        tags_filter = compile_filter(text)
        if i % 2:
            kept = MappingSnapshot(name=text, cutover_ns=1, filter=tags_filter, storage_policies=_POLICIES)
            mapping.append(MappingRule(text, (kept,)))
        else:
            op = RollupRuleOp.create(b"rolled_up_%d" % i, [b"code", b"dc"], _SUM)
            target = RollupTarget((TransformationOp(TransformationType.PER_SECOND), op), _POLICIES)
            rolled = RollupSnapshot(name=text, cutover_ns=1, filter=tags_filter, targets=(target,))
            rollup.append(RollupRule(text, (rolled,)))
    return RuleSet(namespace="default", mapping_rules=tuple(mapping), rollup_rules=tuple(rollup))


def requests(
    series: int,
    matching: int,
    per_request: int = _PER_REQUEST,
    write: Callable[[list[dict[str, Any]]], bytes] = lambda listed: marshal(WRITE_REQUEST, {"timeseries": listed}),
) -> list[bytes]:
    """Remote writes of one sample per series, labels sorted by name as senders have to. ``write``: the message of some series."""
    listed = []
    for i in range(series):
        labels = {
            "__name__": "http_requests_0" if i % 100 < matching else f"node_cpu_{i % 50}",
            "host": f"host-{i}", "code": str(200 + i % 5), "dc": "east", "app": f"a{i % 30}", "env": "prod", "team": "x",
            "instance": f"10.0.0.{i % 250}:9100",
        }  # fmt: skip
        listed.append(
            {
                "labels": [{"name": name.encode(), "value": value.encode()} for name, value in sorted(labels.items())],
                "samples": [{"value": 1.0, "timestamp": 1_700_000_000_000}],
            }
        )
    return [
        bytes(cramjam.snappy.compress_raw(write(listed[k : k + per_request]))) for k in range(0, series, per_request)
    ]


async def measure(rules: int, bodies: list[bytes], series: int) -> tuple[float, float]:
    """CPU seconds of writing all series for the first and for the second time."""
    in_effect = RulesInEffect()
    if rules:
        in_effect.put("default", rule_set(rules))
    namespace = Namespace("aggregated", 10 * 10**9, 48 * 3600 * 10**9)
    downsampler = Downsampler([namespace], in_effect, now_ns=time.time_ns())
    sink = Sink()
    writer = RemoteWriter(downsampler, SeriesCache(4 * series + 4096, 1 << 29), sink, Registry().scope("bench"))
    spent = []
    for _ in range(2):
        begin = time.process_time()
        for body in bodies:
            await writer.write(body, WriteOptions())
        spent.append(time.process_time() - begin)
    if sink.messages != 2 * series:
        raise SystemExit(f"{sink.messages} messages instead of {2 * series}")
    return spent[0], spent[1]


def main(arguments: list[str]) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="scripts/bench rules", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rules", type=int, default=200)
    parser.add_argument("--matching", type=int, default=5, help="per cent of the series that match a rule")
    parser.add_argument("--series", type=int, default=50_000)
    options = parser.parse_args(arguments)
    if options.rules < 0 or options.series < 1 or not 0 <= options.matching <= 100:
        parser.error("--matching is per cent, from 0 to 100; --series must be at least 1, and --rules not negative")
    asyncio.run(measure(options.rules, requests(_PER_REQUEST, options.matching), _PER_REQUEST))
    bodies = requests(options.series, options.matching)
    new, known = asyncio.run(measure(options.rules, bodies, options.series))
    print(
        f"{options.rules} rules, {options.matching} % matching: {new / options.series * 1e6:.1f} us per new series, "
        f"{known / options.series * 1e6:.2f} us per sample of a known one"
    )
    return 0
