"""``m3ctl migrate``: the KV as M3's processes write it, their HTTP as they serve it, and each way in which it may not be safe."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from lab.kv_servers import EtcdServer
from tests.golden import vectors
from tests.m3ctl.conftest import ENV, FakeCluster
from tests.m3ctl.stored import PLACEMENT, SECOND_NS, TOPICS, Situation, stored
from tests.real_servers import require_server

from m3cluster.keys import flush_times_key, rule_namespaces_key, topic_key
from m3cluster.kv import Embedded, Etcd, StoreConfig, open_store
from m3cluster.placement import Shard, ShardState
from m3cluster.topic import ConsumerService, ConsumptionType, ServiceID
from m3ctl.cli import main
from m3ctl.cluster import Settings
from m3ctl.migrate import migrate
from m3ctl.migrate.file import read_file
from m3ctl.migrate.stored import StoredCluster


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    require_server(EtcdServer)
    server = EtcdServer(tmp_path_factory.mktemp("etcd")).start()
    yield Etcd((server.address,))
    server.kill()


@pytest.fixture
def situation(cluster: FakeCluster) -> Situation:
    cluster.states = ["follower", "leader"]
    cluster.ids = ["m3aggregator01", "m3aggregator02"]
    return Situation(cluster)


Asked = Callable[..., tuple[int, str]]


@pytest.fixture
def asked(etcd: Etcd, situation: Situation, capsys: pytest.CaptureFixture[str]) -> Asked:
    """``asked("--back")``: exit code and output of the command, once the situation is in etcd."""

    def run(*arguments: str, config: StoreConfig = etcd) -> tuple[int, str]:
        stored(config, situation.values())
        where = ["--etcd", *config.endpoints] if isinstance(config, Etcd) else ["--embedded", str(config.path)]
        code = main(["migrate", "--env", ENV, "--timeout", "2", "--wait", "0.01", *where, *arguments])
        return code, capsys.readouterr().out

    return run


def steps_of(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("step ")]


def problems_of(out: str) -> list[str]:
    return [line.removeprefix("PROBLEM").strip() for line in out.splitlines() if line.startswith("PROBLEM")]


def test_a_pair_that_is_well_can_be_moved_followers_first(asked: Asked) -> None:
    code, out = asked()
    assert (code, problems_of(out)) == (0, [])
    assert steps_of(out) == [
        "step 1: m3aggregator m3aggregator01 (M3's, follower of shard set 1)",
        "step 2: m3aggregator m3aggregator02 (M3's, leader of shard set 1)",
        "step 3: m3coordinator m3coordinator01 (unknown)",
    ]
    first, second = out.partition("step 2")[0], out.partition("step 2")[2].partition("step 3")[0]
    kinds = [line.split(":")[0].strip() for line in second.splitlines() if line.startswith("  ")]
    assert kinds == ["check", "check", "hand over", "wait", "stop", "wait", "start", "wait", "wait"]
    assert "m3ctl resign m3aggregator02: m3aggregator01 leads at once" in second
    assert "resign" not in first
    assert out.splitlines()[-1].startswith("it is safe now: begin with step 1 (m3aggregator01)")


def test_what_is_exchanged_already_is_left_out_and_back_is_the_other_way_round(
    asked: Asked, situation: Situation
) -> None:
    situation.cluster.aggregators[0].answers["GET", "/ready"] = (200, b'{"ready":true}')
    served = {"instanceId": "m3aggregator01", "shards": [], "lists": []}
    situation.cluster.aggregators[0].answers["GET", "/shards"] = (200, json.dumps(served).encode())
    code, out = asked()
    assert (code, [line.split()[3] for line in steps_of(out)]) == (0, ["m3aggregator02", "m3coordinator01"])
    code, out = asked("--back", "--json")
    found = json.loads(out)
    assert (code, found["safe"], found["direction"]) == (0, True, "back")
    assert [(step["instance"], step["runs"]) for step in found["steps"]] == [
        ("m3aggregator01", "ours"), ("m3coordinator01", "unknown"),
    ]  # fmt: skip
    assert {one["instance"]: one["runs"] for one in found["processes"]} == {
        "m3aggregator01": "ours", "m3aggregator02": "M3's", "m3coordinator01": "unknown",
    }  # fmt: skip


def _alone(situation: Situation) -> None:
    first = situation.placement.instances[1]
    situation.placement = msgspec.structs.replace(situation.placement, instances=(first,), replica_factor=1)
    situation.candidates = [first.id]


def _dead(situation: Situation) -> None:
    situation.cluster.aggregators[0].close()


def _leaderless(situation: Situation) -> None:
    situation.cluster.states = ["follower", "follower"]
    situation.candidates = []


def _cold(situation: Situation) -> None:
    answer = {"status": {"flushStatus": {"electionState": "follower", "canLead": False}}}
    situation.cluster.aggregators[0].answers["GET", "/status"] = (200, json.dumps(answer).encode())


def _pending(situation: Situation) -> None:
    later = situation.cluster.now_ns + 600 * SECOND_NS
    for number in range(2):
        situation.change(number, shards=tuple(Shard(n, ShardState.INITIALIZING, cutover_ns=later) for n in range(4)))


def _leaving(situation: Situation) -> None:
    cutoff = situation.cluster.now_ns + 600 * SECOND_NS
    situation.change(0, shards=tuple(Shard(n, ShardState.LEAVING, cutoff_ns=cutoff) for n in range(4)))


def _old(situation: Situation) -> None:
    situation.flushed_ns -= 3600 * SECOND_NS


def _ahead(situation: Situation) -> None:
    situation.flushed_ns += 3600 * SECOND_NS


def _shared(situation: Situation) -> None:
    (consumer,) = situation.consumers[TOPICS[0]]
    shared = msgspec.structs.replace(consumer, consumption_type=ConsumptionType.SHARED)
    situation.consumers[TOPICS[0]] = (shared,)


def _elsewhere(situation: Situation) -> None:
    away = ServiceID("m3coordinator", "another/env", "embedded")
    situation.consumers[TOPICS[1]] = (ConsumerService(away, ConsumptionType.SHARED),)


def _unlike(situation: Situation) -> None:
    situation.topic_shards = 64


def _garbage(key: str, value: bytes = b"\x0a\x05abc") -> Callable[[Situation], None]:
    def write(situation: Situation) -> None:
        situation.more[key] = value

    return write


def _stranger(situation: Situation) -> None:
    situation.candidates.append("m3aggregator09")


@pytest.mark.parametrize(
    ("hurt", "said"),
    [
        (_alone, "m3aggregator02 alone has its shards: the windows that are open when it stops are lost"),
        (_dead, "instance m3aggregator01: http://127.0.0.1"),
        (_leaderless, "shard set 1 has no leader: nothing of its shards is flushed"),
        (_leaderless, "nobody holds its election in the KV"),
        (_cold, "no other instance can take the lead over without gaps yet"),
        (_pending, "a cutover is pending, in 9 m "),
        (_leaving, "shards 0-3 leave m3aggregator01"),
        (_old, "flush times are old: the newest, of timed 60s, is 1 h 0 m old"),
        (_ahead, "ahead of this clock"),
        (_shared, "its consumer m3aggregator is SHARED, not REPLICATED"),
        (_elsewhere, "its consumer m3coordinator in environment 'another/env', zone 'embedded' has no placement"),
        (_unlike, "has 64 shards, the placement of m3aggregator 4"),
        (_garbage(PLACEMENT), f"of {PLACEMENT} is nothing that this release can use"),
        (_garbage(topic_key(ENV, TOPICS[1])), "is nothing that this release can use"),
        (_garbage(flush_times_key(ENV, 1)), "is no flush times"),
        (
            _garbage(rule_namespaces_key("default_env")),
            "_kv/default_env//namespaces is nothing that this release can use",
        ),
        (_stranger, "m3aggregator09 takes part in its election and is no instance of it"),
    ],
)
def test_it_is_not_safe_while(asked: Asked, situation: Situation, hurt: Callable[[Situation], None], said: str) -> None:
    hurt(situation)
    code, out = asked()
    assert code == 1
    assert any(said in line for line in problems_of(out)), out
    assert "it is NOT safe now" in out.splitlines()[-1]


def test_a_kv_that_m3_does_not_know_keeps_us_here(asked: Asked, tmp_path: Path) -> None:
    code, out = asked("--back", config=Embedded(tmp_path / "kv.sqlite"))
    assert code == 1
    assert any("M3's processes know etcd only" in line for line in problems_of(out))


def test_nothing_is_written(etcd: Etcd, asked: Asked) -> None:
    def everything() -> dict[str, tuple[int, bytes]]:
        async def read() -> dict[str, tuple[int, bytes]]:
            store = await open_store(etcd)
            try:
                return {key: (value.version, value.data) for key, value in await store.keys("")}
            finally:
                await store.close()

        return asyncio.run(read())

    asked()
    before = everything()
    assert main(["migrate", "--env", ENV, "--wait", "0.01", "--etcd", *etcd.endpoints]) == 0
    assert everything() == before


# --- a file of the cluster

AGGREGATOR_FILE = """
kvClient:
  etcd:
    {env: some/env, zone: embedded, service: m3aggregator, cacheDir: /m3kv, etcdClusters: [{zone: embedded, endpoints: ["etcd01:2379"]}]}
