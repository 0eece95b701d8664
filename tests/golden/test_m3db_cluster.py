"""What M3DB keeps in the KV, and how many copies have to answer, against ``golden/m3db``.

``kv.jsonl``           every value
``consistency.jsonl``  every number of replicas
"""

import base64

import pytest
from tests.golden.vectors import Vector, cases

from m3cluster import keys
from m3cluster.placement import decode_placement, encode_placement
from m3db.consistency import (
    CopyRules,
    ReadLevel,
    ReadTally,
    RowState,
    WriteLevel,
    copies_of,
    judge,
    majority,
    read_achieved,
    write_achieved,
)
from m3db.namespaces import REGISTRY_KEY, decode_registry, encode_registry, targets_of
from m3db.topology import Host, Topology
from m3x.protobuf import read_varint


def entries(data: bytes) -> list[bytes]:
    """The entries of a map that is a message's first and only field, sorted: their order on the wire is by chance."""
    found, at = [], 0
    while at < len(data):
        assert data[at] == 0x0A
        size, at = read_varint(data, at + 1, len(data))
        found.append(data[at : at + size])
        at += size
    return sorted(found)


@pytest.mark.parametrize("vector", cases("m3db/kv.jsonl", "etcd_key", "version"))
def test_values_are_read_and_written_as_m3_does(vector: Vector) -> None:
    data, version = base64.b64decode(vector["value_b64"]), vector["version"]
    if vector["etcd_key"] == keys.placement_key("default_env", "m3db"):
        placement = decode_placement(data, version)
        assert encode_placement(placement) == data
        topology = Topology.of_placement(placement)
        assert (topology.num_shards, topology.replicas, topology.version) == (16, 1, version)
        return
    assert vector["etcd_key"] == keys.kv_key("default_env", REGISTRY_KEY)
    registry = decode_registry(data, version)
    assert registry.version == version
    assert entries(encode_registry(registry.by_name.values())) == entries(data)
    targets, problems = targets_of(registry)
    ready = [one for one in registry.by_name.values() if one.staging.name == "READY"]
    assert len(targets) == sum(len(one.aggregations) for one in ready)
    assert len(problems) == len(registry.by_name) - len(ready)


@pytest.mark.parametrize("vector", cases("m3db/consistency.jsonl", "replicas"))
def test_levels_are_reached_by_as_many_successes_as_in_m3(vector: Vector) -> None:
    replicas = vector["replicas"]
    assert majority(replicas) == vector["majority"]
    for name, satisfying in vector["successes_that_satisfy_with_enqueued_equal_replicas"].items():
        kind, level = name.split("_", 1)
        for successes in range(replicas + 1):
            enough = successes in satisfying
            if kind == "read":
                assert read_achieved(ReadLevel(level), replicas, replicas, successes) is enough
            else:
                assert write_achieved(WriteLevel(level), replicas, replicas, successes) is enough
            if replicas:
                assert reached(kind, level, replicas, successes) is enough


def reached(kind: str, level: str, replicas: int, successes: int) -> bool:
    """The same of a whole write or read, of which so many copies succeed."""
    topology = Topology.static([Host(str(number), f"{number}:1") for number in range(replicas)], 1, replicas)
    if kind == "read":
        tally = ReadTally(ReadLevel(level), topology)
        for host in range(replicas):
            tally.answered(host, host < successes)
        assert tally.decided
        return not len(tally.short())
    copies = copies_of(topology, CopyRules(WriteLevel(level)))
    succeeded, every = (1 << successes) - 1, (1 << replicas) - 1
    state = judge(
        int(copies.counted[0]), copies.partners[0].tolist(), int(copies.needed[0]), succeeded, every ^ succeeded, 0
    )
    return state == RowState.WRITTEN
