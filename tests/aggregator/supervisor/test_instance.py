"""A real instance on the embedded KV: metrics in over m3msg, aggregated values out to a recording consumer."""

import asyncio
import contextlib
import os
import signal
import time

import httpx
import pytest
from lab.kv import ENVIRONMENT
from lab.processes import stop
from lab.waiting import until
from tests.aggregator.supervisor.instance_rig import ID, SHARDS, Rig, S, alive

from m3cluster.flush_times import decode_flush_times
from m3cluster.keys import flush_times_key, placement_key, topic_key
from m3cluster.placement.codec import encode_staged_placement
from m3cluster.placement.model import Instance, Placement
from m3metrics.codec.unaggregated import CounterWithMetadatas, Metric, TimedMetricWithMetadatas, encode_metric
from m3metrics.metadata import PipelineMetadata, StagedMetadata, StagedMetadatas
from m3metrics.metric import MetricType
from m3metrics.policy import StoragePolicy
from m3msg.frames import Message, Metadata, encode_message
from m3x import process

pytestmark = pytest.mark.integration

POLICY: StagedMetadatas = (
    StagedMetadata(pipelines=(PipelineMetadata(storage_policies=(StoragePolicy.parse("1s:1h"),)),)),
)


def gauges(at_ns: int, value: float, prefix: str = "gauge") -> list[Metric]:
    return [
        TimedMetricWithMetadatas(
            metric_type=MetricType.GAUGE, id=f"{prefix}.{i}".encode(), time_ns=at_ns, value=value + i, metadatas=POLICY
        )
        for i in range(40)
    ]


