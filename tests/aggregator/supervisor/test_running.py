"""What the supervisor process decides before and around the instance."""

from pathlib import Path

import pytest

from aggregator.config import load_config
from aggregator.ipc import OwnedShard
from aggregator.lists import KIND_TIMED, ListId
from aggregator.supervisor.flushing.timing import schedule_options
from aggregator.supervisor.problems import Problems
from aggregator.supervisor.processes.fleet import Routing
from aggregator.supervisor.serving import _tagged
from m3cluster.kv import Embedded, Etcd

ROOT = Path(__file__).resolve().parents[3]


def test_relative_paths_of_the_store_are_below_the_data_directory(tmp_path: Path) -> None:
    local = load_config([ROOT / "configs/local/m3aggregator.yml"], {}).value.kv_client
    assert local.store(tmp_path / "new") == Embedded(tmp_path / "new/kv.sqlite")
    documented = load_config([ROOT / "configs/m3aggregator.yml"], {}).value.kv_client
    assert documented.store(tmp_path) == Etcd(
        ("dbnode01:2379",), cache_dir="/var/lib/m3kv", zone="embedded", service="m3aggregator"
    )


def test_routing_gives_each_process_its_part() -> None:
    owned = {s: OwnedShard(s, 0, 9) for s in (1, 2)}
    routing = Routing(4, 8, owned, {1: 0, 2: 1})
    assert routing.route().owners == [-1, 0, 1, -1]
    assert [s.id for s in routing.shards(1).owned] == [2]
    assert routing.shards(0).topic_shards == 8


def test_configured_tags_are_added_to_figures() -> None:
    assert _tagged({"a": 1, "b{k=v}": 2}, {"dc": "x"}) == {"a{dc=x}": 1, "b{k=v,dc=x}": 2}
    assert _tagged({"a": 1}, {}) == {"a": 1}


def test_problems_are_said_once_and_kept_while_they_last(capsys: pytest.CaptureFixture[str]) -> None:
    problems = Problems()
    for _ in range(3):
        problems.set("topic", "there is no topic")
    assert list(problems.reasons.values()) == ["there is no topic"]
    problems.set("topic", None)
    assert problems.reasons == {}
    assert capsys.readouterr().err.count("there is no topic") == 1


def test_timed_windows_of_the_local_file_are_flushed_when_they_are_due() -> None:
    options = schedule_options(load_config([ROOT / "configs/local/m3aggregator.yml"], {}).value)
    timed = ListId(KIND_TIMED, 10 * 10**9)
    assert options.delay_ns(timed) == 15 * 10**9
    assert options.offset_ns(timed, 1, 1_767_355_203 * 10**9) == 5 * 10**9
