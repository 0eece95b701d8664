"""Refusals of the admin API: statuses and texts as Go's m3coordinator gives them to the same requests over the same keys."""

import json

import pytest
from tests.coordinator.api.test_admin import AGGREGATOR

from m3cluster.kv import KeyNotFoundError

ENV = "namespace/m3db-cluster-name"
TOPIC = "/api/v1/topic"
TOPIC_KEY = f"/topic/{ENV}/aggregated_metrics"
BASE = "/api/v1/services/m3aggregator/placement"
PLACEMENT_KEY = f"/placement/{ENV}/m3aggregator"


NEW = {"id": "x", "zone": "embedded", "weight": 1}
SERVICE = {"name": "a"}
SHARED = {"serviceId": SERVICE, "consumptionType": "SHARED"}


@pytest.mark.parametrize(
    ("method", "body", "status", "error"),
    [
        # The type of consumption is looked at before the service.
        ("POST", {"consumerService": {}}, 400, "invalid consumption type in protobuf: UNKNOWN"),
        ("POST", {"consumerService": {"consumptionType": 1}}, 500, "consumerService.serviceId is missing in the request"),
        ("POST", {}, 500, "consumerService is missing in the request"),
        ("PUT", {"consumerServices": [{}]}, 400, "error converting consumer service '': invalid consumption type in protobuf: UNKNOWN"),
        (
            "PUT",
            {"consumerServices": [{"filters": {"routingPolicyFilter": {"allowedTrafficTypes": ["x", "y"], "isDefault": True}}}]},
            400,
            "error converting consumer service 'filters:<routing_policy_filter:<allowed_traffic_types:\"x\" allowed_traffic_types:\"y\" "
            "is_default:true > > ': invalid consumption type in protobuf: UNKNOWN",
        ),
        (
            "PUT",
            {"consumerServices": [SHARED, SHARED], "version": 1},
            500,
            "error deleting service 'aggregated_metrics': invalid topic: duplicated consumer [name: a, env: , zone: ]",
        ),
        ("PUT", {"version": 7}, 500, "error deleting service 'aggregated_metrics': key is not at the specified version"),
        (
            "PUT",
            {"consumerServices": [{**SHARED, "filters": {"storagePolicyFilter": {"storagePolicies": [None]}}}], "version": 1},
            500,
            "error deleting service 'aggregated_metrics': invalid topic: empty storage policy in filter for consumer "
            "[name: a, env: , zone: ]",
        ),
    ],
)  # fmt: skip
async def test_updates_of_a_topic(client, store, method, body, status, error):
    await client.post(f"{TOPIC}/init", json={"numberOfShards": 4})
    before = await store.keys("")
    answer = await client.request(method, TOPIC, json=body)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert await store.keys("") == before


async def test_a_percentage_that_is_no_number_passes(client, store):
    await client.post(f"{TOPIC}/init", json={"numberOfShards": 4})
    consumer = {**SHARED, "filters": {"percentageFilter": {"percentage": "NaN"}}}
    answer = await client.put(TOPIC, json={"consumerServices": [consumer], "version": 1})
    assert answer.json()["topic"]["consumerServices"][0]["filters"]["percentageFilter"] == {"percentage": "NaN"}
    stored = (await store.get(TOPIC_KEY)).data
    assert (
        stored
        == b'\n\x12aggregated_metrics\x10\x04\x1a\x14\n\x03\n\x01a\x10\x01"\x0b\x12\t\t\x01\x00\x00\x00\x00\x00\xf8\x7f'
    )


@pytest.mark.parametrize(
    ("stored", "get", "post", "put"),
    [
        (b"\xff", 404, 500, 404),
        (b"\x08\x01", 404, 500, 404),
        (b"\n\x12aggregated_metrics\x10\x04\x1a\x07\n\x03\n\x01a\x10\x09", 404, 500, 404),
        # A consumer that does not say whose it is: M3 panics.
        (b"\n\x12aggregated_metrics\x10\x04\x1a\x02\x10\x01", 500, 500, 500),
    ],
)
async def test_a_stored_topic_that_cannot_be_read(client, store, stored, get, post, put):
    await store.set(TOPIC_KEY, stored)
    answers = [
        await client.get(TOPIC),
        await client.post(TOPIC, json={"consumerService": SHARED}),
        await client.put(TOPIC, json={"version": 1}),
    ]
    assert [a.status_code for a in answers] == [get, post, put]
    assert len({a.json()["error"] for a in answers}) == 1


async def test_a_topic_is_written_under_the_name_that_it_has(client, store):
    await store.set(TOPIC_KEY, b"\n\x05other\x10\x04")
    answer = await client.put(TOPIC, json={})
    assert (answer.status_code, answer.json()["topic"]["name"]) == (200, "other")
    assert (await store.get(f"/topic/{ENV}/other")).version == 1
    assert (await store.get(TOPIC_KEY)).version == 1


