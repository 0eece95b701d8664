"""Every command against M3's answers and ours: what it shows, its JSON, its exit code."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from lab.kv_servers import EtcdServer
from tests.real_servers import require_server

from m3cluster.election import Election
from m3cluster.flush_times import ShardFlushTimes, ShardSetFlushTimes, encode_flush_times
from m3cluster.keys import election_prefix, flush_times_key
from m3cluster.kv import Embedded, Etcd, StoreConfig, open_store
from m3ctl.cli import main

ENV = "gclu/api"
SECOND_NS = 1_000_000_000


def columns(line: str) -> list[str]:
    """Cells of a table's row: two spaces part them."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_placement(ctl) -> None:
    code, out, _ = ctl("placement")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "m3aggregator in gclu/api: version 1, 4 shards, replication factor 2, mirrored"
    assert columns(lines[1]) == [
        "INSTANCE",
        "ENDPOINT",
        "GROUP",
        "WEIGHT",
        "SHARD SET",
        "SHARDS",
        "STATES",
        "SHARD IDS",
    ]
    assert [columns(line)[i] for line in lines[2:4] for i in (0, 2, 4, 6, 7)] == [
        *("m3aggregator01:6000", "availability-zone-a", "1", "4 INITIALIZING", "0-3"),
        *("m3aggregator02:6000", "availability-zone-b", "1", "4 INITIALIZING", "0-3"),
    ]
    assert "INITIALIZING after the cutover is normal" in lines[4]


def test_a_placement_that_is_not_cut_over_says_for_how_long(cluster, ctl) -> None:
    cluster.cutover_ns = cluster.now_ns + 600 * SECOND_NS
    code, out, _ = ctl("placement")
    assert code == 0
    assert "not cut over yet: producers refuse to send to m3aggregator01:6000, m3aggregator02:6000 until" in out
    assert "(in 9 m " in out


def test_the_json_of_a_placement_holds_all_that_is_read(ctl) -> None:
    code, out, _ = ctl("placement", "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["version"], found["service"]) == (0, True, 1, "m3aggregator")
    assert found["placement"]["instances"]["m3aggregator01:6000"]["shards"][3]["state"] == "INITIALIZING"


def test_the_coordinators_placement(ctl) -> None:
    code, out, _ = ctl("placement", "--service", "m3coordinator")
    assert code == 0
    assert "not sharded" in out.splitlines()[0]
    assert columns(out.splitlines()[2])[0] == "m3coordinator01"


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ((), "default_env", "no placement of m3aggregator in environment 'default_env'; is --env right?"),
        (
            ("--zone", "mars"),
            ENV,
            "500: 'no etcd cluster found for zone: mars'; is --zone 'mars' (Cluster-Zone-Name) right?",
        ),
    ],
)
def test_a_placement_that_cannot_be_read_says_what_to_do(ctl, arguments, env, said) -> None:
    code, out, err = ctl("placement", *arguments, env=env)
    assert (code, out) == (1, "")
    assert said in err


def test_errors_are_json_too(ctl) -> None:
    code, out, err = ctl("placement", "--json", env="default_env")
    found = json.loads(out)
    assert (code, err, found["ok"]) == (1, "", False)
    assert "no placement of m3aggregator" in found["problems"][0]


def test_topics(ctl, cluster) -> None:
    code, out, _ = ctl("topic")
    assert code == 0
    lines = out.splitlines()
    assert columns(lines[1]) == [
        "aggregator_ingest", "2", "4", "m3aggregator", "gclu/api", "embedded", "REPLICATED", "5 m 0 s", "none",
    ]  # fmt: skip
    assert columns(lines[2])[3] == "m3coordinator"
    assert len(json.loads(ctl("topic", "aggregated_metrics", "--json")[1])["topics"]) == 1
    cluster.topics["aggregator_ingest"] = cluster.topic("aggregator_ingest")
    code, out, _ = ctl("topic")
    assert code == 1
    assert "problem: topic aggregator_ingest has no consumer" in out


