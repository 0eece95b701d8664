"""What is shown of an instance that waits; of one that serves, ``test_instance`` sees it."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from aggregator import ipc
from aggregator.config import kv_keys, load_config
from aggregator.http import Load, Readiness
from aggregator.supervisor.picture import FIGURES, Picture
from aggregator.supervisor.placement import View, view
from aggregator.supervisor.problems import Problems
from aggregator.supervisor.serving import Serving
from aggregator.supervisor.status import InstanceStatus
from m3cluster.placement.model import Instance, Placement
from m3metrics.traffic import NameRate, TrafficReport
from m3x.instrument import Registry
from m3x.pages import History, Stage

ROOT = Path(__file__).resolve().parents[3]


class Waiting:
    """An instance that no placement has named; ``trouble`` is its store's."""

    instance_id = "a"
    keys = kv_keys(load_config([ROOT / "configs/local/m3aggregator.yml"], {}).value)

    def __init__(self, trouble: str | None = None) -> None:
        self.problems = Problems()
        self.view: View | None = None
        self.serving: Serving | None = None
        self.trouble = trouble

    def store_trouble(self) -> str | None:
        return self.trouble


def shown(instance: Waiting) -> InstanceStatus:
    return InstanceStatus(instance, Picture(instance, History(Registry(), "m3aggregator", FIGURES)))


def test_until_a_placement_was_read_it_is_not_ready() -> None:
    assert shown(Waiting()).readiness() == Readiness(False, ["the placement has not been read yet"], [])


def test_a_store_that_does_not_answer_explains_what_else_is_missing() -> None:
    instance = Waiting("etcd does not answer")
    assert shown(instance).readiness().reasons == ["etcd does not answer"]
    instance.problems.set("output topic", "topic t does not exist")
    assert shown(instance).readiness().reasons == ["etcd does not answer", "topic t does not exist"]


async def test_who_waits_follows_and_owns_nothing() -> None:
    instance = Waiting()
    status = shown(instance)
    assert (status.election_state(), status.can_lead(), status.shards(), status.lists()) == ("follower", False, [], [])
    await status.resign()
    instance.view = view(Placement((Instance(id="b"),), num_shards=4, replica_factor=1, version=7), "a")
    instance.problems.set("placement", "instance a is not in the placement")
    assert dict(status.facts()) == {
        "instance id": "a",
        "placement key": instance.keys.placement,
        "placement version": "7",
        "shard set": "0",
        "shards": "0 of 4, 1 replicas",
    }
    assert [step.trouble for step in status.flow()[0].steps if isinstance(step, Stage)] == ["", "does not serve yet"]
    assert [(one.name, one.role) for one in status.holders()] == [("b", "")]
    assert all(chart.lines for chart in status.charts())
    assert status.readiness().reasons == status.set_up_problems() == ["instance a is not in the placement"]


def test_who_is_busy_is_said_of_each_process() -> None:
    instance = Waiting()
    assert shown(instance).loads() == []
    assert shown(instance).traffic() == TrafficReport()
    tables = [TrafficReport(10, 5, [NameRate("up", rate)]) for rate in (1.0, 2.0)]
    told = [
        ipc.WorkerStats({}, {f"worker.cpu-share{{worker={number}}}": share}, [], traffic=tables[number])
        for number, share in enumerate((0.95, 0.1))
    ]
    serving = SimpleNamespace(
        front_gauges={
            "front.cpu-share": 0.3,
            "front.waiting-bytes{worker=0}": 7.0,
            "front.unacked-bytes{worker=1}": 5.0,
        },
        worker_stats=dict(enumerate(told)),
        fleet=SimpleNamespace(workers=[None, None, None], ready={0, 1, 2}, listening="somewhere"),
        sinks=SimpleNamespace(status=list, rollup_status=lambda: None),
    )
    instance.serving = cast("Serving", serving)
    front, busy, idle, silent = shown(instance).loads()
    assert front == Load("front", -1, 0.3, 0, 0)
    assert busy == Load("worker 0", 0, 0.95, 7, 0)
    assert idle == Load("worker 1", 1, 0.1, 0, 5)
    assert (silent.name, math.isnan(silent.cpu_share)) == ("worker 2", True)
    assert shown(instance).traffic() == TrafficReport(20, 10, [NameRate("up", 3.0)])
    stages = [part for lane in shown(instance).flow() for part in lane.steps if isinstance(part, Stage)]
    assert [stage.trouble for stage in stages if stage.trouble] == ["busy: 0 (95 % of a core)"]
