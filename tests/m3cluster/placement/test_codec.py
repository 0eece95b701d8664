import base64

import cramjam
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3cluster.placement import (
    NEVER_NS,
    Instance,
    Placement,
    Shard,
    ShardState,
    decode_placement,
    decode_staged_placement,
    encode_placement,
    encode_staged_placement,
)
from m3cluster.placement.codec import placement_to_message
from m3cluster.proto import DecodeError, encode
from m3cluster.proto.messages import PLACEMENT_SNAPSHOTS
from m3metrics.shard import MAX_SHARDS

uint32s = st.integers(0, (1 << 32) - 1)
names = st.text(max_size=6)
shards = st.builds(
    Shard,
    id=uint32s,
    state=st.sampled_from(ShardState),
    source_id=names,
    cutover_ns=st.integers(0, (1 << 63) - 1),
    cutoff_ns=st.integers(1, NEVER_NS),
    redirect_to=st.none() | uint32s,
)
instances = st.builds(
    Instance,
    id=names,
    isolation_group=names,
    zone=names,
    weight=uint32s,
    endpoint=names,
    shards=st.lists(shards, max_size=4, unique_by=lambda s: s.id).map(lambda s: tuple(sorted(s, key=lambda x: x.id))),
    shard_set_id=uint32s,
    hostname=names,
    port=uint32s,
    debug_port=uint32s,
    subcluster_id=uint32s,
)
placements = st.builds(
    Placement,
    instances=st.lists(instances, max_size=3, unique_by=lambda i: i.id).map(
        lambda i: tuple(sorted(i, key=lambda x: x.id))
    ),
    num_shards=st.integers(0, MAX_SHARDS),
    replica_factor=uint32s,
    is_sharded=st.booleans(),
    is_mirrored=st.booleans(),
    cutover_time_ns=st.integers(0, (1 << 63) - 1),
    max_shard_set_id=uint32s,
    version=st.integers(0, 99),
    is_subclustered=st.booleans(),
    instances_per_subcluster=uint32s,
)


@given(placements)
def test_what_is_written_is_read_back(placement):
    assert decode_placement(encode_placement(placement), placement.version) == placement
    assert decode_staged_placement(encode_staged_placement(placement), placement.version) == placement


@given(placements)
def test_compressed_snapshots_are_read(placement):
    data = encode_staged_placement(placement, compress=True)
    assert data.startswith(b"\x10\x01\x1a")
    assert decode_staged_placement(data, placement.version) == placement


def test_the_documented_coordinator_placement_has_the_bytes_that_go_leaves():
    data = base64.b64decode(
        "CloKD20zY29vcmRpbmF0b3IwMRJHCg9tM2Nvb3JkaW5hdG9yMDEaCGVtYmVkZGVkKhRtM2Nvb3JkaW5hdG9yMDE6NzUwN0IPbTNjb29yZGluYXRvcjAxSNM6UgAQAQ=="
    )
    instance = Instance(
        "m3coordinator01", zone="embedded", endpoint="m3coordinator01:7507", hostname="m3coordinator01", port=7507
    )
    placement = Placement((instance,), replica_factor=1, version=3)
    assert decode_placement(data, 3) == placement
    assert encode_placement(placement) == data


def test_the_wire_of_a_shard_leaves_initializing_and_never_out():
    shard = Shard(1, ShardState.INITIALIZING, cutover_ns=5)
    data = encode_placement(Placement((Instance("a", shards=(shard,)),)))
    assert bytes.fromhex("32 04 08 01 20 05") in data
    assert data.endswith(bytes.fromhex("52 00"))
    redirected = encode_placement(Placement((Instance("a", shards=(Shard(0, ShardState.LEAVING, redirect_to=0),)),)))
    assert bytes.fromhex("32 04 10 02 32 00") in redirected


def test_the_snapshot_with_the_latest_cutover_counts():
    older, newer = Placement(num_shards=1, cutover_time_ns=5), Placement(num_shards=2, cutover_time_ns=9)
    data = encode(PLACEMENT_SNAPSHOTS, {"snapshots": [placement_to_message(p) for p in (older, newer, older)]})
    assert decode_staged_placement(data, 4) == msgspec.structs.replace(newer, version=4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "placement snapshots is empty"),
        (b"\xff\xff", "unexpected EOF"),
        (bytes.fromhex("1001"), "compressed placement is nil"),
        (bytes.fromhex("1001 1a03 616263"), "not a ZSTD frame"),
        (bytes.fromhex("0a08 0a06 1204 3202 1009"), "invalid proto shard state"),
    ],
)
def test_what_is_no_staged_placement_is_refused(data, message):
    with pytest.raises(DecodeError, match=message):
        decode_staged_placement(data, 1)


def test_map_keys_do_not_matter_and_the_last_of_equal_shards_counts():
    # instances{"x": {id "b", shards [{id 1}, {id 0}, {id 1, AVAILABLE}]}}
    data = bytes.fromhex("0a 14 0a 01 78 12 0f 0a 01 62 32 02 08 01 32 00 32 04 08 01 10 01")
    (instance,) = decode_placement(data, 1).instances
    assert instance.id == "b"
    assert [(s.id, s.state) for s in instance.shards] == [(0, ShardState.INITIALIZING), (1, ShardState.AVAILABLE)]


def test_a_small_frame_of_very_many_bytes_costs_no_memory():
    packed = bytes(cramjam.zstd.compress(bytes(1 << 28)))
    assert len(packed) < 1 << 14
    with pytest.raises(DecodeError, match="not a ZSTD frame of at most 67108864 bytes"):
        decode_staged_placement(encode(PLACEMENT_SNAPSHOTS, {"compress_mode": 1, "compressed_placement": packed}), 1)