def test_a_topic_that_is_missing(ctl) -> None:
    code, _, err = ctl("topic", "bogus")
    assert code == 1
    assert "no topic bogus in environment 'gclu/api' (key not found)" in err
    assert "Topic-Name: bogus" in err


def test_shards_of_ours(cluster, ctl) -> None:
    cluster.ours()
    code, out, _ = ctl("shards")
    assert code == 0
    rows = [columns(line) for line in out.splitlines()[1:]]
    # Two workers share the four shards of each instance.
    assert [(row[0], row[1], row[5], row[6], row[9], row[10]) for row in rows] == [
        ("2", "m3aggregator01:6000", "0", "14", "1.5 s", "0-1"),
        ("2", "m3aggregator01:6000", "1", "14", "1.5 s", "2-3"),
        ("2", "m3aggregator02:6000", "0", "14", "1.5 s", "0-1"),
        ("2", "m3aggregator02:6000", "1", "14", "1.5 s", "2-3"),
    ]
    assert len(ctl("shards", "--each")[1].splitlines()) == 9
    one = ctl("shards", "--instance", "m3aggregator02:6000", "--shard", "3")[1].splitlines()
    assert [columns(line)[-1] for line in one[1:]] == ["3"]
    assert json.loads(ctl("shards", "--json")[1])["shards"][0]["served"]["entries"] == 7
    assert ctl("shards", "--instance", "nobody")[0] == 1


def test_shards_of_gos_show_the_placement_and_say_why(ctl) -> None:
    code, out, _ = ctl("shards")
    assert code == 0
    rows = [columns(line) for line in out.splitlines()]
    assert rows[1][:4] == ["4", "m3aggregator01:6000", "1", "INITIALIZING"]
    assert rows[1][5:] == ["-", "-", "-", "-", "-", "0-3"]
    assert out.count("does not serve /shards (M3's own m3aggregator has no such page)") == 2


def test_leaders(ctl) -> None:
    code, out, _ = ctl("leaders")
    assert code == 0
    rows = [columns(line) for line in out.splitlines()]
    assert [row[:5] for row in rows[1:]] == [
        ["1", "4", "m3aggregator01:6000", "leader", "yes"],
        ["1", "4", "m3aggregator02:6000", "follower", "yes"],
    ]
    found = json.loads(ctl("leaders", "--json")[1])
    assert found["shardSets"][0]["leader"] == "m3aggregator01:6000"
    assert found["shardSets"][0]["shards"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["follower", "follower"], "shard set 1 has no leader"),
        (["leader", "leader"], "2 leaders at once: m3aggregator01:6000, m3aggregator02:6000"),
    ],
)
def test_no_leader_and_two_leaders_are_problems(cluster, ctl, states, said) -> None:
    cluster.states = states
    code, out, _ = ctl("leaders")
    assert code == 1
    assert said in out
    assert json.loads(ctl("leaders", "--json")[1])["shardSets"][0]["leader"] is None


def test_no_leader_before_the_cutover_is_none(cluster, ctl) -> None:
    cluster.states = ["follower", "follower"]
    cluster.cutover_ns = cluster.now_ns + 600 * SECOND_NS
    code, out, _ = ctl("leaders")
    assert code == 0
    assert "shard set 1 elects its leader at its cutover, in 9 m" in out


def test_an_instance_that_is_down_is_named_with_what_to_do(cluster, ctl) -> None:
    cluster.aggregators[1].close()
    code, out, _ = ctl("leaders")
    assert code == 1
    assert "no answer" in out
    assert (
        f"instance m3aggregator02:6000: {cluster.aggregators[1].url}/status cannot be reached: Connection refused"
        in out
    )
    assert "--aggregator-port" in out


def test_without_a_coordinator_the_named_aggregators_still_answer(cluster, ctl) -> None:
    cluster.coordinator.close()
    code, _, err = ctl("leaders")
    assert code == 1
    assert "is it running, and is --coordinator right?" in err
    code, out, _ = ctl("leaders", "--aggregator", f"one={cluster.aggregators[0].url}")
    assert code == 1
    assert columns(out.splitlines()[1])[2:4] == ["one", "leader"]
    assert "the placement is not known" in out


