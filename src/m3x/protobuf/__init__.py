"""Protobuf's wire format: one vocabulary for messages, one plain codec, one set of compiled readers and writers.

``schema``   what a message table is made of: ``Message``, ``Field``, ``Kind``, and the ``Rules`` of its family, such as those of messages
             that generated code reads in M3 (``generated``); open this first
``plain``    ``marshal``, ``unmarshal``, ``varint``: the authority
``reading``  compiled: varint, length, tag, skipping; for ``GENERATED`` messages
``writing``  compiled: varint, length, fields, their sizes
``words``    compiled: the seven bits a byte of a varint, together and apart

The compiled modules are imported from where they are, so that whoever needs a table only does not load numba.

Own code instead of the protobuf runtime: bytes must be laid out as Go's generated code lays them out, errors have Go's texts, and the hot
paths are compiled. The tables of messages stay with the packages that own them: ``m3metrics.codec.messages``, ``m3cluster.proto``,
``m3msg.frames``, ``coordinator.prompb``, ``coordinator.query.remote_read``. Imports nothing of the project but ``m3x``.

What differs between the families of messages is named by a field of ``Rules``; there is one test per row in
``tests/m3x/protobuf/test_differences.py``.

| bytes | ``GENERATED``: metrics, m3msg, Prometheus | default: KV, admin API, etcd | option |
|---|---|---|---|
| tenth byte of a varint above 1 | the low 64 bits count | the same | |
| eleventh byte of a varint | ``proto: integer overflow`` | the same | |
| the end inside a field | ``unexpected EOF`` | the same | |
| length of 2^63 and more | ``negative length`` | ``unexpected EOF`` | ``negative_lengths`` |
| unknown group | skipped, nested ones too | ``illegal wireType 3`` | ``groups`` |
| end of a group without its start | ``wiretype end group for non-group`` | ``illegal wireType 4`` | ``groups`` |
| field number | low 32 bits of the tag, signed; 0 or less is illegal | the whole tag; 0 or 2^29 and more is illegal | ``narrow_numbers`` |
| known field of a wrong wire type | ``wrong wireType``, before its content is read | the same, behind it | ``wire_type_first`` |
| message field that occurs again | merges | replaces | ``merge`` |
| scalar or bytes that occur again | replaces | the same | |
| unknown field | skipped, not kept | the same | |
| absent field | absent | has its default | ``defaults`` |
| absent message on writing | written if Go holds it by value | left out | ``Field.embedded`` |
| packed doubles, size no multiple of eight | read on to the end of the last | ``unexpected EOF`` | ``odd_runs`` |
| map entry without its message | ``None`` | the same | |
| map entry, wire type of key and value | not looked at | wrong one is refused | ``odd_entries`` |
| number outside its type on writing | cut to 64 bits | ``ValueError`` | ``ranges`` |
| error | the text alone | the message, the text and where | ``error`` |
"""

from m3x.protobuf.plain import WireError, marshal, read_varint, unmarshal, varint
from m3x.protobuf.schema import GENERATED, DecodeError, Enum, Field, Kind, Message, MessageValue, Rules, generated

__all__ = [
    "GENERATED",
    "DecodeError",
    "Enum",
    "Field",
    "Kind",
    "Message",
    "MessageValue",
    "Rules",
    "WireError",
    "generated",
    "marshal",
    "read_varint",
    "unmarshal",
    "varint",
]
