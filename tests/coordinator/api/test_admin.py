"""The admin API beyond what the captures of M3 show (``tests/golden/test_cluster.py``)."""

import json
from pathlib import Path

import pytest
from tests.coordinator.api.conftest import ENVIRONMENT, NOW, client_of

from coordinator.api import answers
from coordinator.api.health import time_since
from m3cluster.kv import Embedded, KVError, open_store
from m3cluster.placement import decode_staged_placement
from m3cluster.topic import decode_topic

MINUTE = 60 * 10**9
AGGREGATOR = {
    "num_shards": 64,
    "replication_factor": 2,
    "instances": [
        {
            "id": f"m3aggregator0{number}:6000",
            "isolation_group": f"availability-zone-{group}",
            "zone": "embedded",
            "weight": 100,
            "endpoint": f"m3aggregator0{number}:6000",
            "hostname": f"m3aggregator0{number}",
            "port": 6000,
        }
        for number, group in ((1, "a"), (2, "b"))
    ],
}


def consumer(name, consumption):
    service = {"name": name, "environment": ENVIRONMENT["Cluster-Environment-Name"], "zone": "embedded"}
    return {
        "consumerService": {
            "serviceId": service,
            "consumptionType": consumption,
            "messageTtlNanos": "300000000000",
        }
    }


