"""The protobuf messages of the cluster layer, described once as tables and used for bytes and for JSON.

Bytes are those of ``m3x.protobuf``, and the admin API's JSON follows Go's jsonpb down to its error texts; both come from one table here.

``messages``  the tables: placementpb, topicpb, commonpb, flush times, the admin requests (open this first)
``rules``     the tables of rule sets
``family``    the rules that all of them are read and written by
``jsonpb``    table + dict ↔ JSON text as Go's jsonpb reads and writes it
``textpb``    table + dict → the text that Go prints of a message

``decode`` and ``encode`` are ``m3x.protobuf``'s ``unmarshal`` and ``marshal``.

A message value is a ``dict`` from proto field name to value: numbers, ``str``, ``bytes``, ``bool``, lists,
dicts for maps, dicts for messages, ``None`` for an absent message.
"""

from m3cluster.proto.jsonpb import JSONError, parse_json, render_json
from m3cluster.proto.textpb import render_text
from m3x.protobuf import DecodeError, Enum, Field, Kind, Message, MessageValue
from m3x.protobuf import marshal as encode
from m3x.protobuf import unmarshal as decode

__all__ = [
    "DecodeError",
    "Enum",
    "Field",
    "JSONError",
    "Kind",
    "Message",
    "MessageValue",
    "decode",
    "encode",
    "parse_json",
    "render_json",
    "render_text",
]
