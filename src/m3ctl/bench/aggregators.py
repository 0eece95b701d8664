"""The load over m3msg, to every replica that has a series' shard: gauges with a policy, as a coordinator would send them."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from m3ctl.answers import Instance, Placement
from m3ctl.bench.load import Load, Result, metric_id
from m3ctl.client import CtlError
from m3metrics.codec import encode_metric
from m3metrics.codec.unaggregated import GaugeWithMetadatas
from m3metrics.metadata import PipelineMetadata, StagedMetadata
from m3metrics.policy import StoragePolicy
from m3metrics.shard import shard_of
from m3msg.client import Client

__all__ = ["Shares", "send", "share"]

_TICK_S = 0.01

Shares = dict[str, list[tuple[int, bytes, int]]]
"""Instance id → its series: number, id, shard."""


def share(load: Load, placement: Placement, only: str) -> Shares:
    """Which instances get which series; ``only``: series of shards that this instance has; empty: all. Raises ``CtlError``."""
    if only and only not in placement.instances:
        raise CtlError(f"no instance {only!r} in the placement; there are: {', '.join(sorted(placement.instances))}")
    if not placement.num_shards:
        raise CtlError("the placement has no shards")
    owned = {one.id: {s.id for s in one.shards if s.state != "LEAVING"} for one in placement.instances.values()}
    shares: Shares = {ident: [] for ident in owned}
    for number in range(load.sent_series):
        ident = metric_id(load, number)
        shard = shard_of(ident, placement.num_shards)
        if only and shard not in owned[only]:
            continue
        for instance, shards in owned.items():
            if shard in shards:
                shares[instance].append((number, ident, shard))
    found = {instance: series for instance, series in shares.items() if series}
    if not found:
        raise CtlError(
            f"none of {load.sent_series} series belongs to a shard of {only or 'any instance'}: take more (--series)"
        )
    return found


def send(load: Load, shares: Shares, placement: Placement, policy: StoragePolicy, wait_s: float) -> list[Result]:
    """Sends it to all of them at the same time; ``wait_s``: how long acknowledgements are waited for behind the end."""
    staged = (StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(policy,)),)),)
    targets = [placement.instances[ident] for ident in shares]
    began = time.monotonic()
    with ThreadPoolExecutor(len(targets)) as pool:
        jobs = [pool.submit(_one, load, one, shares[one.id], staged, began, wait_s) for one in targets]
        return [job.result() for job in jobs]


def _one(
    load: Load,
    instance: Instance,
    series: Sequence[tuple[int, bytes, int]],
    staged: tuple[StagedMetadata, ...],
    began: float,
    wait_s: float,
) -> Result:
    host, _, port = instance.endpoint.rpartition(":")
    result = Result(instance.id)
    sent_at: dict[int, float] = {}

    def acked(number: int) -> None:
        result.acked += 1
        result.latencies_s.append(time.monotonic() - sent_at.pop(number))

    ours = {number: (ident, shard) for number, ident, shard in series}
    next_sample, until = 0, began + load.seconds + wait_s
    with Client((host.strip("[]"), int(port)), acked) as client:
        while (now := time.monotonic()) < until and (next_sample < load.total or client.unacked):
            due = load.due(now - began)
            for sample in range(next_sample, due):
                if (found := ours.get(sample % load.series)) is not None:
                    ident, shard = found
                    message = encode_metric(GaugeWithMetadatas(id=ident, value=float(sample), metadatas=staged))
                    # It may be acknowledged no sooner than it is pumped.
                    sent_at.update(dict.fromkeys(client.send([message], shard), time.monotonic()))
                    result.sent += 1
            next_sample = due
            client.pump(_TICK_S)
        result.took_s = time.monotonic() - began
        if client.connects > 1:
            result.error = f"connected {client.connects} times"
        elif not client.connects:
            result.error = client.error
    return result
