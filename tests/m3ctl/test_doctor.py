"""What the doctor says of a good set-up, and of every way in which it can be broken."""

import functools
import json
from collections.abc import Callable

import pytest

from m3ctl.cluster import Cluster
from m3ctl.doctor.flushing import check_flushing

SECOND_NS = 1_000_000_000
Break = Callable[..., None]


def findings(out: str, status: str) -> list[tuple[str, str, str]]:
    """(check, text, fix) of the findings with that status."""
    found = json.loads(out)["findings"]
    return [(one["check"], one["text"], one["fix"]) for one in found if one["status"] == status]


def test_a_good_cluster_of_ours(cluster, ctl) -> None:
    cluster.ours()
    code, out, _ = ctl("doctor")
    assert code == 0, out
    assert "PROBLEM" not in out
    assert "flush times of timed 10s advance" in out
    assert "INITIALIZING shards serve, and are marked AVAILABLE at the next placement change" in out
    assert out.splitlines()[-1].startswith("found: ")


@pytest.mark.parametrize(
    ("moves", "text"),
    [
        (True, "advance on some of its 4 shards, the oldest is flushed through"),
        (False, "stand still ("),
    ],
)
def test_lists_that_nobody_feeds_are_no_problem(cluster, ctl, monkeypatch, moves, text) -> None:
    cluster.ours().lists = [
        {"name": "standard 10s", "resolutionNs": 10_000_000_000, "shards": 4, "flushedThroughNs": 5, "moves": moves}
    ]
    watched_in_no_time(cluster, monkeypatch)
    code, out, _ = ctl("doctor", "--json", "--wait", "11")
    assert (code, findings(out, "problem")) == (0, [])
    assert any("flush times of standard 10s" in t and text in t for _, t, _ in findings(out, "note"))


def test_a_good_cluster_of_gos_leaves_only_the_flush_times_unknown(ctl) -> None:
    code, out, _ = ctl("doctor", "--json")
    assert code == 0
    assert findings(out, "problem") == []
    ((check, text, fix),) = findings(out, "unknown")
    assert (check, "no instance tells its flush times" in text) == ("flush times", True)
    assert "--etcd" in fix


def no_placement(cluster) -> None:
    cluster.coordinator.answers["GET", "/api/v1/services/m3aggregator/placement"] = (
        404,
        b'{"status":"error","error":"placement does not exist"}\n',
    )


def kv_down(cluster) -> None:
    for path in ("/api/v1/services/m3aggregator/placement", "/api/v1/topic"):
        cluster.coordinator.answers["GET", path] = (500, b'{"status":"error","error":"context deadline exceeded"}\n')


def no_consumer(cluster) -> None:
    cluster.topics["aggregated_metrics"] = cluster.topic("aggregated_metrics")


def no_topic(cluster) -> None:
    del cluster.topics["aggregator_ingest"]


def other_shard_count(cluster) -> None:
    cluster.topics["aggregator_ingest"] = cluster.topic("aggregator_ingest", ("m3aggregator", "REPLICATED"), shards=8)


def shared_ingest(cluster) -> None:
    cluster.topics["aggregator_ingest"] = cluster.topic("aggregator_ingest", ("m3aggregator", "SHARED"))


def consumer_elsewhere(cluster) -> None:
    topic = cluster.topic("aggregator_ingest", ("m3aggregator", "REPLICATED"), env="default_env")
    cluster.topics["aggregator_ingest"] = topic


def wrong_service(cluster) -> None:
    cluster.topics["aggregator_ingest"] = cluster.topic("aggregator_ingest", ("m3coordinator", "SHARED"))


def one_group(cluster) -> None:
    cluster.groups = ["availability-zone-a", "availability-zone-a"]


def endpoint_closed(cluster) -> None:
    cluster.listeners[1].close()


def coordinator_closed(cluster) -> None:
    cluster.listeners[2].close()


def instance_down(cluster) -> None:
    cluster.aggregators[1].close()


def not_ready(cluster) -> None:
    cluster.aggregators[1].answers["GET", "/ready"] = (
        503,
        b'{"ready":false,"reasons":["workers 0 of 1 are not up"],"notes":[]}\n',
    )


def clock_off(cluster) -> None:
    cluster.aggregators[0].skew_s = -60.0


def no_leader(cluster) -> None:
    cluster.states = ["follower", "follower"]


def swapped(cluster) -> None:
    first, second = cluster.aggregators
    first.answers["GET", "/shards"], second.answers["GET", "/shards"] = (
        second.answers["GET", "/shards"],
        first.answers["GET", "/shards"],
    )


