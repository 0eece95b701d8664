"""What every instance says: whether it is reachable and ready, its clock, who leads."""

import socket

from m3ctl import kv
from m3ctl.answers import Instance, Placement
from m3ctl.client import CtlError, Unreachable, ask_all
from m3ctl.cluster import COORDINATOR, Cluster, Target
from m3ctl.doctor.finding import Finding, note, ok, problem, unknown, waiting
from m3ctl.leaders import ShardSetState, look

__all__ = ["check_instances", "check_leaders", "check_output_endpoints"]

_MAX_SKEW_S = 2.0
"""The ``Date`` header has whole seconds, and the answer takes its time."""


def check_instances(cluster: Cluster, placement: Placement) -> list[Finding]:
    """Ports, readiness and clocks of all instances."""
    targets = cluster.targets(placement)
    found = []
    for target, findings in zip(targets, ask_all(lambda t: _instance(cluster, t), targets), strict=True):
        if isinstance(findings, CtlError):
            found.append(problem(f"instance {target.id}", str(findings), "see its log"))
        else:
            found += findings
    return found


def _instance(cluster: Cluster, target: Target) -> list[Finding]:
    what = f"instance {target.id}"
    found = []
    if target.instance is None:
        fix = "set its host id (aggregator.hostID) to an instance id of the placement, or add it to the placement"
        found.append(problem(what, f"{target.url} is no instance of the placement", fix))
    elif text := _refuses(target.instance, cluster.settings.timeout_s):
        fix = "start it; check m3msg.server.listenAddress, the endpoint in the placement, and firewalls"
        found.append(
            problem(what, f"its m3msg endpoint {target.instance.endpoint} cannot be reached from here: {text}", fix)
        )
    try:
        health = cluster.aggregator_health(target)
    except Unreachable as error:
        return [*found, problem(what, str(error), "start it; check http.listenAddress and firewalls")]
    if health.skew_s is not None and abs(health.skew_s) > _MAX_SKEW_S:
        ahead = "ahead of" if health.skew_s > 0 else "behind"
        text = f"its clock is {abs(health.skew_s):.0f} s {ahead} ours: windows close and samples count as too late at wrong times"
        found.append(problem(what, text, "synchronise the clocks (chrony, ntpd)"))
    ready = cluster.ready(target)
    if ready is None:
        return [
            *found,
            ok(what, f"answers on {target.url} (M3's own m3aggregator: it has no /ready that could say more)"),
        ]
    if text := _stranger(cluster, target):
        fix = "give every instance its own host id (aggregator.hostID), and in the placement its own endpoint"
        found.append(problem(what, text, fix))
    if ready.ready:
        return [
            *found,
            ok(what, f"ready on {target.url}"),
            *(note(what, text) for text in ready.notes if "serving" not in text),
        ]
    return [
        *found,
        *(problem(what, f"not ready: {reason}", waiting(reason) or f"see {target.url}/") for reason in ready.reasons),
    ]


def _stranger(cluster: Cluster, target: Target) -> str:
    """Who else serves where the placement says that this instance does; empty: nobody else, or it does not tell."""
    served = cluster.shards(target)
    if served is None or target.instance is None or served.instance_id in ("", target.id):
        return ""
    return f"at its address {target.url} another instance answers: {served.instance_id}"


def _refuses(instance: Instance, timeout_s: float) -> str:
    """Why its endpoint does not take connections; empty: it does."""
    host, _, port = instance.endpoint.rpartition(":")
    if not host or not port.isdigit():
        return f"{instance.endpoint!r} is not host:port"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ""


def check_output_endpoints(cluster: Cluster) -> list[Finding]:
    """Whether the coordinators' ingest ports take connections."""
    try:
        instances = sorted(cluster.placement(COORDINATOR).placement.instances.values(), key=lambda i: i.id)
    except CtlError:
        return []  # Said by the check of that placement.
    found = []
    for one, text in zip(instances, ask_all(lambda i: _refuses(i, cluster.settings.timeout_s), instances), strict=True):
        what = f"instance {one.id}"
        if text:
            fix = "start that coordinator; check ingest.m3msg.server.listenAddress, the endpoint in the placement, and firewalls"
            found.append(problem(what, f"its ingest endpoint {one.endpoint} cannot be reached from here: {text}", fix))
        else:
            found.append(ok(what, f"takes aggregated metrics on {one.endpoint}"))
    return found


def check_leaders(cluster: Cluster, placement: Placement) -> tuple[list[Finding], list[ShardSetState]]:
    """One leader per shard set, and the same in the KV if it was named."""
    sets, now_ns = look(cluster, placement), cluster.now_ns()
    found = []
    for one in sets:
        what = f"shard set {one.number}"
        if one.cutover_ns > now_ns:
            found.append(note(what, "elects its leader when it cuts over"))
        elif text := one.problem(now_ns):
            fix = "wait for the lease of a dead leader to end (electionManager.election.ttlSeconds); then see the instances' logs"
            if len(one.leaders) > 1:
                fix = "look again in a second: M3's /status follows late; if it stays, stop one of them"
            found.append(problem(what, text, fix))
        else:
            others = [m for m in one.members if m.state and m.target.id not in one.leaders]
            warm = [m.target.id for m in others if m.can_lead]
            if others and not warm:
                text = f"{one.leaders[0]} leads; no other instance can take over without gaps yet (open windows began before it did)"
                found.append(note(what, text))
            else:
                ready = f"; {', '.join(warm)} can take over" if warm else ""
                found.append(ok(what, f"{one.leaders[0]} leads{ready}"))
    if cluster.settings.kv is not None:
        found += _elections(cluster, sets)
    return found, sets


def _elections(cluster: Cluster, sets: list[ShardSetState]) -> list[Finding]:
    try:
        elected = kv.candidates(cluster.settings, [one.number for one in sets])
    except CtlError as error:
        return [unknown("election", str(error))]
    found = []
    for one in sets:
        candidates = elected.get(one.number, [])
        if one.leaders and candidates and candidates[0] not in one.leaders:
            text = f"{candidates[0]} holds the election in the KV, but {', '.join(one.leaders)} says that it leads"
            found.append(
                problem(
                    f"shard set {one.number}", text, "look again in a second; if it stays, stop the one that does not"
                )
            )
    return found