async def test_values_come_out_right_and_the_end_leaves_nothing_behind(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    leads = (200, {"status": {"flushStatus": {"electionState": "leader", "canLead": True}}})

    async def says_that_it_leads() -> bool:
        return await rig.get("/status") == leads

    # It is ready once the KV names a leader, and takes up its term then.
    await until(says_that_it_leads, what="the lead")
    # A second that is still to come, so that a slow machine finds no sample too old.
    at = (time.time_ns() // S + 1) * S
    end = at + S
    rig.client.send(gauges(at, 100.0))
    rig.client.send(gauges(at + 1, 200.0))
    for _ in range(5):
        rig.client.send([CounterWithMetadatas(id=b"counter.%d" % i, value=i, metadatas=POLICY) for i in range(20)])
        await asyncio.sleep(0.3)
    await until(lambda: not rig.client.unacked, what="acks")
    await until(lambda: all(rig.recorder.of(f"gauge.{i}") for i in range(40)), what="gauges")
    assert {f"gauge.{i}": rig.recorder.of(f"gauge.{i}") for i in range(40)} == {
        f"gauge.{i}": {end: [200.0 + i]} for i in range(40)
    }
    await until(lambda: all(rig.recorder.total(f"counter.{i}") == 5 * i for i in range(20)), what="counters")

    async def shows_what_it_holds() -> bool:
        """Workers tell of their shards once a second, flush times come behind the values."""
        body = (await rig.get("/shards"))[1]
        flushed = all(row["lastFlushNs"] > 0 for row in body["shards"] if row["entries"])
        lists = {row["name"] for row in body["lists"]}
        entries = sum(row["entries"] for row in body["shards"])
        return (flushed, lists, entries) == (True, {"timed 1s", "standard 1s"}, 60)

    await until(shows_what_it_holds, every_s=0.1, what="entries and lists")
    shards = (await rig.get("/shards"))[1]["shards"]
    assert [row["shard"] for row in shards] == list(range(SHARDS))
    assert {row["worker"] for row in shards} == {0, 1}
    assert {row["state"] for row in shards} == {"INITIALIZING"}
    page = (await rig.http.get("/")).text
    assert ID in page
    async with httpx.AsyncClient() as metrics:

        async def figures_are_there() -> bool:
            text = (await metrics.get(rig.instance.metrics_url)).text
            state = "m3aggregator_aggregator_election_manager_election_state 3.0"
            return state in text and "m3msg_server_message_received" in text

        await until(figures_are_there, every_s=0.1, what="the figures of supervisor and front")

    pids = [*rig.children("aggregator.worker"), *rig.children("aggregator.front")]
    assert len(pids) == 3

    async def flush_time_is_in_kv() -> bool:
        times = decode_flush_times((await rig.store.get(flush_times_key(ENVIRONMENT, 1))).data)
        return any(t.timed.get(S, 0) >= end for t in times.by_shard.values())

    # Values come before the flush time that says so: it is written once they are acked.
    await until(flush_time_is_in_kv, what="the flush time in the KV")
    assert await rig.stop() == 0, rig.log()
    assert not any(map(alive, pids))
    assert await rig.store.keys("_ld/") == []


async def test_killed_processes_come_back_and_take_their_shards_again(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    rig.client.send(gauges(time.time_ns(), 1.0, "before"))
    await until(lambda: all(rig.recorder.of(f"before.{i}") for i in range(40)), what="output")
    for module in ("aggregator.worker", "aggregator.front"):
        before = rig.children(module)
        os.kill(before[0], signal.SIGKILL)

        def replaced(module: str = module, before: list[int] = before) -> bool:
            now = rig.children(module)
            return before[0] not in now and len(now) == len(before)

        await until(replaced, what="a new process")
        await rig.until_ready()
        _, body = await rig.get("/shards")
        assert all(row["workerUp"] for row in body["shards"])
        name = module.rsplit(".", 1)[-1]
        rig.client.send(gauges(time.time_ns(), 7.0, name))
        await until(lambda: rig.client.again() or not rig.client.unacked, what="acks")
        await until(lambda n=name: all(rig.recorder.of(f"{n}.{i}") for i in range(40)), what="output")
        assert [list(rig.recorder.of(f"{name}.{i}").values())[-1][-1] for i in range(40)] == [
            7.0 + i for i in range(40)
        ]
    assert await rig.stop() == 0, rig.log()


async def test_who_was_stopped_lacks_samples_but_not_a_supervisor_whose_front_read_on(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()

    async def stopped(pid: int) -> int:
        """Stops a process for longer than a front may be without a turn; how often the instance said that the front was stopped."""
        await asyncio.to_thread(stop, pid)
        await asyncio.sleep(2.5)
        os.kill(pid, signal.SIGCONT)
        await rig.until_ready()
        # What has gone through all processes comes behind what they had to say.
        name = f"after.{pid}"
        rig.client.send(gauges(time.time_ns(), 1.0, name))
        await until(lambda: rig.client.again() or not rig.client.unacked, what="acks")
        await until(lambda: all(rig.recorder.of(f"{name}.{i}") for i in range(40)), what="output")
        await rig.until_ready()
        return rig.process.log_file.read_text().count("the front was stopped")

    assert await stopped(rig.process.pid) == 0
    assert await stopped(rig.children("aggregator.front")[0]) == 1
    assert await rig.stop() == 0, rig.log()


async def test_a_wrong_set_up_is_said_aloud(rig: Rig) -> None:
    await rig.store.delete(topic_key(ENVIRONMENT, "aggregated_metrics"))
    data = (await rig.store.get(placement_key(ENVIRONMENT, "m3aggregator"))).data
    await rig.store.set(
        placement_key(ENVIRONMENT, "m3aggregator"),
        encode_staged_placement(Placement((Instance(id="m3aggregator-locl"),), num_shards=SHARDS)),
    )
    await rig.start()

    async def reasons() -> str:
        return " ".join((await rig.get("/ready"))[1].get("reasons", []))

    found = ""
    async with asyncio.timeout(60):
        while "is not in the placement" not in found or "topic aggregated_metrics does not exist" not in found:
            await asyncio.sleep(0.1)
            found = await reasons()
    assert "m3aggregator-locl" in found
    problems = "\n".join((await rig.get("/status"))[1]["problems"])
    assert "set hostID/instanceID to one of these" in problems
    assert "topic aggregated_metrics does not exist: create it" in problems
    assert (await rig.get("/health")) == (200, {"state": "OK"})
    # Everything is repaired while the instance runs.
    await rig.store.set(placement_key(ENVIRONMENT, "m3aggregator"), data)
    await rig.write_cluster()
    await rig.until_ready()
    assert await rig.stop() == 0, rig.log()


async def test_a_second_signal_ends_at_once(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    pids = rig.children("aggregator.worker")
    # Something that cannot be delivered keeps the orderly end waiting.
    stop(rig.children("aggregator.front")[0])
    rig.process.popen.terminate()
    await until(lambda: "shutting down" in rig.log(), what="the first signal")
    rig.process.popen.terminate()
    assert await asyncio.to_thread(rig.process.wait, 20) == 1
    await until(lambda: not any(map(alive, pids)), what="no process is left")


async def test_no_connection_is_refused_while_fronts_die(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    host, port = rig.instance.socket_address
    sample = encode_message(Message(Metadata(0, 1, time.time_ns()), encode_metric(gauges(time.time_ns(), 1.0)[0])))
    acked = 0

    async def knock() -> None:
        """Connects, sends a sample, waits for its ack; ends with an error if a connection is refused."""
        nonlocal acked
        while True:
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(sample)
                acked += bool(await reader.read(1))
            except ConnectionError:
                # Who is connected while the front dies is cut off, and connects again.
                continue
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    async def more_acks() -> None:
        before = acked
        await until(lambda: acked > before + 8, what="acks")

    knocking = [asyncio.create_task(knock()) for _ in range(4)]
    for _ in range(2):
        await more_acks()
        front = rig.instance.roles()["front"]
        os.kill(front, signal.SIGKILL)
        await until(lambda gone=front: rig.instance.roles().get("front", gone) != gone, what="the next front")
    await more_acks()
    assert not any(task.done() for task in knocking)
    for task in knocking:
        task.cancel()
    await asyncio.wait(knocking)
    assert await rig.stop() == 0, rig.log()


async def test_processes_share_memory_and_descriptors_only_where_they_should(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    await until(lambda: "spare zygote" in rig.instance.roles(), what="a spare zygote")
    roles = rig.instance.roles()
    assert sorted(roles) == ["front", "spare zygote", "supervisor", "worker 0", "worker 1", "zygote"]

    def files(role: str) -> set[str]:
        folder = f"/proc/{roles[role]}/fd"
        found = {os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}
        return {file for file in found if not file.startswith(("anon_inode", "/dev/null"))}

    log = str(rig.process.log_file)

    def shared(role: str) -> set[str]:
        return files(role) & files("supervisor")

    # The socket for metrics.
    [listener] = shared("front") - {log}
    assert listener.startswith("socket:")
    for role in roles.keys() - {"supervisor", "front"}:
        # What a zygote has handed on it closes a moment later.
        await until(lambda of=role: shared(of) == {log}, what=f"{role} to share the log alone")
    for role in ("zygote", "spare zygote"):
        assert len(os.listdir(f"/proc/{roles[role]}/task")) == 1
        # While it loads, others are open.
        await until(lambda of=role: len(files(of)) == 2, what=f"{role}: its link and the log alone")
    own = sum(map(process.proportional_bytes, roles.values()))
    assert own < sum(map(process.resident_bytes, roles.values())) / 2
    assert await rig.stop() == 0, rig.log()


async def test_the_death_of_the_zygote_costs_nothing_and_that_of_the_supervisor_ends_all(rig: Rig) -> None:
    await rig.start()
    await rig.until_ready()
    await until(lambda: "spare zygote" in rig.instance.roles(), what="a spare zygote")
    before = rig.instance.roles()
    os.kill(before["zygote"], signal.SIGKILL)
    os.kill(before["worker 0"], signal.SIGKILL)

    def all_there() -> bool:
        found = rig.instance.roles()
        new = {role for role in found if found[role] != before[role]}
        return found.keys() == before.keys() and new == {"zygote", "spare zygote", "worker 0"}

    await until(all_there, what="children of the next zygote")
    assert rig.instance.roles()["zygote"] == before["spare zygote"]
    await rig.until_ready()
    rig.client.send(gauges(time.time_ns(), 1.0))
    await until(lambda: rig.client.again() or not rig.client.unacked, what="acks")
    pids = rig.instance.pids()
    os.kill(pids[0], signal.SIGKILL)
    await asyncio.to_thread(rig.process.wait, 20)
    await until(lambda: not any(map(alive, pids)), what="no process is left")