async def test_the_six_calls_of_the_set_up_page_on_the_embedded_store(tmp_path: Path):
    store = await open_store(Embedded(tmp_path / "kv.sqlite"))
    base, ingest, aggregated = "/api/v1", {"Topic-Name": "aggregator_ingest"}, {"Topic-Name": "aggregated_metrics"}
    coordinator = {
        "instances": [
            {
                "id": "m3coordinator01",
                "zone": "embedded",
                "endpoint": "m3coordinator01:7507",
                "hostname": "m3coordinator01",
                "port": 7507,
            }
        ]
    }
    async with client_of(store) as client:
        calls = [
            (f"{base}/services/m3aggregator/placement/init", {}, AGGREGATOR),
            (f"{base}/topic/init", ingest, {"numberOfShards": 64}),
            (f"{base}/topic", ingest, consumer("m3aggregator", "REPLICATED")),
            (f"{base}/topic/init", aggregated, {"numberOfShards": 64}),
            (f"{base}/services/m3coordinator/placement/init", {}, coordinator),
            (f"{base}/topic", aggregated, consumer("m3coordinator", "SHARED")),
        ]
        for path, headers, body in calls:
            # curl -d sends this content type; the text is JSON all the same.
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await client.post(path, headers=headers | form, content=json.dumps(body))
            assert answer.status_code == 200, answer.text
    stored = dict(await store.keys(""))
    await store.close()
    environment = "namespace/m3db-cluster-name"
    assert list(stored) == [
        f"/placement/{environment}/m3aggregator",
        f"/topic/{environment}/aggregator_ingest",
        f"/topic/{environment}/aggregated_metrics",
        f"_sd.placement/{environment}/m3coordinator",
    ]
    placement, topic, *_ = stored.values()
    assert len(placement.data) == 2051
    assert len(topic.data) == 87
    assert decode_topic(topic.data, 2).consumer_services[0].service_id.name == "m3aggregator"
    shard = decode_staged_placement(placement.data, 1).instances[0].shards[0]
    assert shard.cutover_ns == -(-NOW // MINUTE) * MINUTE


async def test_the_window_of_cutovers_is_the_largest_resolution(store):
    async with client_of(store, window_ns=lambda: 10 * MINUTE) as client:
        answer = await client.post("/api/v1/services/m3aggregator/placement/init", json=AGGREGATOR)
    cutover = answer.json()["placement"]["instances"]["m3aggregator01:6000"]["shards"][0]["cutoverNanos"]
    assert cutover == str(-(-NOW // (10 * MINUTE)) * 10 * MINUTE)


async def test_placements_may_have_another_default_environment_but_topics_may_not(store):
    async with client_of(store, environment="own/env", zone="z", zones=("z", "embedded")) as client:
        client.headers.pop("Cluster-Environment-Name")
        body = {"instances": [{"id": "c", "zone": "z", "endpoint": "c:1"}]}
        assert (await client.post("/api/v1/services/m3coordinator/placement/init", json=body)).status_code == 200
        assert (await client.post("/api/v1/topic/init", json={"numberOfShards": 1})).status_code == 200
    assert [key for key, _ in await store.keys("")] == [
        "_sd.placement/own/env/m3coordinator",
        "/topic/default_env/aggregated_metrics",
    ]


async def test_a_dry_run_answers_and_writes_nothing(client, store):
    for _ in range(2):
        answer = await client.post(
            "/api/v1/services/m3aggregator/placement/init", json=AGGREGATOR, headers={"Dry-Run": "true"}
        )
        assert answer.status_code == 200
        assert answer.json()["placement"]["numShards"] == 64
    assert await store.keys("") == []


PLACEMENT = "/api/v1/services/m3aggregator/placement"


@pytest.mark.parametrize("path", ["init", "remove", "replace", "set", "a1"])
async def test_every_word_after_placement_is_an_instance_to_delete(client, path):
    await client.post(f"{PLACEMENT}/init", json=AGGREGATOR)
    answer = await client.delete(f"{PLACEMENT}/{path}")
    assert (answer.status_code, answer.json()["error"]) == (404, f"instance not found: {path}")


async def test_a_deleted_placement_takes_the_flush_times_along_but_not_in_a_dry_run(client, store):
    await client.post(f"{PLACEMENT}/init", json=AGGREGATOR)
    flush_times = "_kv/namespace/m3db-cluster-name//shardset/1/flush"
    await store.set(flush_times, b"x")
    before = await store.keys("")
    answer = await client.delete(PLACEMENT, headers={"Dry-Run": "true"})
    assert answer.json() == {"deleted": True}
    assert await store.keys("") == before
    assert (await client.delete(PLACEMENT)).status_code == 200
    assert await store.keys("") == []


async def test_dry_runs_of_changes_answer_and_write_nothing(client, store):
    base = "/api/v1/services/m3coordinator/placement"
    one, two = ({"id": name, "zone": "embedded", "endpoint": f"{name}:1"} for name in ("c1", "c2"))
    await client.post(f"{base}/init", json={"instances": [one]})
    before = await store.keys("")
    dry = {"Dry-Run": "true"}
    answer = await client.post(base, json={"instances": [two], "force": True}, headers=dry)
    assert (set(answer.json()["placement"]["instances"]), answer.json()["version"]) == ({"c1", "c2"}, 1)
    placement = answer.json()["placement"]
    answer = await client.post(f"{base}/set", json={"placement": placement, "confirm": True}, headers=dry)
    assert (answer.json()["version"], answer.json()["dryRun"]) == (0, False)
    assert (await client.delete(f"{base}/c1", headers=dry)).status_code == 200
    assert await store.keys("") == before


async def test_a_set_placement_with_an_unknown_shard_state_is_400(client, store):
    instance = {"id": "a", "endpoint": "a:1", "shards": [{"id": 0, "state": 9}]}
    answer = await client.post(f"{PLACEMENT}/set", json={"placement": {"instances": {"a": instance}}, "confirm": True})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid proto shard state")
    assert await store.keys("") == []


async def test_a_topic_is_updated_only_by_consumers_that_can_be(client, store):
    await client.post("/api/v1/topic/init", json={"numberOfShards": 1})
    before = await store.keys("")
    bad = {"consumerServices": [consumer("x", "UNKNOWN")["consumerService"]], "version": 1}
    answer = await client.put("/api/v1/topic", json=bad)
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        'error converting consumer service \'service_id:<name:"x" environment:"namespace/m3db-cluster-name" zone:"embedded" > '
        "message_ttl_nanos:300000000000 ': invalid consumption type in protobuf: UNKNOWN"
    )
    for item, error in (
        ({"consumptionType": "SHARED"}, "consumerServices[0].serviceId is missing in the request"),
        (None, "consumerServices[0] is missing in the request"),
    ):
        answer = await client.put("/api/v1/topic", json={"consumerServices": [item], "version": 1})
        assert (answer.status_code, answer.json()["error"]) == (500, error)
    twice = [consumer("x", "SHARED")["consumerService"]] * 2
    answer = await client.put("/api/v1/topic", json={"consumerServices": twice, "version": 1})
    assert (answer.status_code, "duplicated consumer" in answer.json()["error"]) == (500, True)
    assert await store.keys("") == before


@pytest.mark.parametrize("body", [b"[]", b'{"key":5}', b'{"key":"a"} x', b"nonsense"])
async def test_a_body_that_is_no_update_of_the_kvstore_is_400(client, store, body):
    answer = await client.post("/api/v1/kvstore", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert await store.keys("") == []


async def test_earlier_versions_are_there_until_they_are_too_old(client, store):
    await client.post("/api/v1/services/m3aggregator/placement/init", json=AGGREGATOR)
    key = "/placement/namespace/m3db-cluster-name/m3aggregator"
    await store.set(key, (await store.get(key)).data)
    base = "/api/v1/services/m3aggregator/placement"
    assert (await client.get(f"{base}?version=2")).json()["version"] == 2
    assert (await client.get(f"{base}?version=1")).json()["version"] == 1
    for _ in range(100):
        await store.set(key, (await store.get(key)).data)
    answer = await client.get(f"{base}?version=1")
    assert (answer.status_code, answer.json()["status"]) == (501, "error")
    for text in ("1x", "²", "1_0", "--1", "9" * 5000):
        answer = await client.get(base, params={"version": text})
        assert answer.status_code == 400
        assert "could not parse version: strconv.Atoi" in answer.json()["error"]
    assert (await client.get(f"{base}?version=-1")).status_code == 500


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"numberOfShards":-1}', b'"x"'])
@pytest.mark.parametrize("path", ["/api/v1/topic/init", "/api/v1/topic", "/api/v1/services/m3db/placement/init"])
async def test_bad_bodies_are_400_with_a_reason(client, store, path, body):
    answer = await client.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert await store.keys("") == []


async def test_a_shard_state_that_does_not_exist_is_400(client):
    body = {"num_shards": 1, "replication_factor": 1, "instances": [{"id": "a", "shards": [{"id": 0, "state": 9}]}]}
    answer = await client.post("/api/v1/services/m3db/placement/init", json=body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid proto shard state")


async def test_a_body_without_end_is_refused(client, monkeypatch):
    monkeypatch.setattr(answers, "MAX_BODY_BYTES", 1 << 20)

    async def endless():
        while True:
            yield b" " * 65536

    answer = await client.post("/api/v1/topic/init", content=endless())
    assert answer.status_code == 400
    assert "larger than 1 MiB" in answer.json()["error"]


async def test_a_missing_service_names_what_is_missing(client):
    await client.post("/api/v1/topic/init", json={"numberOfShards": 1})
    answer = await client.post("/api/v1/topic", json={})
    assert answer.json()["error"] == "consumerService is missing in the request"
    answer = await client.post("/api/v1/topic", json={"consumerService": {"consumptionType": "SHARED"}})
    assert answer.json()["error"] == "consumerService.serviceId is missing in the request"


async def test_a_store_that_fails_is_500_and_nothing_unforeseen_escapes(store, monkeypatch):
    async with client_of(store) as client:

        async def fails(_key):
            raise KVError("kv.sqlite: database is locked <now>")

        monkeypatch.setattr(store, "get", fails)
        answer = await client.get("/api/v1/topic")
        assert answer.status_code == 500
        assert "\\u003cnow\\u003e" in answer.text
        assert answer.json() == {"status": "error", "error": "kv.sqlite: database is locked <now>"}

        async def breaks(_key):
            raise ZeroDivisionError("unforeseen")

        monkeypatch.setattr(store, "get", breaks)
        answer = await client.get("/api/v1/services/m3db/placement")
        assert answer.status_code == 500
        assert "ZeroDivisionError: unforeseen" in answer.json()["error"]
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_stored_topic_that_cannot_be_read_is_404_on_get_and_500_on_post(client, store):
    await store.set("/topic/namespace/m3db-cluster-name/aggregated_metrics", b"\xff\xff")
    answer = await client.get("/api/v1/topic")
    assert (answer.status_code, answer.json()["error"]) == (404, "unexpected EOF")
    answer = await client.post("/api/v1/topic", json=consumer("x", "SHARED"))
    assert (answer.status_code, answer.json()["error"]) == (500, "unexpected EOF")


async def test_the_router_answers_as_m3s_does(client):
    for method, path in (("PATCH", "/api/v1/topic"), ("HEAD", "/health"), ("OPTIONS", "/api/v1/topic/init")):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.text) == (405, "")
    for path in ("/api/v1/topic/", "/api/v1/services/m3foo/placement", "/nope"):
        answer = await client.get(path)
        assert (answer.status_code, answer.text) == (404, "404 page not found\n")


def test_times_are_printed_as_go_does():
    assert time_since(1_795_373_775_903_507_578, 285_296_055_232) == (
        "2026-11-22 18:56:15.903507578 +0000 UTC m=+285.296055232"
    )
    assert time_since(1_767_323_045_000_000_000, 5) == "2026-01-02 03:04:05 +0000 UTC m=+0.000000005"


async def test_environments_are_those_of_placements_and_topics(client, store):
    assert (await client.get("/api/v1/environments")).json() == {"environments": []}
    await client.post("/api/v1/services/m3aggregator/placement/init", json=AGGREGATOR)
    await client.post("/api/v1/topic/init", json={"numberOfShards": 1}, headers={"Cluster-Environment-Name": "a/b"})
    await client.post("/api/v1/topic/init", json={"numberOfShards": 1})
    await store.set("_kv/other/m3db.query.limits", b"")
    assert (await client.get("/api/v1/environments")).json() == {
        "environments": [
            {"name": "a/b", "has": ["topic aggregated_metrics"]},
            {"name": "namespace/m3db-cluster-name", "has": ["placement m3aggregator", "topic aggregated_metrics"]},
        ]
    }
    answer = await client.get("/api/v1/environments", headers={"Cluster-Zone-Name": "mars"})
    assert (answer.status_code, answer.json()["error"]) == (500, "no etcd cluster found for zone: mars")
