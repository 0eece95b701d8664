import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3cluster.proto import DecodeError
from m3cluster.topic import (
    ConsumerService,
    ConsumptionType,
    Filters,
    ServiceID,
    Topic,
    TopicError,
    decode_topic,
    encode_topic,
    validate_topic,
)
from m3metrics.shard import MAX_SHARDS

ENVIRONMENT = "namespace/m3db-cluster-name"
# What the documented set-up leaves in the store (docs/m3/cluster.md, documented set-up).
DOCUMENTED = {
    "aggregator_ingest": (
        "ChFhZ2dyZWdhdG9yX2luZ2VzdBBAGkAKNQoMbTNhZ2dyZWdhdG9yEhtuYW1lc3BhY2UvbTNkYi1jbHVzdGVyLW5hbWUaCGVtYmVkZGVkEAIYgPCSy90I",
        ServiceID("m3aggregator", ENVIRONMENT, "embedded"),
        ConsumptionType.REPLICATED,
    ),
    "aggregated_metrics": (
        "ChJhZ2dyZWdhdGVkX21ldHJpY3MQQBpBCjYKDW0zY29vcmRpbmF0b3ISG25hbWVzcGFjZS9tM2RiLWNsdXN0ZXItbmFtZRoIZW1iZWRkZWQQARiA8JLL3Qg=",
        ServiceID("m3coordinator", ENVIRONMENT, "embedded"),
        ConsumptionType.SHARED,
    ),
}

names = st.text(max_size=8)
filters = st.builds(
    Filters,
    storage_policies=st.none() | st.lists(names, max_size=2).map(tuple),
    percentage=st.none() | st.floats(allow_nan=False),
    shard_set=st.none() | names,
)
routed = st.builds(
    Filters, routing_traffic_types=st.lists(names, max_size=2).map(tuple), routing_is_default=st.booleans()
)
consumers = st.builds(
    ConsumerService,
    service_id=st.builds(ServiceID, names, names, names),
    consumption_type=st.sampled_from([ConsumptionType.SHARED, ConsumptionType.REPLICATED]),
    message_ttl_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    filters=st.none() | filters | routed,
)
topics = st.builds(
    Topic,
    name=names,
    number_of_shards=st.integers(0, MAX_SHARDS),
    consumer_services=st.lists(consumers, max_size=3).map(tuple),
    version=st.integers(0, 99),
)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_topics_have_the_bytes_that_go_leaves(name):
    text, service, consumption = DOCUMENTED[name]
    data = base64.b64decode(text)
    topic = Topic(name, 64, (ConsumerService(service, consumption, 300_000_000_000),), 2)
    assert decode_topic(data, 2) == topic
    assert encode_topic(topic) == data


@given(topics)
def test_what_is_written_is_read_back(topic):
    assert decode_topic(encode_topic(topic), topic.version) == topic


def test_no_bytes_are_an_empty_topic_and_bad_bytes_an_error():
    assert decode_topic(b"", 1) == Topic("", 0, (), 1)
    with pytest.raises(DecodeError, match="topicpb.Topic"):
        decode_topic(b"\xff\xff", 1)


@pytest.mark.parametrize(("number", "name"), [(0, "UNKNOWN"), (7, "7")])
def test_a_consumer_without_a_known_type_is_refused(number, name):
    consumer = bytes([0x10, number]) if number else b""
    with pytest.raises(TopicError, match=f"^invalid consumption type in protobuf: {name}$"):
        decode_topic(b"\x1a" + bytes([len(consumer)]) + consumer, 1)


def consumer(name="a", **filter_fields):
    made = Filters(**filter_fields) if filter_fields else None
    return ConsumerService(ServiceID(name, "e", "z"), ConsumptionType.SHARED, filters=made)


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        (Topic("", 1), "invalid topic: empty name"),
        (Topic("t", 0), "invalid topic: zero shards"),
        (Topic("t", 1, (consumer(), consumer("b"), consumer())), "duplicated consumer [name: a, env: e, zone: z]"),
        (Topic("t", 1, (consumer(shard_set=""),)), "empty shard set in filter for consumer [name: a"),
        (Topic("t", 1, (consumer(percentage=0.0),)), "invalid percentage in filter"),
        (Topic("t", 1, (consumer(percentage=100.0),)), "invalid percentage in filter"),
        (Topic("t", 1, (consumer(percentage=float("inf")),)), "invalid percentage in filter"),
        (Topic("t", 1, (consumer(storage_policies=()),)), "empty storage policy filter"),
        (Topic("t", 1, (consumer(storage_policies=("1m:1d", "")),)), "empty storage policy in filter"),
    ],
)
def test_what_m3_refuses_is_refused(topic, message):
    with pytest.raises(TopicError) as raised:
        validate_topic(topic)
    assert message in str(raised.value)


def test_a_usual_topic_is_valid():
    full = consumer(percentage=50.0, shard_set="0..3", storage_policies=("1m:1d",), routing_traffic_types=())
    validate_topic(Topic("t", 1, (consumer("b"), full)))
    assert msgspec.structs.replace(full, filters=None) == consumer()
