"""Candidates in processes of their own elect a leader over etcd."""

from lab.waiting import until
from tests.m3cluster.kv.candidates import Candidates

from m3cluster.kv import Etcd

PREFIX = "_ld/env/m3aggregator/shardset/1/lock"
TTL_S = 8
"""Long enough for candidates on a loaded machine not to lose it by themselves."""


async def test_the_other_candidate_leads_after_a_kill_and_never_at_the_same_time(own_etcd, tmp_path):
    async with Candidates(Etcd((own_etcd.address,)), tmp_path / "acts", PREFIX, TTL_S) as candidates:
        for name in ("a", "b"):
            await candidates.start(name)
        await candidates.number(2)
        first = (await until(candidates.acts))[0][1]
        other = "b" if first == "a" else "a"
        assert await candidates.observer.leader() == first
        candidates.kill(first)
        await candidates.leads(other)
        assert await candidates.observer.leader() == other
        # A leader that is cut off goes on for as long as its lease, and leads again once etcd is back.
        own_etcd.kill()
        own_etcd.start()
        await candidates.somebody_acts()
    assert candidates.terms() == [first, other]
