"""Which of the candidates take part (docs/m3/cluster.md, selection); mirrored ones are paired in ``mirror_select``."""

from collections import Counter
from collections.abc import Iterable, Sequence

from m3cluster.placement.describe import describe_all
from m3cluster.placement.errors import PlacementError
from m3cluster.placement.layout import Layout
from m3cluster.placement.mirror_select import mirror_adding, mirror_initial, mirror_replacing
from m3cluster.placement.model import Instance, Placement
from m3cluster.placement.options import PlacementOptions

__all__ = ["select_adding", "select_initial", "select_replacing"]


def select_initial(candidates: Iterable[Instance], replica_factor: int, options: PlacementOptions) -> list[Instance]:
    """The instances of a first placement; mirrored ones with their shard set ids, numbered from 1. Raises ``PlacementError``."""
    valid = _valid(candidates, Placement(), options)
    return mirror_initial(valid, replica_factor, options) if options.is_mirrored else valid


def select_adding(candidates: Iterable[Instance], placement: Placement, options: PlacementOptions) -> list[Instance]:
    """The instances to add: one, or one group of hosts, unless all are wanted. Raises ``PlacementError``."""
    valid = _valid(candidates, placement, options)
    if options.is_mirrored:
        return mirror_adding(valid, placement, options)
    if options.add_all_candidates:
        return valid
    weights = Counter[str]()
    for instance in placement.instances:
        weights[instance.isolation_group] += instance.weight
    for instance in valid:
        if instance.isolation_group not in weights:
            return [instance]
    return [min(valid, key=lambda i: weights[i.isolation_group])]


def select_replacing(
    candidates: Iterable[Instance], leaving: Sequence[str], placement: Placement, options: PlacementOptions
) -> list[Instance]:
    """The instances that take the place of others. Raises ``PlacementError``."""
    valid = _valid(candidates, placement, options)
    departing = []
    for instance_id in leaving:
        instance = placement.instance(instance_id)
        if instance is None:
            raise PlacementError("could not remove or replace a instance that does not exist")
        departing.append(instance)
    if options.is_mirrored:
        return mirror_replacing(valid, departing, placement, options)
    return _replacing(valid, departing, placement, options)


def _valid(candidates: Iterable[Instance], placement: Placement, options: PlacementOptions) -> list[Instance]:
    """The candidates of the valid zone that are not in the placement, or only just leaving it."""
    zone = options.valid_zone
    if not zone and placement.instances:
        zone = placement.instances[0].zone
    valid = []
    for candidate in candidates:
        present = placement.instance(candidate.id)
        if present is not None and not present.is_leaving:
            continue
        instance = candidate if present is None else present
        if options.allow_all_zones or instance.zone == zone:
            valid.append(instance)
    if not valid:
        raise PlacementError("no new instances found in the valid zone")
    return valid


def _replacing(
    valid: Sequence[Instance], departing: Sequence[Instance], placement: Placement, options: PlacementOptions
) -> list[Instance]:
    """Candidates for the weight that leaves, first those whose isolation group can take over most shards."""
    weight = sum(i.weight for i in departing)
    if options.add_all_candidates:
        if weight > sum(i.weight for i in valid) and not options.allow_partial_replace:
            raise _lacking(departing, weight)
        return list(valid)
    buckets: dict[int, list[Instance]] = {}
    conflicts = _conflicts(valid, departing, placement, options)
    for instance in sorted(valid, key=lambda i: i.id):
        buckets.setdefault(conflicts[instance.isolation_group], []).append(instance)
    if not options.allow_partial_replace:
        buckets = {number: bucket for number, bucket in buckets.items() if not number}
    if not buckets:
        raise PlacementError("no valid instance in the candidate list")
    chosen: list[Instance] = []
    for _, bucket in sorted(buckets.items()):
        fitting = lightest(bucket, weight)
        chosen += fitting
        weight -= sum(i.weight for i in fitting)
        if weight <= 0:
            break
    if weight > 0 and not options.allow_partial_replace:
        raise _lacking(departing, weight)
    return chosen


def _lacking(departing: Iterable[Instance], weight: int) -> PlacementError:
    return PlacementError(
        f"could not find enough instances to replace {describe_all(departing)}, {weight} weight could not be replaced"
    )


def _conflicts(
    valid: Iterable[Instance], departing: Iterable[Instance], placement: Placement, options: PlacementOptions
) -> dict[str, int]:
    """How many shards of the departing instances the isolation group of each candidate could not take over."""
    layout = Layout(placement, options)
    return {
        group: sum(
            not layout.can_move(shard, layout.members[instance.id], group)
            for instance in departing
            for shard in layout.members[instance.id].shards
        )
        for group in {i.isolation_group for i in valid}
    }


def lightest(candidates: Sequence[Instance], weight: int) -> list[Instance]:
    """The candidates with the least total weight that is enough, of several such choices the smallest one; all if they are not enough."""
    if sum(i.weight for i in candidates) <= weight:
        return list(candidates)
    # Choices by total weight. One that is enough already is never extended: without its last member it would not be enough.
    choices: dict[int, tuple[Instance, ...]] = {0: ()}
    for candidate in candidates:
        for total, choice in list(choices.items()):
            if total < weight:
                known = choices.get(total + candidate.weight)
                if known is None or len(choice) + 1 < len(known):
                    choices[total + candidate.weight] = (*choice, candidate)
    return list(choices[min(total for total in choices if total >= weight)])