@pytest.mark.parametrize(
    ("keys", "status", "left"),
    [
        ([], 200, []),
        (["flush"], 200, []),
        # M3 deletes the flush times once more in the place of the leader's key.
        (["lock"], 500, ["lock"]),
        (["flush", "lock"], 500, ["lock"]),
    ],
)
async def test_a_deleted_placement_whose_keys_have_been_cleaned_up(client, store, keys, status, left):
    await client.post(f"{BASE}/init", json=AGGREGATOR)
    for key in keys:
        await store.set(f"_kv/{ENV}//shardset/1/{key}", b"x")
    answer = await client.delete(BASE)
    assert answer.status_code == status
    if status == 500:
        assert answer.json()["error"] == "error delete election key for deleted instance: key not found"
    else:
        assert answer.text == '{"deleted":true}\n'
    with pytest.raises(KeyNotFoundError):
        await store.get(PLACEMENT_KEY)
    assert [key for key, _ in await store.keys("_kv/")] == [f"_kv/{ENV}//shardset/1/{name}" for name in left]


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("", {"instances": [None], "force": True}, 400, "nil placement instance proto"),
        ("/replace", {"candidates": [None]}, 400, "nil placement instance proto"),
        ("/set", {"placement": {"instances": {"a": None}}}, 400, "nil placement instance proto"),
        ("/set", {}, 400, "nil placement proto"),
        ("", {"instances": [{"id": "a", "shards": [None]}]}, 500, "a shard is missing in the request: instance a has a shard that is null"),
        ("/replace", {"force": True, "candidates": [NEW]}, 500, "could not find instances with weight 0 in the candidate list"),
        ("/replace", {}, 400, "instances do not have all shards available: [m3aggregator01:6000, m3aggregator02:6000]"),
        ("?version=-1", None, 500, "invalid version range"),
    ],
)  # fmt: skip
async def test_changes_of_a_placement_with_impossible_input(client, store, path, body, status, error):
    await client.post(f"{BASE}/init", json=AGGREGATOR)
    before = await store.keys("")
    answer = await client.request("GET" if body is None else "POST", BASE + path, content=json.dumps(body))
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert await store.keys("") == before


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        (b"\n\x02\n\x00", "nil placement instance proto"),
        (b"\x0b", "proto: wrong wireType = 3 for field Snapshots"),
        (b"\x0c", "proto: PlacementSnapshots: wiretype end group for non-group"),
        (b"\n\x04\x18\x01\x1a\x01", "proto: wrong wireType = 2 for field NumShards"),
        (b"", "placement snapshots is empty"),
    ],
)
async def test_a_stored_placement_that_cannot_be_read(client, store, stored, error):
    await store.set(PLACEMENT_KEY, stored)
    for answer in (await client.get(BASE), await client.delete(BASE), await client.post(f"{BASE}/set", json={})):
        assert (answer.status_code, answer.json()["error"]) == (500, error)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("[]", 400, "json: cannot unmarshal array into Go value of type database.KeyValueUpdate"),
        ('{"key":5}', 400, "json: cannot unmarshal number into Go struct field KeyValueUpdate.key of type string"),
        ('{"key":"a","commit":"yes"}', 400, "json: cannot unmarshal string into Go struct field KeyValueUpdate.commit of type bool"),
        ('{"key":"a"} y', 400, "invalid character 'y' after top-level value"),
        ('{"key":"a\\x"}', 400, "invalid character 'x' in string escape code"),
        ('{"key":"a\n"}', 400, r"invalid character '\n' in string literal"),
        ('{"key":"\\ud800"}', 500, "unsupported kvstore key \ufffd"),
        ("null", 500, "unsupported kvstore key "),
        ('{"key":"m3db.query.limits"}', 500, "EOF"),
        ('{"key":"m3db.query.limits","value":1}', 500, "json: cannot unmarshal number into Go value of type map[string]json.RawMessage"),
    ],
)  # fmt: skip
async def test_updates_of_runtime_options(client, store, body, status, error):
    answer = await client.post("/api/v1/kvstore", content=body)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert await store.keys("") == []


async def test_an_update_of_runtime_options_may_be_spelt_in_capitals(client):
    answer = await client.post("/api/v1/kvstore", content='{"KEY":"m3db.query.limits","Value":{},"Commit":true}')
    assert answer.json() == {"key": "m3db.query.limits", "old": {}, "new": {}, "version": 1}


async def test_only_coordinators_may_have_no_shards(client):
    body = {
        "instances": [{"id": "a", "endpoint": "a:1", "zone": "embedded", "weight": 1}],
        "optionOverride": {"isSharded": False},
    }
    body |= {"numShards": 2, "replicationFactor": 1}
    answer = await client.post("/api/v1/services/m3db/placement/init", json=body)
    assert answer.json()["placement"]["isSharded"] is True
    answer = await client.post("/api/v1/services/m3coordinator/placement/init", json=body | {"numShards": 0})
    assert answer.json()["placement"]["isSharded"] is False
