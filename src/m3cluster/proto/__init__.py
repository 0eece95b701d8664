"""The protobuf messages of the cluster layer, described once as tables and used for bytes and for JSON.

Own code instead of the protobuf runtime: the stored bytes must be laid out as Go's generated code lays them out (ascending fields, map
keys and values always present), the admin API's JSON follows Go's jsonpb down to its error texts, and both come from one table here,
without generated modules and without a compiler at build time.

``schema``    what a message table is made of
``messages``  the tables: placementpb, topicpb, commonpb, flush times, the admin requests (open this first)
``wire``      table + dict ↔ bytes
``jsonpb``    table + dict ↔ JSON text as Go's jsonpb reads and writes it

Imports nothing of the project. A message value is a ``dict`` from proto field name to value: numbers, ``str``, ``bytes``, ``bool``, lists,
dicts for maps, dicts for messages, ``None`` for an absent message.
"""

from m3cluster.proto.jsonpb import JSONError, parse_json, render_json
from m3cluster.proto.schema import Enum, Field, Kind, Message, MessageValue
from m3cluster.proto.wire import DecodeError, decode, encode

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
]