def stuck(cluster) -> None:
    cluster.advance_ns = 0


def too_early(cluster) -> None:
    cluster.coordinator.answers["GET", "/ready"] = (500, b'{"reasons":["the shards will be cut over in 39 s"]}\n')


def writes_refused(cluster) -> None:
    cluster.coordinator.answers["GET", "/ready"] = (500, b'{"reasons":["no topic aggregator_ingest"]}\n')


def values_not_stored(cluster) -> None:
    body = {"problems": ["ingest: 5 messages of policy 10s:31d not stored: no namespace; add the namespace"]}
    cluster.coordinator.answers["GET", "/ready"] = (200, json.dumps(body).encode())


def watched_in_no_time(cluster, monkeypatch) -> None:
    """The clock of the command moves by what it would have slept."""
    now = [cluster.now_ns]

    def sleep(seconds: float) -> None:
        now[0] += int(seconds * SECOND_NS)

    monkeypatch.setattr("m3ctl.cli.Cluster", lambda settings: Cluster(settings, lambda: now[0]))
    monkeypatch.setattr("m3ctl.doctor.run.check_flushing", functools.partial(check_flushing, sleep=sleep))


@pytest.mark.parametrize(
    ("broken", "check", "text", "fix"),
    [
        (no_placement, "placement m3aggregator", "no placement of m3aggregator", "docs/cluster.md"),
        (kv_down, "KV", "context deadline exceeded", "check that the KV runs"),
        (no_consumer, "topic aggregated_metrics", "has no consumer", "add the consumer m3coordinator (SHARED)"),
        (no_topic, "topic aggregator_ingest", "no topic aggregator_ingest", "docs/cluster.md"),
        (
            other_shard_count,
            "topic aggregator_ingest",
            "has 8 shards, the placement of m3aggregator 4",
            "numberOfShards 4",
        ),
        (
            shared_ingest,
            "topic aggregator_ingest",
            "m3aggregator is SHARED, not REPLICATED",
            "consumptionType REPLICATED",
        ),
        (
            consumer_elsewhere,
            "topic aggregator_ingest",
            "'default_env', zone 'embedded' has no placement",
            "PUT the topic",
        ),
        (wrong_service, "topic aggregator_ingest", "m3aggregator does not consume it", "add it as REPLICATED"),
        (
            one_group,
            "placement m3aggregator",
            "shards 0-3 have replicas in one isolation group",
            "different isolation groups",
        ),
        (
            endpoint_closed,
            "instance m3aggregator02:6000",
            "cannot be reached from here: Connection refused",
            "firewalls",
        ),
        (coordinator_closed, "instance m3coordinator01", "its ingest endpoint", "start that coordinator"),
        (instance_down, "instance m3aggregator02:6000", "/health cannot be reached", "http.listenAddress"),
        (not_ready, "instance m3aggregator02:6000", "not ready: workers 0 of 1 are not up", "see http://"),
        (clock_off, "instance m3aggregator01:6000", "s behind ours", "synchronise the clocks"),
        (swapped, "instance m3aggregator01:6000", "another instance answers: m3aggregator02:6000", "aggregator.hostID"),
        (no_leader, "shard set 1", "has no leader", "wait for the lease"),
        (stuck, "shard set 1", "flush times of timed 10s did not advance in 11.0 s", "downstream has acknowledged"),
        (too_early, "coordinator", "the shards will be cut over in 39 s", "wait: a new placement"),
        (values_not_stored, "coordinator", "5 messages of policy 10s:31d not stored", "as it says"),
        (writes_refused, "coordinator", "does not take writes: no topic aggregator_ingest", "see the checks below"),
    ],
)
def test_what_is_broken_is_named_with_its_fix(cluster, ctl, monkeypatch, broken: Break, check, text, fix) -> None:
    cluster.ours()
    broken(cluster)
    if broken is stuck:
        watched_in_no_time(cluster, monkeypatch)
    code, out, _ = ctl("doctor", "--json", "--wait", "11")
    assert code == 1
    problems = findings(out, "problem")
    assert any(check == c and text in t and fix in f for c, t, f in problems), problems
    assert json.loads(out)["problems"]


