"""What only the embedded store can do wrong: files, processes, signals."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m3cluster.kv import Embedded, KVError, open_store
from m3cluster.kv.rules import Tables
from m3cluster.kv.sqlite.bell import Bell
from m3x.clock import boot_ns
from m3x.process import boot_id

LONG_S = 30

WRITER = """
import asyncio, sys
from m3cluster.kv import Embedded, open_store

async def main(path, key):
    store = await open_store(Embedded(path))
    number = 0
    while True:
        number += 1
        await store.set(key, b"%d" % number)
        print(number, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.sqlite"


async def test_values_survive_closing(path):
    store = await open_store(Embedded(path))
    await store.set("a", b"1")
    before = await store.get("a")
    await store.close()
    store = await open_store(Embedded(path))
    assert await store.get("a") == before
    await store.set("b", b"")
    assert (await store.get("b")).mod_revision > before.mod_revision
    await store.close()


async def test_another_process_is_seen_and_its_kill_loses_nothing_answered(path):
    store = await open_store(Embedded(path))
    watch = store.watch("a")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), "a", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    seen = 0
    async with asyncio.timeout(LONG_S):
        async for value in watch:
            seen = int(value.data)
            if seen >= 20:
                break
    process.send_signal(signal.SIGKILL)
    output, errors = await process.communicate()
    assert errors == b""
    answered = int(output.split()[-1])
    assert int((await store.get("a")).data) >= max(answered, seen)
    assert await store.set("a", b"mine") > answered
    await store.close()


async def test_a_file_that_nobody_writes_is_not_read_and_every_write_is_seen(path, monkeypatch):
    reads = 0
    changes = Tables.changes

    def counted(*arguments):
        nonlocal reads
        reads += 1
        return changes(*arguments)

    monkeypatch.setattr(Tables, "changes", counted)
    monkeypatch.setattr("m3cluster.kv.sqlite.store._READ_NS", 1 << 62)
    store = await open_store(Embedded(path))
    watch = store.watch("a")
    # Another process has a connection of its own.
    connection = sqlite3.connect(path, isolation_level=None)
    other, bell = Tables(connection, "another", time.monotonic_ns), Bell(path)
    for number in range(40):
        # At whatever distance from the write and the look before it.
        await asyncio.sleep(0.007 * (number % 23))
        other.set("a", b"%d" % number)
        # One that is killed in between tells nobody.
        if number % 10:
            bell.ring()
        async with asyncio.timeout(LONG_S):
            assert (await anext(watch)).data == b"%d" % number
    # The log of writes was too young to be trusted, so the next look reads once more.
    await asyncio.sleep(1.3)
    before = reads
    await asyncio.sleep(1)
    assert reads == before
    bell.close()
    connection.close()
    await store.close()


async def test_without_a_bell_every_write_is_seen(path, monkeypatch):
    monkeypatch.setattr("m3cluster.kv.sqlite.bell._watched", lambda file: -1)
    writer, reader = await open_store(Embedded(path)), await open_store(Embedded(path))
    connection = sqlite3.connect(path, isolation_level=None)
    other = Tables(connection, "another", time.monotonic_ns)
    watch = reader.watch("a")
    for number in range(20):
        await asyncio.sleep(0.007 * number)
        if number % 2:
            other.set("a", b"%d" % number)
        else:
            await writer.set("a", b"%d" % number)
        async with asyncio.timeout(LONG_S):
            assert (await anext(watch)).data == b"%d" % number
    connection.close()
    await reader.close()
    await writer.close()


async def test_a_lease_that_ends_is_noticed_though_nobody_writes(path, monkeypatch):
    monkeypatch.setattr("m3cluster.kv.sqlite.store._READ_NS", 1 << 62)
    store = await open_store(Embedded(path))
    connection = sqlite3.connect(path, isolation_level=None)
    other = Tables(connection, boot_id(), boot_ns)
    other.put_with_lease("a", b"x", other.grant(1_500_000_000))
    watch = store.watch("a")
    assert (await anext(watch)).data == b"x"
    async with asyncio.timeout(LONG_S):
        assert await anext(watch) is None
    connection.close()
    await store.close()


async def test_many_processes_write_one_file(path):
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(path), name, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for name in ("a", "b", "c")
    ]
    store = await open_store(Embedded(path))
    async with asyncio.timeout(LONG_S):
        for name in ("a", "b", "c"):
            async for value in store.watch(name):
                if value.version >= 10:
                    break
    for process in processes:
        process.kill()
        _, errors = await process.communicate()
        assert errors == b""
    for _, value in await store.keys(""):
        assert int(value.data) == value.version
    await store.close()


async def test_a_held_lock_is_an_error_that_says_so_and_does_not_stop_the_loop(path, monkeypatch):
    monkeypatch.setattr("m3cluster.kv.sqlite.embedded.BUSY_S", 0.2)
    store = await open_store(Embedded(path))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    writing = asyncio.ensure_future(store.set("a", b"1"))
    turns = 0
    while not writing.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > 5
    with pytest.raises(KVError, match="locked.*another process"):
        await writing
    holder.execute("ROLLBACK")
    holder.close()
    assert await store.set("a", b"1") == 1
    await store.close()


async def test_a_file_that_is_no_database_is_named(path):
    path.write_bytes(b"not a database, but long enough to be read as one" * 40)
    with pytest.raises(KVError, match=str(path)):
        await open_store(Embedded(path))


async def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KVError, match="cannot open the embedded KV"):
        await open_store(Embedded(tmp_path / "file" / "kv.sqlite"))


async def test_a_newer_layout_is_refused(path):
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(KVError, match="layout 9"):
        await open_store(Embedded(path))


def test_leases_end_with_the_boot_they_were_granted_in(path):
    now = [1_000]
    before = Tables(sqlite3.connect(path, isolation_level=None), "boot-1", lambda: now[0])
    lease = before.grant(10_000)
    before.put_with_lease("k", b"", lease)
    now[0] += 9_999
    assert before.keep_alive(lease)
    before.close()
    now[0] = 5
    after = Tables(sqlite3.connect(path, isolation_level=None), "boot-2", lambda: now[0])
    assert after.keys("") == []
    assert not after.keep_alive(lease)
    after.close()


def test_a_lease_whose_time_has_passed_cannot_be_kept_alive(path):
    now = [0]
    tables = Tables(sqlite3.connect(path, isolation_level=None), "boot", lambda: now[0])
    lease = tables.grant(100)
    tables.put_with_lease("k", b"", lease)
    now[0] = 99
    assert tables.keep_alive(lease)
    now[0] = 199
    assert not tables.keep_alive(lease)
    assert tables.keys("") == []
    tables.close()


def test_the_test_machine_has_a_boot_clock():
    assert os.path.exists("/proc/sys/kernel/random/boot_id")
