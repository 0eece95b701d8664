"""Candidates in processes of their own, which write down every moment in which they may act as leader."""

import asyncio
import itertools
import signal
import sys

from lab.waiting import until

from m3cluster.election import Election
from m3cluster.kv import open_store

# Appends one line "boot-ns name revision" per moment in which it may act as leader, each judged against the deadline right before.
_CANDIDATE = """
import asyncio, os, sys
from m3cluster.election import Election
from m3cluster.kv import Etcd, ZooKeeper, open_store
from m3x.clock import boot_ns

async def main(config, out, prefix, name, ttl_s):
    store = await open_store(eval(config))
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


class Candidates:
    """Candidates for ``prefix`` on the store that ``config`` names; ``out`` is the file that all of them write."""

    def __init__(self, config, out, prefix, ttl_s):
        self.processes = {}
        self._config, self._out, self._prefix, self._ttl_s = config, out, prefix, ttl_s

    async def __aenter__(self):
        self._store = await open_store(self._config)
        self.observer = Election(self._store, self._prefix, self._ttl_s)
        return self

    async def __aexit__(self, *_):
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
        await self._store.close()

    async def start(self, name):
        """Starts the candidate ``name``."""
        self.processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CANDIDATE, repr(self._config), str(self._out), self._prefix, name, str(self._ttl_s)
        )

    def kill(self, name):
        """kill -9."""
        self.processes[name].send_signal(signal.SIGKILL)

    def acts(self):
        """Complete lines of all candidates: time, name, term."""
        if not self._out.exists():
            return []
        lines = [line.split() for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [(int(now), name, int(term)) for now, name, term in lines]

    def terms(self):
        """Who has led, one after the other in order of time: names."""
        return [name for name, _ in itertools.groupby(name for _, name, _ in sorted(self.acts()))]

    async def number(self, wanted):
        """Waits until there are so many candidates, dead ones whose lease lives included."""

        async def there():
            return len(await self.observer.candidates()) >= wanted

        await until(there)

    async def leads(self, name):
        """Waits until ``name`` acts as leader, from now on."""
        seen = len(self.acts())
        await until(lambda: any(who == name for _, who, _ in self.acts()[seen:]))

    async def somebody_acts(self):
        """Waits until somebody has acted a few times from now on."""
        seen = len(self.acts())
        await until(lambda: len(self.acts()) > seen + 10)
