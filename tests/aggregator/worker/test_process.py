"""The worker as a process around an engine that keeps a diary."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from lab.processes import stop

from aggregator import ipc
from aggregator.lists import KIND_FORWARDED, KIND_STANDARD, ListId
from aggregator.worker.process import _MESSAGES_PER_TURN
from m3x.shared_memory import SharedMemory

KIB = 1024


def test_batches_are_applied_in_order_and_acked(rig: Any) -> None:
    rig.start()
    rig.shards()
    rig.batch(b"one", b"three", now_ns=5)
    rig.batch(b"x" * 200_000, now_ns=6)
    assert rig.acked() == ipc.Acked(0, 8, [9, 9], memoryview(b"ack of 3;ack of 5;"))
    assert rig.acked() == ipc.Acked(1, 200_000, [14], memoryview(b"ack of 200000;"))


def test_commands_take_effect_in_their_place(rig: Any) -> None:
    rig.start()
    rig.shards()
    rig.batch(b"a", now_ns=10)
    rig.order(ipc.RuntimeOptions(7, 0), 11)
    rig.flush(1, parts=2, now_ns=12)
    rig.batch(b"b", now_ns=13)
    rig.order(ipc.Expire(), 14)
    rig.order(ipc.Commit(ListId(0, 10), [], 99), 15)
    rig.flush(2, parts=1, now_ns=16)
    before = [["shards", 0, 16], ["batch", 10, "a"], ["runtime", 7], ["close", 12, 1]]
    assert rig.diary(rig.until(ipc.Flushed, 1)) == before
    between = [["batch", 13, "b"], ["expire", 14], ["commit", 99], ["close", 16, 2]]
    assert rig.diary(rig.until(ipc.Flushed, 4)) == before + between
    rig.until(ipc.Flushed, 5)
    flushed = [header for header, _ in rig.heard(ipc.Flushed)]
    assert [(part.id, part.last, part.values, part.discarded) for part in flushed] == [
        (1, False, 2, 0),
        (1, False, 2, 0),
        (1, True, 0, 5),
        (2, False, 2, 0),
        (2, True, 0, 5),
    ]
    frames = rig.heard(ipc.Flushed)[0][1]
    assert flushed[0].policy_names == ["10s:2d"]
    assert [len(frame) for frame in frames] == [4096, 24, 8, 4, 8]
    assert [len(frame) for frame in rig.heard(ipc.Flushed)[1][1]] == [4096, 24, 8, 0, 0]
    assert np.frombuffer(frames[2], np.uint32).tolist() == [1, 2]


def test_stamps_never_decrease(rig: Any) -> None:
    rig.start()
    rig.shards()
    rig.batch(b"a", now_ns=100)
    rig.batch(b"b", now_ns=90)
    rig.flush(1, parts=1, now_ns=95)
    assert [entry[1] for entry in rig.diary(rig.until(ipc.Flushed))[1:]] == [100, 100, 100]


def test_output_waits_for_credit_and_data_does_not_wait_for_output(rig: Any) -> None:
    rig.start(output_window_bytes=100 * KIB)
    rig.shards()
    rig.flush(1, parts=5, size=64 * KIB)
    rig.flush(2, parts=1, size=64 * KIB)
    rig.until(ipc.Flushed, 2)
    for k in range(50):
        rig.batch(b"more %d" % k)
        rig.acked()
    assert len(rig.heard(ipc.Flushed)) == 2
    rig.say(ipc.OutputCredit(64 * KIB))
    rig.until(ipc.Flushed, 3)
    rig.batch(b"last")
    rig.acked()
    assert len(rig.heard(ipc.Flushed)) == 3
    rig.say(ipc.OutputCredit(10 * 64 * KIB))
    rig.until(ipc.Flushed, 8)
    assert [header.id for header, _ in rig.heard(ipc.Flushed)] == [1] * 6 + [2] * 2
    assert rig.diary(rig.heard(ipc.Flushed)[6])[-1] == ["close", 0, 2]
    assert len(rig.diary(rig.heard(ipc.Flushed)[6])) == 3, (
        "windows of the second flush were closed before the later batches"
    )


def test_neither_class_of_output_waits_for_the_credit_of_the_other(rig: Any) -> None:
    rig.start(output_window_bytes=100 * KIB)
    rig.shards()
    rig.flush(1, parts=5, size=64 * KIB)
    rig.flush(2, parts=4, size=64 * KIB, kind=KIND_FORWARDED)
    rig.flush(3, parts=1, size=32 * KIB)
    rig.until(ipc.Flushed, 4)
    rig.say(ipc.OutputCredit(10 * 64 * KIB, True))
    rig.until(ipc.Flushed, 7)
    parts = [(header.id, header.forwarded, header.values, header.last) for header, _ in rig.heard(ipc.Flushed)]
    assert sorted(parts) == [(1, False, 2, False)] * 2 + [(2, False, 0, True)] + [(2, True, 2, False)] * 4
    rig.say(ipc.OutputCredit(10 * 64 * KIB))
    rig.until(ipc.Flushed, 7 + 4 + 2)
    assert [header.id for header, _ in rig.heard(ipc.Flushed)[7:]] == [1] * 4 + [3] * 2


def test_flushes_of_one_list_answer_in_order(rig: Any) -> None:
    """The second one has no output, so no credit would hold it."""
    rig.start(output_window_bytes=1)
    rig.shards()
    rig.flush(1, parts=2, size=64 * KIB)
    rig.order(ipc.Flush(2, ListId(KIND_STANDARD, 64 * KIB, 2), False, []))
    rig.flush(3, parts=0, size=64 * KIB)
    rig.until(ipc.Flushed, 2)
    assert [(header.id, header.last) for header, _ in rig.heard(ipc.Flushed)] == [(1, False), (3, True)]
    rig.say(ipc.OutputCredit(1 << 30))
    rig.until(ipc.Flushed, 1 + 1 + 2 + 3)
    assert [header.id for header, _ in rig.heard(ipc.Flushed)] == [1, 3, 1, 1, 2, 2, 2]


def test_a_term_that_begins_ends_the_flushes_of_the_list_from_before(rig: Any) -> None:
    rig.start(output_window_bytes=1)
    rig.shards()
    rig.flush(1, parts=3, size=64 * KIB)
    rig.until(ipc.Flushed, 1)
    rig.order(ipc.Reopen(2, ListId(KIND_STANDARD, 64 * KIB, 3), 77))
    rig.flush(3, parts=3, size=64 * KIB)
    rig.say(ipc.OutputCredit(1 << 30))
    rig.until(ipc.Flushed, 1 + 1 + 4)
    assert [(header.id, header.values) for header, _ in rig.heard(ipc.Flushed)] == [(1, 2), (1, 0)] + [(3, 2)] * 3 + [
        (3, 0)
    ]


def test_a_long_flush_lets_batches_through(rig: Any) -> None:
    rig.start(output_window_bytes=1 << 40)
    rig.shards()
    batches = 20 * _MESSAGES_PER_TURN
    # Everything is there when it goes on.
    stop(rig.process.pid)
    rig.flush(1, parts=2 * batches, size=64 * KIB)
    for _ in range(batches):
        rig.batch(b"now")
    os.kill(rig.process.pid, signal.SIGCONT)
    rig.until(ipc.Flushed, 2 * batches + 1)
    parts = rig.heard(ipc.Flushed)[:-1]
    assert rig.entries(parts[0]) < batches
    assert rig.entries(parts[-1]) > batches


def test_flushes_it_cannot_do_are_refused(rig: Any) -> None:
    rig.start(output_window_bytes=1)
    rig.flush(1, parts=1)
    assert rig.until(ipc.Refused)[0].id == 1
    rig.shards()
    rig.flush(2, parts=1, kind=9)
    refused = rig.until(ipc.Refused, 2)[0]
    assert refused.id == 2
    assert "unknown list kind 9" in refused.reason
    for number in range(3, 300):
        rig.flush(number, parts=1, size=64 * KIB)
    # The first one used the credit and needs none for its end; 256 wait.
    assert rig.until(ipc.Refused, 3)[0].id == 4 + 256
    rig.until(ipc.Refused, 2 + 40)
    rig.say(ipc.OutputCredit(1 << 40))
    rig.wait_for(lambda: sum(h.last for h, _ in rig.heard(ipc.Flushed)) == 257, "all others to be answered")


def test_lists_stats_and_sampled_errors(rig: Any) -> None:
    rig.start()
    rig.shards()
    rig.batch(b"list bad", now_ns=77)
    assert rig.until(ipc.Lists)[0].lists == [ipc.NewList(3, ListId(0, 10**10), 77)]

    def counted() -> bool:
        stats = rig.heard(ipc.WorkerStats)
        return bool(stats) and stats[-1][0].counters["worker.batches"] == 1

    rig.wait_for(counted, "figures")
    stats = rig.heard(ipc.WorkerStats)[-1][0]
    assert stats.counters["engine.entries"] == 2
    assert stats.gauges["worker.memory-bytes{worker=0}"] == 1
    assert stats.gauges["worker.resident-bytes{worker=0}"] > 1e6
    assert 0 <= stats.gauges["worker.cpu-share{worker=0}"] <= 2
    assert stats.traffic.messages == 2
    assert stats.shards == [ipc.ShardStats(3, 1, 2, 0)]
    rig.wait_for(lambda: "id bad" in rig.log.read_text(), "the example in the log")
    assert "sample refused: decode-error" in rig.log.read_text()


def test_a_command_that_comes_again_is_carried_out_once(rig: Any) -> None:
    rig.start()
    rig.shards()
    for _ in range(2):
        rig.order(ipc.Reopen(1, ListId(0, 10, 2), 77))
        rig.flush(2, parts=1)
    rig.flush(3, parts=1)
    rig.until(ipc.Flushed, 4)
    assert [(part.id, part.last) for part, _ in rig.heard(ipc.Flushed)] == [
        (2, False),
        (2, True),
        (3, False),
        (3, True),
    ]
    assert rig.diary(rig.heard(ipc.Flushed)[2])[1:] == [["reopen", 0, 10, 77, 2], ["close", 0, 2], ["close", 0, 3]]
    assert not rig.heard(ipc.Refused)


def test_a_new_front_is_attached_and_the_state_kept(rig: Any) -> None:
    rig.start()
    rig.shards()
    rig.batch(b"old")
    rig.acked()
    rig.close_front()
    rig.front(2)
    rig.say(ipc.Attach(2))
    rig.batch(b"new")
    assert rig.acked().seq == 0
    rig.flush(1, parts=1)
    assert [entry[2] for entry in rig.diary(rig.until(ipc.Flushed)) if entry[0] == "batch"] == ["old", "new"]


def test_a_batch_in_the_memory_of_the_front_is_read_there(rig: Any) -> None:
    rig.start()
    rig.shards()
    memory = SharedMemory(Path(ipc.memory_path(rig.run_dir, 1)), 8192)
    memory.array[5000:5003] = np.frombuffer(b"one", np.uint8)
    rig.data.send(ipc.encode(ipc.Batch(7, 0, [1], [3], at=5000)))
    assert rig.acked() == ipc.Acked(7, 3, [9], memoryview(b"ack of 3;"))
    memory.close()
    rig.flush(1, parts=1)
    assert [entry[2] for entry in rig.diary(rig.until(ipc.Flushed)) if entry[0] == "batch"] == ["one"]


def test_a_batch_in_the_memory_of_a_front_that_has_ended_is_left_out(rig: Any) -> None:
    rig.start()
    rig.shards()
    rig.data.send(ipc.encode(ipc.Batch(7, 0, [1], [3], at=5000)))
    rig.seq = 8
    rig.batch(b"next")
    assert rig.acked().seq == 8
    rig.flush(1, parts=1)
    assert [entry[2] for entry in rig.diary(rig.until(ipc.Flushed)) if entry[0] == "batch"] == ["next"]


def test_goodbye_ends_it_after_everything_is_answered(rig: Any) -> None:
    rig.start(output_window_bytes=1)
    rig.shards()
    rig.flush(1, parts=3)
    rig.batch(b"a")
    rig.data.send(ipc.encode(ipc.Goodbye()))
    rig.acked()
    rig.until(ipc.Flushed)
    assert rig.process.poll() is None
    rig.say(ipc.OutputCredit(1 << 40))
    assert rig.process.wait(30) == 0
    rig.until(ipc.Flushed, 4)


def test_goodbye_does_not_wait_for_credit_forever(rig: Any) -> None:
    rig.start(output_window_bytes=1, goodbye_timeout_ns=300_000_000)
    rig.shards()
    rig.flush(1, parts=3)
    rig.data.send(ipc.encode(ipc.Goodbye()))
    assert rig.process.wait(30) == 0


def test_only_the_supervisor_ends_it(rig: Any) -> None:
    rig.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(rig.process.pid, number)
    rig.shards()
    rig.batch(b"still here")
    rig.acked()
    rig.say(ipc.Stop())
    assert rig.process.wait(30) == 0


def test_a_failing_engine_ends_the_process_with_a_traceback(rig: Any) -> None:
    rig.start()
    rig.shards()
    rig.batch(b"boom")
    assert rig.process.wait(30) == 1
    assert "RuntimeError: the engine fails" in rig.log.read_text()
    assert "fake_engine.py" in rig.log.read_text()
