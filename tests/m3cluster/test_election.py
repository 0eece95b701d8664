import asyncio
import contextlib
import itertools
import signal
import sqlite3
import sys
from pathlib import Path

import pytest
from lab.processes import stop
from lab.waiting import until

from m3cluster.election import CampaignEndedError, Election, ElectionError
from m3cluster.kv import ConditionFailedError, Embedded, MemoryServer, open_store
from m3x.clock import boot_ns

PREFIX = "_ld/env/m3aggregator/shardset/1/lock"
LONG_S = 40

# Appends one line "boot-ns name revision" per moment in which it may act as leader, each judged against the deadline right before.
CANDIDATE = """
import asyncio, os, sys
from m3cluster.election import Election
from m3cluster.kv import Embedded, open_store
from m3x.clock import boot_ns

async def main(path, out, prefix, name):
    store = await open_store(Embedded(path))
    election = Election(store, prefix, 2)
    file = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        await election.campaign(name)
        while True:
            now = boot_ns()
            if now >= election.deadline_ns():
                break
            os.write(file, f"{now} {name} {election.revision}\\n".encode())
            await asyncio.sleep(0.01)
        os.write(file, f"{boot_ns()} {name} fenced\\n".encode())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def server():
    stores = []
    memory = MemoryServer()

    def client():
        stores.append(memory.client())
        return stores[-1]

    yield client
    for store in stores:
        await store.close()


async def test_the_key_is_the_lease_in_hex_and_the_value_the_candidate(server):
    store = server()
    election = Election(store, PREFIX, 10)
    assert not election.is_leader
    assert election.deadline_ns() == 0
    assert await election.leader() is None
    await election.campaign("agg01:6000")
    ((key, value),) = await store.keys("")
    assert key == election.key
    assert key.startswith(PREFIX + "/")
    int(key.removeprefix(PREFIX + "/"), 16)
    assert value.data == b"agg01:6000"
    assert value.create_revision == election.revision
    assert election.is_leader
    assert boot_ns() < election.deadline_ns() <= boot_ns() + 10 * 10**9
    assert await election.leader() == "agg01:6000"
    await election.close()


async def test_candidates_lead_in_order_of_their_keys(server):
    elections = [Election(server(), PREFIX, 10) for _ in range(3)]
    await elections[0].campaign("0")
    waiting = []
    for number, election in enumerate(elections[1:], 1):
        waiting.append(asyncio.ensure_future(election.campaign(str(number))))
        await until(lambda e=election: e.revision)
    assert await elections[2].candidates() == ["0", "1", "2"]
    # The one in the middle goes away: nobody may take that for an election.
    await elections[1].close()
    with pytest.raises(CampaignEndedError):
        await waiting[0]
    assert await elections[2].leader() == "0"
    assert not waiting[1].done()
    await elections[0].resign()
    assert not elections[0].is_leader
    await asyncio.wait_for(waiting[1], LONG_S)
    assert elections[2].is_leader
    for election in elections:
        await election.close()


async def test_resigning_keeps_the_lease_and_the_next_campaign_queues_behind(server):
    one, two = Election(server(), PREFIX, 10), Election(server(), PREFIX, 10)
    await one.campaign("one")
    key, revision = one.key, one.revision
    second = asyncio.ensure_future(two.campaign("two"))
    await until(lambda: two.revision)
    lost = asyncio.ensure_future(one.lost())
    await one.resign()
    await asyncio.wait_for(lost, LONG_S)
    await asyncio.wait_for(second, LONG_S)
    again = asyncio.ensure_future(one.campaign("one"))
    await until(lambda: one.revision)
    assert one.key == key
    assert one.revision > two.revision > revision
    assert not one.is_leader
    await two.close()
    await asyncio.wait_for(again, LONG_S)
    assert one.is_leader
    await one.close()


async def test_resigning_without_a_campaign_does_nothing(server):
    election = Election(server(), PREFIX, 10)
    await election.resign()
    await election.lost()
    await election.close()
    with pytest.raises(ElectionError, match="closed"):
        await election.campaign("x")


async def test_a_second_campaign_is_refused(server):
    one, two = Election(server(), PREFIX, 10), Election(server(), PREFIX, 10)
    await one.campaign("one")
    with pytest.raises(ElectionError, match="in progress"):
        await one.campaign("one")
    waiting = asyncio.ensure_future(two.campaign("two"))
    await until(lambda: two.revision)
    with pytest.raises(ElectionError, match="in progress"):
        await two.campaign("two")
    await two.resign()
    with pytest.raises(CampaignEndedError):
        await waiting
    await one.close()
    await two.close()


async def test_a_cancelled_campaign_withdraws_its_candidacy(server):
    one, two = Election(server(), PREFIX, 10), Election(server(), PREFIX, 10)
    await one.campaign("one")
    waiting = asyncio.ensure_future(two.campaign("two"))
    await until(lambda: two.revision)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await one.candidates() == ["one"]
    await one.close()
    await two.campaign("two")
    assert two.is_leader
    await two.close()


async def test_a_deleted_key_ends_the_leadership(server):
    store = server()
    election = Election(store, PREFIX, 10)
    await election.campaign("one")
    await store.delete(election.key)
    await asyncio.wait_for(election.lost(), LONG_S)
    assert not election.is_leader
    assert election.deadline_ns() == 0
    await election.campaign("one")
    assert election.is_leader
    await election.close()


async def test_a_leader_whose_lease_was_ended_is_not_leader_and_its_writes_are_refused(server):
    store, other = server(), server()
    election = Election(store, PREFIX, 1)
    await election.campaign("one")
    key, revision = election.key, election.revision
    await other.put_if("flush", b"1", key, revision)
    await store.abandon()
    assert not election.is_leader
    await asyncio.wait_for(other.wait_deleted(key, revision), LONG_S)
    with pytest.raises(ConditionFailedError):
        await other.put_if("flush", b"2", key, revision)


async def test_leadership_outlives_the_ttl_while_the_process_lives(server):
    election = Election(server(), PREFIX, 1)
    await election.campaign("one")
    first = election.deadline_ns()
    await until(lambda: election.deadline_ns() > first + 10**9)
    assert election.is_leader
    await election.close()


def terms(out: Path) -> list[tuple[int, str, str]]:
    """What the candidates have written, in order of time."""
    lines = out.read_text().splitlines() if out.exists() else []
    return sorted((int(at), name, what) for at, name, what in (line.split() for line in lines))


def last(out: Path) -> tuple[int, str, str]:
    found = [term for term in terms(out) if term[2] != "fenced"]
    return found[-1] if found else (0, "", "")


async def test_of_two_processes_one_leads_through_kill_and_stop(tmp_path):
    path, out = tmp_path / "kv.sqlite", tmp_path / "terms"
    store = await open_store(Embedded(path))
    processes = {}

    async def start(name):
        processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CANDIDATE, str(path), str(out), PREFIX, name
        )

    try:
        await start("a")
        await until(lambda: last(out)[1] == "a")
        await start("b")
        await until_candidates(store, 2)

        processes["a"].kill()
        killed_at = boot_ns()
        await processes["a"].wait()
        await until(lambda: last(out)[1] == "b")
        assert next(at for at, name, _ in terms(out) if name == "b") > killed_at

        await start("a")
        await until_candidates(store, 2)
        await stop_outside_a_write(processes["b"], path)
        stopped_at = boot_ns()
        await until(lambda: last(out)[1] == "a" and last(out)[0] > stopped_at)
        continued_at = boot_ns()
        processes["b"].send_signal(signal.SIGCONT)
        await until(lambda: any(n == "b" and w == "fenced" and at >= continued_at for at, n, w in terms(out)))
        await until_candidates(store, 2)
    finally:
        for process in processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await store.close()

    acted = [term for term in terms(out) if term[2] != "fenced"]
    changes = [acted[0][1:]] + [b[1:] for a, b in itertools.pairwise(acted) if a[1:] != b[1:]]
    assert [name for name, _ in changes] == ["a", "b", "a"], "terms overlap or came back"
    revisions = [int(revision) for _, revision in changes]
    assert revisions == sorted(revisions)


async def until_candidates(store, count):
    async def there():
        return len(await store.keys(PREFIX + "/")) == count

    await until(there)


async def stop_outside_a_write(process, path):
    """Stops a process, but not in the middle of a transaction, where it would hold the file's lock."""
    while True:
        stop(process.pid)
        probe = sqlite3.connect(path, timeout=0.2, isolation_level=None)
        try:
            probe.execute("BEGIN IMMEDIATE")
            probe.execute("ROLLBACK")
            return
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.05)
        finally:
            probe.close()


async def test_a_key_of_a_lost_lease_does_not_hold_up_the_next_campaign(server):
    """A store that was down gives leases their full time again when it comes back, whatever their owners think of them."""
    leases = []

    def forgetful(store):
        grant = store.grant

        async def granted(ttl_s):
            leases.append(await grant(ttl_s))
            return leases[-1]

        store.grant = granted
        return store

    first, second = (Election(forgetful(server()), PREFIX, 3600) for _ in range(2))
    await first.campaign("first")
    waiting = asyncio.create_task(second.campaign("second"))
    await until(lambda: second.revision)
    # Neither hears that its lease is kept alive; the keys of both are still there.
    for lease in list(leases):
        lease.end()
    await first.lost()
    again = asyncio.create_task(first.campaign("first"))
    async with asyncio.timeout(LONG_S):
        await asyncio.wait([again, waiting], return_when=asyncio.FIRST_COMPLETED)
    for task in (again, waiting):
        task.cancel()
    await asyncio.gather(again, waiting, return_exceptions=True)
    for election in (first, second):
        await election.close()
