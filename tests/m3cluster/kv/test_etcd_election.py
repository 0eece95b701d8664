"""Candidates in processes of their own elect a leader over etcd."""

import asyncio
import itertools
import signal
import sys

from m3cluster.election import Election
from m3cluster.kv import Etcd, open_store

PREFIX = "_ld/env/m3aggregator/shardset/1/lock"
LONG_S = 60
TTL_S = 8
"""Long enough for candidates on a loaded machine not to lose it by themselves."""

# Appends one line "boot-ns name revision" per moment in which it may act as leader, each judged against the deadline right before.
CANDIDATE = """
import asyncio, os, sys
from m3cluster.election import Election
from m3cluster.kv import Etcd, open_store
from m3x.clock import boot_ns

async def main(address, out, prefix, name, ttl_s):
    store = await open_store(Etcd((address,)))
    election = Election(store, prefix, int(ttl_s))
    file = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        await election.campaign(name)
        while True:
            now = boot_ns()
            if now >= election.deadline_ns():
                break
            os.write(file, f"{now} {name} {election.revision}\\n".encode())
            await asyncio.sleep(0.01)

asyncio.run(main(*sys.argv[1:]))
"""


async def until(condition):
    async with asyncio.timeout(LONG_S):
        while not (result := condition()):  # noqa: ASYNC110 - looks at files of other processes
            await asyncio.sleep(0.02)
    return result


def acts(path):
    """Complete lines of all candidates: time, name, term."""
    if not path.exists():
        return []
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(int(now), name, int(term)) for now, name, term in lines]


async def test_the_other_candidate_leads_after_a_kill_and_never_at_the_same_time(own_etcd, tmp_path):
    out = tmp_path / "acts"
    processes = {}
    for name in ("a", "b"):
        processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CANDIDATE, own_etcd.address, str(out), PREFIX, name, str(TTL_S)
        )
    store = await open_store(Etcd((own_etcd.address,)))
    observer = Election(store, PREFIX, TTL_S)
    try:
        async with asyncio.timeout(LONG_S):
            while len(await observer.candidates()) < 2:  # noqa: ASYNC110 - keys of other processes
                await asyncio.sleep(0.02)
        first = (await until(lambda: acts(out)))[0][1]
        other = "b" if first == "a" else "a"
        assert await observer.leader() == first
        processes[first].send_signal(signal.SIGKILL)
        await until(lambda: any(name == other for _, name, _ in acts(out)))
        assert await observer.leader() == other
        # A leader that is cut off goes on for as long as its lease, and leads again once etcd is back.
        own_etcd.kill()
        own_etcd.start()
        seen = len(acts(out))
        await until(lambda: len(acts(out)) > seen + 10)
    finally:
        for process in processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
        await store.close()
    done = sorted(acts(out))
    terms = [name for name, _ in itertools.groupby(name for _, name, _ in done)]
    assert terms == [first, other]
