"""What the coordinator knows: KV, placements, topics, and whether they fit together; and the stores behind it."""

from collections import Counter
from collections.abc import Callable
from functools import partial

from m3ctl import kv
from m3ctl.answers import Consumer, Placement, PlacementAnswer, SinkRow, TopicAnswer
from m3ctl.client import CtlError
from m3ctl.cluster import AGGREGATOR, COORDINATOR, ENVIRONMENT_HEADER, ZONE_HEADER, Cluster, Missing
from m3ctl.doctor.finding import Finding, note, ok, problem, unknown, waiting
from m3ctl.report import age, clock, ranges, shown_duration

__all__ = [
    "check_aggregators",
    "check_coordinator",
    "check_environment",
    "check_kv",
    "check_output",
    "check_sinks",
    "check_topic",
]

_KNOWN_SERVICES = (AGGREGATOR, COORDINATOR, "m3db")
_MIB = 1 << 20
_GUIDE = "docs/cluster.md, step 3"


def check_coordinator(cluster: Cluster) -> list[Finding]:
    """Whether it answers, and what it says is missing."""
    url = cluster.settings.coordinator
    try:
        cluster.health()
    except CtlError as error:
        return [
            problem(
                "coordinator",
                str(error).removeprefix("coordinator: "),
                "start it, or name another one with --coordinator",
            )
        ]
    found = [ok("coordinator", f"{url} answers")]
    try:
        ready = cluster.coordinator_ready()
    except CtlError as error:
        return [*found, unknown("coordinator", f"/ready is not readable: {error}")]
    found += [
        problem("coordinator", f"does not take writes: {reason}", waiting(reason) or "see the checks below")
        for reason in ready.reasons
    ]
    found += [
        problem("coordinator", text, "as it says; of topics and consumers the checks below say more")
        for text in ready.problems
    ]
    return found


def check_sinks(cluster: Cluster) -> list[Finding]:
    """What waits for each store. What is a problem about it the coordinator says by itself."""
    try:
        return [_sink(one) for one in cluster.sinks().sinks]
    except CtlError as error:
        return [unknown("sinks", str(error))]


def _sink(one: SinkRow) -> Finding:
    rates = f"{one.rate_in:.0f} values/s in, {one.rate_out:.0f}/s out"
    most = f" of {one.most_bytes / _MIB:.0f}" if one.most_bytes else ""
    waits = (
        f"{one.waiting_values} values wait ({one.waiting_bytes / _MIB:.1f}{most} MiB, the oldest for {shown_duration(one.age_s)})"
        if one.waiting_values
        else "nothing waits"
    )
    full = "; its queue is full, whoever writes to it waits" if one.full else ""
    error = f"; {'needs somebody' if one.held else 'last error'}: {one.error}" if one.error else ""
    text = f"{waits}, {rates}{full}{error}"
    return note(f"sink {one.name}", text) if one.error or one.full else ok(f"sink {one.name}", text)


def check_kv(cluster: Cluster) -> list[Finding]:
    """Whether the coordinator reaches its KV, and whether we do if it was named."""
    found = []
    try:
        cluster.placement(AGGREGATOR)
    except Missing:
        found.append(ok("KV", "the coordinator reads from it"))
    except CtlError as error:
        fix = "check that the KV runs (etcdctl endpoint health) and that the coordinator's file names its address"
        found.append(problem("KV", f"the coordinator cannot read from it: {error}", fix))
    else:
        found.append(ok("KV", "the coordinator reads from it"))
    if cluster.settings.kv is not None:
        try:
            kv.check(cluster.settings)
            found.append(ok("KV", f"{kv.where(cluster.settings)} answers here, too"))
        except CtlError as error:
            found.append(problem("KV", str(error), "start it, or name the right one"))
    return found


def check_environment(cluster: Cluster, topics: tuple[str, str]) -> list[Finding]:
    """Where nothing of the set-up is in the environment, the environments that there are: most often another one was meant."""
    looks = [partial(cluster.placement, service) for service in (AGGREGATOR, COORDINATOR)]
    if any(map(_is_there, looks)) or any(_is_there(partial(cluster.topic, topic)) for topic in topics):
        return []
    asked = cluster.settings.environment
    text = f"nothing is in environment {asked!r} ({ENVIRONMENT_HEADER}: {asked})"
    others = {name: has for name, has in _environments(cluster).items() if name != asked}
    if not others:
        return [problem("environment", text, f"name the right one with --env, or set it up: {_GUIDE}")]
    listed = "; ".join(f"{name!r} has {', '.join(has)}" for name, has in others.items())
    fix = f"name the one that was meant: {' or '.join(f'--env {name}' for name in others)}"
    return [problem("environment", f"{text}, but {listed}", f"{fix}; or set this one up: {_GUIDE}")]


