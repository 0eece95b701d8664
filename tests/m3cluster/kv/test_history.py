"""Earlier versions of a key, where a store keeps them."""

import pytest

from m3cluster.kv import KeepsHistory, KeyNotFoundError, NotKeptError
from m3cluster.kv.rules import _VERSIONS_KEPT

WITH_HISTORY = ("memory", "embedded", "etcd")


@pytest.mark.parametrize("connect", ["zookeeper"], indirect=True)
async def test_a_node_of_zookeeper_has_its_last_data_only(store):
    assert not isinstance(store, KeepsHistory)


@pytest.mark.parametrize("connect", WITH_HISTORY, indirect=True)
async def test_earlier_versions_are_what_they_were(store):
    await store.set("other", b"x")
    for number in range(1, 6):
        await store.set("k", b"%d" % number)
        await store.set("other", b"y")
    for number in range(1, 6):
        value = await store.get_version("k", number)
        assert (value.data, value.version) == (b"%d" % number, number)
    assert await store.get_version("k", 5) == await store.get("k")
    for version in (0, -1, 6):
        with pytest.raises(KeyNotFoundError):
            await store.get_version("k", version)
    with pytest.raises(KeyNotFoundError):
        await store.get_version("missing", 1)


@pytest.mark.parametrize("connect", WITH_HISTORY, indirect=True)
async def test_a_deleted_key_begins_anew(store):
    for data in (b"1", b"2", b"3"):
        await store.set("k", data)
    await store.delete("k")
    await store.set("k", b"new")
    await store.set("k", b"newer")
    assert (await store.get_version("k", 1)).data == b"new"
    with pytest.raises(KeyNotFoundError):
        await store.get_version("k", 3)


@pytest.mark.parametrize("connect", ["memory", "embedded"], indirect=True)
async def test_the_oldest_versions_are_dropped(store):
    for number in range(_VERSIONS_KEPT + 3):
        await store.set("k", b"%d" % number)
    assert (await store.get_version("k", 3)).data == b"2"
    with pytest.raises(NotKeptError, match="only the last"):
        await store.get_version("k", 2)
