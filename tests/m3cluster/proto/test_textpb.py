"""Messages as Go prints them."""

import pytest

from m3cluster.proto import Field, Kind, Message, render_text
from m3cluster.proto.messages import CONSUMER_SERVICE, PLACEMENT_INIT_REQUEST


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, ""),
        ({"service_id": {}}, "service_id:<> "),
        ({"service_id": {"name": "a b", "zone": 'c"x\\'}}, 'service_id:<name:"a b" zone:"c\\"x\\\\" > '),
        ({"service_id": {"name": "\u00e9\n\x01"}}, 'service_id:<name:"\\303\\251\\n\\001" > '),
        ({"consumption_type": 1, "message_ttl_nanos": -4}, "consumption_type:SHARED message_ttl_nanos:-4 "),
        ({"consumption_type": 7}, "consumption_type:7 "),
        ({"filters": {"percentage_filter": {"percentage": 1e6}}}, "filters:<percentage_filter:<percentage:1e+06 > > "),
        ({"filters": {"percentage_filter": {"percentage": float("nan")}}}, "filters:<percentage_filter:<percentage:nan > > "),
        (
            {"filters": {"storage_policy_filter": {"storage_policies": ["a", ""]}, "routing_policy_filter": {"is_default": True}}},
            'filters:<storage_policy_filter:<storage_policies:"a" storage_policies:"" > routing_policy_filter:<is_default:true > > ',
        ),
    ],
)  # fmt: skip
def test_messages_are_printed_as_go_does(value, text):
    assert render_text(CONSUMER_SERVICE, value) == text


def test_a_wrapped_number_and_bytes():
    assert render_text(PLACEMENT_INIT_REQUEST, {"option_override": {"is_sharded": {"value": True}}}) == (
        "option_override:<is_sharded:<value:true > > "
    )
    assert render_text(Message("t", (Field(1, "data", Kind.BYTES),)), {"data": b"\xff"}) == 'data:"\\377" '