def test_named_aggregators_are_found_in_the_placement(cluster, ctl) -> None:
    url = cluster.aggregators[1].url
    for argument in (url, f"m3aggregator02:6000={url}", url.removeprefix("http://")):
        rows = ctl("leaders", "--aggregator", argument)[1].splitlines()[1:2]
        assert [columns(row)[:4] for row in rows] == [["1", "4", "m3aggregator02:6000", "follower"]], argument
    cluster.ours()
    assert "m3aggregator02:6000" in ctl("leaders", "--aggregator", f"http://localhost:{cluster.aggregators[1].port}")[1]


def test_resigning_names_the_new_leader(cluster, ctl) -> None:
    code, out, _ = ctl("resign", "m3aggregator01:6000")
    assert code == 0
    assert out.startswith("m3aggregator02:6000 leads shard set 1 now, after ")
    assert ("POST", "/resign") in cluster.aggregators[0].seen
    code, out, _ = ctl("resign", "--shard-set", "1", "--json")
    found = json.loads(out)
    assert (code, found["resigned"], found["leader"]) == (0, "m3aggregator02:6000", "m3aggregator01:6000")


def test_a_follower_has_nothing_to_resign(cluster, ctl) -> None:
    code, out, _ = ctl("resign", "m3aggregator02:6000")
    assert code == 0
    assert "m3aggregator02:6000 does not lead: m3aggregator01:6000 leads shard set 1; nothing to do" in out
    assert ("POST", "/resign") not in cluster.aggregators[1].seen


def test_a_resignation_that_fails_says_who_could_not_take_over(cluster, ctl) -> None:
    cluster.aggregators[0].answers["POST", "/resign"] = (500, b"null\n")
    code, _, err = ctl("resign", "m3aggregator01:6000")
    assert code == 1
    assert "no other instance took the lead within its resignTimeout; are m3aggregator02:6000 running" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bogus",), "no instance 'bogus' in the placement; there are: m3aggregator01:6000, m3aggregator02:6000"),
        (("--shard-set", "9"), "no shard set 9 in the placement; there are: 1"),
    ],
)
def test_resigning_what_is_not_there(ctl, arguments, said) -> None:
    code, _, err = ctl("resign", *arguments)
    assert code == 1
    assert said in err


def test_flush_times_of_ours_come_from_the_leader(cluster, ctl) -> None:
    cluster.ours()
    cluster.states = ["follower", "leader"]
    code, out, _ = ctl("flush-times")
    assert code == 0
    row = columns(out.splitlines()[1])
    assert (row[0], row[1], row[2], row[-1]) == ("1", "timed 10s", "4", "m3aggregator02:6000")


def test_flush_times_of_gos_need_the_kv(ctl) -> None:
    code, out, _ = ctl("flush-times")
    assert code == 1
    assert "shard set 1: no instance tells its flush times (M3's own m3aggregator does not serve /shards)" in out
    assert "--etcd, --zookeeper or --embedded" in out


@pytest.fixture(params=["embedded", "etcd"])
def kv(request: pytest.FixtureRequest, tmp_path) -> Iterator[tuple[StoreConfig, list[str]]]:
    """A real KV, and the options with which the command reads it."""
    if request.param == "embedded":
        file = tmp_path / "kv.sqlite"
        yield Embedded(file), ["--embedded", str(file)]
        return
    require_server(EtcdServer)
    server = EtcdServer(tmp_path / "etcd").start()
    yield Etcd((server.address,)), ["--etcd", server.address]
    server.kill()


async def _write(config: StoreConfig, times: ShardSetFlushTimes) -> None:
    store = await open_store(config)
    try:
        await store.set(flush_times_key(ENV, 1), encode_flush_times(times))
        election = Election(store, election_prefix(ENV, "m3aggregator", "shardset/1/lock"), 10)
        await election.campaign("m3aggregator02:6000")
        # The election's key lives as long as its lease; what is read is a copy that outlives this store.
        await store.set(election_prefix(ENV, "m3aggregator", "shardset/1/lock") + "/abc", b"m3aggregator01:6000")
    finally:
        await store.close()