aggregator:
  client: {m3msg: {producer: {writer: {topicName: to_them}}}}
  placementManager: {kvConfig: {environment: placed/here}}
  flushTimesManager: {flushTimesKeyFmt: shardset/%d/times}
  electionManager: {electionKeyFmt: shardset/%d/leads}
  flush: {handlers: [{dynamicBackend: {producer: {writer: {topicName: from_them}}}}]}
somethingOfM3: [1, 2]
"""


def test_a_file_says_where_the_cluster_is(tmp_path: Path) -> None:
    path = tmp_path / "m3aggregator.yml"
    path.write_text(AGGREGATOR_FILE)
    found = read_file(path)
    # What a process keeps of etcd on its host is not ours to write.
    assert found.kv == Etcd(("etcd01:2379",), cache_dir="", zone="embedded", service="m3aggregator")
    assert (found.environment, found.zone) == ("placed/here", "embedded")
    assert (found.election_key, found.flush_times_key) == ("shardset/%d/leads", "shardset/%d/times")
    assert (found.ingest_topic, found.output_topic, found.ours) == ("to_them", "from_them", [])
    coordinator = tmp_path / "m3coordinator.yml"
    coordinator.write_text(
        "clusterManagement: {etcd: {env: e, zone: z, service: s, etcdClusters: [{zone: z, endpoints: [a:1]}]}}\n"
        "downsample: {remoteAggregator: {client: {m3msg: {producer: {writer: {topicName: t,"
        " topicServiceOverride: {environment: o}}}}}}}\nsecurity: {}\n"
    )
    found = read_file(coordinator)
    assert (found.environment, found.zone, found.ingest_topic, found.ours) == ("o", "z", "t", ["security"])


def test_the_file_of_the_cluster_takes_the_place_of_options(
    tmp_path: Path, etcd: Etcd, situation: Situation, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(etcd, situation.values())
    path = tmp_path / "m3aggregator.yml"
    path.write_text(
        f"kvClient: {{etcd: {{env: {ENV}, service: m3aggregator, etcdClusters: [{{endpoints: ['{etcd.endpoints[0]}']}}]}}}}\n"
        "instance: {journal: true}\n"
    )
    assert main(["migrate", "--config", str(path), "--wait", "0.01"]) == 0
    assert "it is safe now" in capsys.readouterr().out
    assert main(["migrate", "--config", str(path), "--wait", "0.01", "--back", "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert problems == ["file: M3's process does not start with instance in its file"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not valid YAML"),
        ("", "has no sections"),
        ("logging: {level: info}", "neither kvClient nor clusterManagement"),
        ("kvClient: {etcd: {service: s, etcdClusters: []}}", "etcdClusters must have an entry"),
    ],
)
def test_files_that_do_not_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    path = tmp_path / "m3aggregator.yml"
    path.write_text(text)
    assert main(["migrate", "--config", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_without_a_kv_there_is_nothing_to_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate"]) == 2
    assert "name the KV of the cluster" in capsys.readouterr().err


# --- values of M3 itself


@pytest.mark.skipif(not vectors.present(), reason="needs the vectors")
@pytest.mark.parametrize(
    ("at_s", "states", "safe", "said"),
    [
        (1.0, ("follower", "follower"), False, "a cutover is pending"),
        (78.0, ("follower", "leader"), True, ""),
        (112.0, ("", "follower"), False, "shard set 1 has no leader"),
        (138.0, ("follower", "leader"), True, ""),
        (143.5, ("follower", ""), False, "shard set 1 has no leader"),
    ],
)  # fmt: skip
def test_the_kv_of_a_pair_of_m3s_aggregators_at_several_times(
    etcd: Etcd, cluster: FakeCluster, at_s: float, states: tuple[str, str], safe: bool, said: str
) -> None:
    values: dict[str, bytes] = {}
    now_ns = 0
    for event in vectors.lines("cluster/kv_values.jsonl"):
        if event["group"] != "timeline" or event["t"] > at_s:
            break
        now_ns = event["unix_ns"]
        if event.get("type") == "PUT":
            values[event["key"]] = base64.b64decode(event["value_b64"])
        elif event.get("type") == "DELETE":
            values.pop(event["key"], None)
    stored(etcd, values)
    aggregators = []
    for number, (server, state) in enumerate(zip(cluster.aggregators, states, strict=True), 1):
        cluster.states[number - 1] = state
        aggregators.append((f"agg0{number}", server.url))
        if not state:
            server.close()
    settings = Settings(
        coordinator=cluster.coordinator.url,
        aggregators=tuple(aggregators),
        environment="gclu/kv",
        timeout_s=0.5,
        kv=etcd,
    )
    report = migrate(StoredCluster(settings, now_ns=lambda: now_ns), topics=TOPICS, back=False, wait_s=0.0)
    # Nobody listens at the addresses that the capture had.
    problems = [text for text in report.problems if "endpoint" not in text]
    assert (problems == []) is safe, problems
    assert any(said in text for text in problems) or not said
    assert [step["instance"] for step in report.data["steps"]][:2] == (
        ["agg01", "agg02"] if states[0] != "leader" else ["agg02", "agg01"]
    )
