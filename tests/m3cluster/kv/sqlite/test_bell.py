"""Rings are heard, by whoever listens, until it is closed."""

import asyncio

from m3cluster.kv.sqlite.bell import Bell

LONG_S = 30


async def test_each_listener_hears_a_ring_of_any_other(tmp_path):
    file = tmp_path / "kv.sqlite"
    file.touch()
    bells = [Bell(file) for _ in range(3)]
    heard = [asyncio.Event() for _ in bells]
    for bell, event in zip(bells, heard, strict=True):
        assert bell.hears
        bell.listen(event.set)
    for bell in bells:
        bell.ring()
        async with asyncio.timeout(LONG_S):
            for event in heard:
                await event.wait()
        for event in heard:
            event.clear()
    for bell in bells:
        bell.close()


async def test_what_is_only_written_rings_for_nobody_and_neither_does_anything_after_the_end(tmp_path):
    file = tmp_path / "kv.sqlite"
    file.touch()
    bell, other = Bell(file), Bell(file)
    heard = []
    bell.listen(lambda: heard.append(1))
    file.write_bytes(b"x" * 10_000)
    await asyncio.sleep(0.1)
    assert heard == []
    bell.close()
    assert not bell.hears
    other.ring()
    await asyncio.sleep(0.1)
    assert heard == []
    other.close()


def test_a_file_that_is_gone_rings_for_nobody(tmp_path):
    file = tmp_path / "kv.sqlite"
    bell = Bell(file)
    assert not bell.hears
    bell.ring()
    bell.close()