async def test_flush_times_and_candidates_from_the_kv(cluster, ctl, kv) -> None:
    config, options = kv
    at = 1_700_000_000 * SECOND_NS
    times = ShardSetFlushTimes(
        {
            0: ShardFlushTimes(standard={10 * SECOND_NS: at}, forwarded={10 * SECOND_NS: {1: 0}}),
            1: ShardFlushTimes(standard={10 * SECOND_NS: at + SECOND_NS}),
            2: ShardFlushTimes(standard={10 * SECOND_NS: 1}, tombstoned=True),
        }
    )
    await _write(config, times)
    # The command has an event loop of its own.
    code, out, _ = await asyncio.to_thread(ctl, "flush-times", *options)
    assert code == 0
    rows = [columns(line) for line in out.splitlines()[1:]]
    assert rows[0][:4] == ["1", "standard 10s", "2", "2023-11-14 22:13:20 UTC"]
    assert rows[0][5] == "2023-11-14 22:13:21 UTC"
    assert rows[1][:4] == ["1", "forwarded×1 10s", "1", "never"]
    code, out, _ = await asyncio.to_thread(ctl, "leaders", *options)
    assert columns(out.splitlines()[1])[-1] == "m3aggregator01:6000"


def test_a_kv_file_that_is_not_there_is_not_made(cluster, ctl, tmp_path) -> None:
    file = tmp_path / "kv.sqlite"
    code, _, err = ctl("flush-times", "--embedded", str(file))
    assert code == 1
    assert "there is no such file" in err
    assert not file.exists()


def test_an_etcd_that_is_not_there(ctl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, _, err = ctl("flush-times", "--etcd", f"127.0.0.1:{port}", "--timeout", "0.3")
    assert code == 1
    assert f"etcd 127.0.0.1:{port}" in err
    assert "is etcd running" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bogus"],
        ["leaders", "--coordinator", "ftp://x"],
        ["leaders", "--coordinator", "host:port"],
        ["leaders", "--aggregator", "=http://x:6001"],
        ["leaders", "--timeout", "nan"],
        ["leaders", "--env", "a\nb"],
        ["leaders", "--zone", " "],
        ["topic", "ü"],
        ["leaders", "--timeout", "0"],
        ["leaders", "--aggregator-port", "0"],
        ["leaders", "--etcd", "x:1", "--embedded", "y"],
        ["leaders", "--etcd", "x:1", "--zookeeper", "y:1"],
        ["leaders", "--zookeeper", "y:z"],
        ["leaders", "--etcd", ""],
        ["leaders", "--etcd", "x:1", "--etcd-cert", "only-one.pem"],
        ["resign"],
        ["resign", "a", "--shard-set", "1"],
    ],
)
def test_wrong_arguments_are_exit_code_2(arguments, capsys) -> None:
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert capsys.readouterr().err


def test_a_host_name_that_cannot_be_one(capsys) -> None:
    assert main(["leaders", "--coordinator", "http://a..b:7201"]) == 1
    assert "http://a..b:7201/api/v1/services/m3aggregator/placement cannot be reached" in capsys.readouterr().err


def test_somebody_else_on_the_port(cluster, ctl) -> None:
    cluster.coordinator.answers["GET", "/api/v1/services/m3aggregator/placement"] = (200, b"<html>hello</html>")
    code, _, err = ctl("placement")
    assert code == 1
    assert "is this the address of an M3 coordinator?" in err
    cluster.coordinator.answers["GET", "/api/v1/services/m3aggregator/placement"] = (404, b"404 page not found\n")
    code, _, err = ctl("placement")
    assert code == 1
    assert "is this a coordinator with a cluster" in err


def test_the_command_itself(cluster) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "m3ctl", *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    assert run("--version").stdout.startswith("m3ctl ")
    assert "exit codes: 0 all is well" in run("--help").stdout
    # Whoever reads may leave early.
    shell = f"{sys.executable} -m m3ctl shards --each --coordinator {cluster.coordinator.url} --env {ENV} | head -1"
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.stderr, found.stdout.split()[0]) == ("", "SHARD")