def _is_there(look: Callable[[], object]) -> bool:
    try:
        look()
    except Missing:
        return False
    except CtlError:
        pass
    return True


def _environments(cluster: Cluster) -> dict[str, list[str]]:
    """As the coordinator says, or the KV if it was named; M3's coordinator does not say."""
    try:
        told = cluster.environments()
        if told is None:
            return {} if cluster.settings.kv is None else kv.environments(cluster.settings)
    except CtlError:
        return {}
    return {one.name: one.has for one in told}


def check_aggregators(cluster: Cluster) -> tuple[list[Finding], PlacementAnswer | None]:
    """The placement of m3aggregator: there, complete, cut over."""
    what = "placement m3aggregator"
    try:
        answer = cluster.placement(AGGREGATOR)
    except CtlError as error:
        return [problem(what, str(error), f"see {_GUIDE}")], None
    placement = answer.placement
    if not placement.instances or not placement.num_shards:
        return [problem(what, "has no instances or no shards", f"delete it and create it again: {_GUIDE}")], answer
    found = [
        ok(
            what,
            f"version {answer.version}: {len(placement.instances)} instances in {len(placement.shard_sets())} shard sets, "
            f"{placement.num_shards} shards, replication factor {placement.replica_factor}",
        )
    ]
    found += _replicas(what, placement)
    found += _endpoints(what, placement)
    found.append(_cutover(what, placement, cluster.now_ns()))
    if placement.replica_factor < 2:
        text = "replication factor 1: while an instance is away, what it would have aggregated is lost"
        found.append(note(what, text))
    return found, answer


def _replicas(what: str, placement: Placement) -> list[Finding]:
    owners: dict[int, list[tuple[str, str]]] = {shard: [] for shard in range(placement.num_shards)}
    for instance in placement.instances.values():
        for shard in instance.shards:
            if shard.state != "LEAVING":
                owners.setdefault(shard.id, []).append((instance.id, instance.isolation_group))
    found = []
    few = [shard for shard, by in owners.items() if len(by) < placement.replica_factor]
    if few:
        text = f"shards {ranges(few)} are on fewer than {placement.replica_factor} instances"
        found.append(problem(what, text, "add instances (POST …/placement) or set a complete placement"))
    same = [shard for shard, by in owners.items() if len({group for _, group in by}) < len(by)]
    if same:
        text = f"shards {ranges(same)} have replicas in one isolation group: they can be lost together"
        found.append(problem(what, text, "give the instances of one shard set different isolation groups"))
    return found


def _endpoints(what: str, placement: Placement) -> list[Finding]:
    """Endpoints that only one machine can use, and endpoints that two instances claim."""
    hosts = {i.id: i.host for i in placement.instances.values()}
    found = []
    everywhere = [i for i, host in hosts.items() if host in ("0.0.0.0", "[::]", "")]
    if everywhere:
        text = f"the endpoint of {', '.join(everywhere)} names no host: nobody can connect to it"
        found.append(problem(what, text, "write the name or address by which the other machines know it"))
    local = [i for i, host in hosts.items() if host == "localhost" or host.startswith("127.")]
    if local and len(local) < len(hosts):
        text = f"the endpoint of {', '.join(local)} is this machine's own, while others are elsewhere"
        found.append(problem(what, text, "write the name or address by which the other machines know it"))
    twice = [end for end, count in Counter(i.endpoint for i in placement.instances.values()).items() if count > 1]
    if twice:
        text = f"two instances have the endpoint {', '.join(twice)}"
        found.append(problem(what, text, "every instance needs its own endpoint"))
    return found