def test_every_sink_is_shown_with_what_waits(cluster, ctl) -> None:
    full = {
        "name": "prometheus", "waitingValues": 18_000_000, "waitingBytes": 400 << 20, "mostBytes": 1 << 30, "ageS": 3600.0,
        "rateIn": 5000.4, "rateOut": 0.0, "error": "status 401: token expired", "held": True, "full": True,
    }  # fmt: skip
    good = {"name": "victoria", "rateIn": 5000.0, "rateOut": 4999.6, "more": 1}
    document = json.dumps({"sinks": [full, good], "queuesWithoutSink": []}).encode()
    cluster.ours().coordinator.answers["GET", "/api/v1/sinks"] = (200, document)
    code, out, _ = ctl("doctor", "--json")
    assert code == 0
    assert ("sink victoria", "nothing waits, 5000 values/s in, 5000/s out", "") in findings(out, "ok")
    text = (
        "18000000 values wait (400.0 of 1024 MiB, the oldest for 1 h 0 m), 5000 values/s in, 0/s out; its queue is full, whoever "
        "writes to it waits; needs somebody: status 401: token expired"
    )
    assert ("sink prometheus", text, "") in findings(out, "note")


def test_sinks_that_cannot_be_read_are_unknown(cluster, ctl) -> None:
    cluster.ours().coordinator.answers["GET", "/api/v1/sinks"] = (200, b"[]")
    code, out, _ = ctl("doctor", "--json")
    assert code == 0
    ((check, text, _),) = findings(out, "unknown")
    assert (check, "is this the address of a coordinator of ours?" in text) == ("sinks", True)


def test_a_dead_coordinator_ends_the_walk_at_once(cluster, ctl) -> None:
    cluster.coordinator.close()
    code, out, _ = ctl("doctor")
    assert code == 1
    assert out.count("PROBLEM") == 1
    assert "fix: start it, or name another one with --coordinator" in out


def test_before_the_cutover_it_says_how_long_to_wait(cluster, ctl) -> None:
    cluster.ours()
    cluster.states = ["follower", "follower"]
    cluster.cutover_ns = cluster.now_ns + 600 * SECOND_NS
    code, out, _ = ctl("doctor", "--json")
    assert code == 0
    notes = findings(out, "note")
    assert any(check == "placement m3aggregator" and "cuts over in 9 m" in text for check, text, _ in notes)
    assert ("shard set 1", "elects its leader when it cuts over", "") in notes


def test_a_follower_that_is_cold_is_worth_knowing(cluster, ctl) -> None:
    cluster.ours()
    cluster.aggregators[1].answers["GET", "/status"] = (
        200,
        b'{"status":{"flushStatus":{"electionState":"follower","canLead":false}}}\n',
    )
    code, out, _ = ctl("doctor")
    assert code == 0
    assert "no other instance can take over without gaps yet" in out


def test_a_dead_kv_that_was_named_is_a_problem_of_its_own(cluster, ctl, tmp_path) -> None:
    cluster.ours()
    code, out, _ = ctl("doctor", "--json", "--embedded", str(tmp_path / "nothing.sqlite"))
    assert code == 1
    assert any(check == "KV" and "no such file" in text for check, text, _ in findings(out, "problem"))


def empty(cluster) -> None:
    """The environment that is asked for has nothing."""
    cluster.topics.clear()


OTHERS = {"environments": [{"name": "gclu/api", "has": ["placement m3aggregator", "topic aggregator_ingest"]}]}


def test_an_empty_environment_names_those_that_there_are(cluster, ctl) -> None:
    empty(cluster)
    cluster.coordinator.answers["GET", "/api/v1/environments"] = (200, json.dumps(OTHERS).encode())
    code, out, _ = ctl("doctor", "--json", env="default_env")
    assert code == 1
    (found,) = [one for one in findings(out, "problem") if one[0] == "environment"]
    assert found[1] == (
        "nothing is in environment 'default_env' (Cluster-Environment-Name: default_env), but 'gclu/api' has "
        "placement m3aggregator, topic aggregator_ingest"
    )
    assert found[2].startswith("name the one that was meant: --env gclu/api; or set this one up: ")


def test_an_empty_environment_of_a_coordinator_of_gos(cluster, ctl) -> None:
    empty(cluster)
    code, out, _ = ctl("doctor", "--json", env="default_env")
    assert code == 1
    (found,) = [one for one in findings(out, "problem") if one[0] == "environment"]
    assert (found[1].endswith("default_env)"), found[2].startswith("name the right one with --env")) == (True, True)


def test_an_environment_that_has_something_is_not_suspected(cluster, ctl) -> None:
    no_placement(cluster)
    _, out, _ = ctl("doctor", "--json")
    assert not [one for one in findings(out, "problem") if one[0] == "environment"]
    assert any("with the header Cluster-Environment-Name: gclu/api" in text for _, text, _ in findings(out, "problem"))