def _cutover(what: str, placement: Placement, now_ns: int) -> Finding:
    cutover_ns = max((i.cutover_ns for i in placement.instances.values()), default=0)
    if cutover_ns > now_ns:
        left = age(cutover_ns, now_ns)
        return note(
            what, f"cuts over {left} ({clock(cutover_ns)}): until then nothing is sent, nobody leads; then wait no more"
        )
    states = Counter(shard.state for i in placement.instances.values() for shard in i.shards)
    if states["INITIALIZING"]:
        return ok(
            what,
            "cut over; INITIALIZING shards serve, and are marked AVAILABLE at the next placement change: there is nothing to wait for",
        )
    return ok(what, "cut over")


def check_topic(
    cluster: Cluster, name: str, wanted: tuple[str, str], placement: PlacementAnswer | None
) -> list[Finding]:
    """A topic: there, with consumers that exist; ``wanted``: service and consumption type that M3's set-up has there."""
    what = f"topic {name}"
    try:
        answer = cluster.topic(name)
    except CtlError as error:
        return [problem(what, str(error), f"see {_GUIDE}")]
    service, kind = wanted
    topic = answer.topic
    found = []
    if not topic.consumer_services:
        fix = f"add the consumer {service} ({kind}): {_GUIDE}"
        return [problem(what, "has no consumer: what is sent to it goes nowhere, without an error anywhere", fix)]
    for consumer in topic.consumer_services:
        found += _consumer(cluster, what, consumer, kind if consumer.service_id.name == service else "")
    if service == AGGREGATOR:
        if all(consumer.service_id.name != service for consumer in topic.consumer_services):
            found.append(problem(what, f"{service} does not consume it", f"add it as {kind}: {_GUIDE}"))
        found += _shard_counts(what, answer, placement)
    if not any(one.status == "problem" for one in found):
        names = ", ".join(f"{c.service_id.name} ({c.consumption_type})" for c in topic.consumer_services)
        found.insert(0, ok(what, f"{topic.number_of_shards} shards, consumed by {names}"))
    return found


def _consumer(cluster: Cluster, what: str, consumer: Consumer, kind: str) -> list[Finding]:
    service = consumer.service_id
    found = []
    if kind and consumer.consumption_type != kind:
        reason = "only one replica gets each metric" if kind == "REPLICATED" else "every instance stores every value"
        text = f"its consumer {service.name} is {consumer.consumption_type}, not {kind}: {reason}"
        found.append(problem(what, text, f"PUT /api/v1/topic with consumptionType {kind}"))
    if service.name not in _KNOWN_SERVICES:
        return [
            *found,
            note(what, f"the placement of its consumer {service.name} cannot be looked at through this API"),
        ]
    try:
        found_there = cluster.placement(service.name, service.environment, service.zone)
    except CtlError as error:
        text = f"its consumer {service.name} in environment {service.environment!r}, zone {service.zone!r} has no placement: {error}"
        where = f"{ENVIRONMENT_HEADER}: {service.environment}, {ZONE_HEADER}: {service.zone}"
        fix = f"create that placement ({where}), or PUT the topic with the environment and zone where it is"
        return [*found, problem(what, text, fix)]
    if not found_there.placement.instances:
        found.append(problem(what, f"the placement of its consumer {service.name} is empty", "add instances to it"))
    if service.environment != cluster.settings.environment:
        found.append(note(what, f"its consumer {service.name} is in another environment: {service.environment!r}"))
    return found


def _shard_counts(what: str, topic: TopicAnswer, placement: PlacementAnswer | None) -> list[Finding]:
    if placement is None or topic.topic.number_of_shards == placement.placement.num_shards:
        return []
    there, here = topic.topic.number_of_shards, placement.placement.num_shards
    text = f"has {there} shards, the placement of m3aggregator {here}: messages reach instances that do not own their metrics"
    return [
        problem(
            what, text, f"delete the topic and create it with numberOfShards {here} (producers have to be restarted)"
        )
    ]


def check_output(cluster: Cluster) -> list[Finding]:
    """The placement of m3coordinator: where aggregated metrics go."""
    what = "placement m3coordinator"
    try:
        placement = cluster.placement(COORDINATOR).placement
    except Missing as error:
        return [problem(what, str(error), f"see {_GUIDE}")]
    except CtlError as error:
        return [unknown(what, str(error))]
    ends = ", ".join(sorted(i.endpoint for i in placement.instances.values()))
    if not placement.instances:
        return [problem(what, "has no instances", f"see {_GUIDE}")]
    return [ok(what, f"{len(placement.instances)} instances: {ends}")]
