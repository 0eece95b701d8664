"""What the body of a remote write is, by its headers: ``Content-Type`` and ``Content-Encoding``.

M3 looks at neither, and takes what it can read whatever they say (golden/coordinator/write_to_m3msg.jsonl has such a request). So here they
decide nothing about a body that is a WriteRequest in snappy; one that is none is refused for what they say rather than for its first broken
byte. Remote Write 2.0 is told by its type alone; a type that names any other message is refused, so that its sender comes again with one
of these.
"""

from collections.abc import Mapping
from functools import lru_cache

MESSAGE_2 = "io.prometheus.write.v2.Request"
UNDERSTOOD = (
    f"Remote Write 1.0 and 2.0 are: Content-Type: application/x-protobuf;proto=prometheus.WriteRequest or proto={MESSAGE_2}, "
    "Content-Encoding: snappy or zstd"
)
ZSTD = "zstd"
_TYPE = "application/x-protobuf"
_UNSAID = {"", "application/x-www-form-urlencoded"}
"""The second is what curl and others send when nobody has said anything."""
_MESSAGE = "prometheus.WriteRequest"


def is_remote_write_2(headers: Mapping[str, str]) -> bool:
    """Whether the body is said to be a request of Remote Write 2.0."""
    return _type_of(headers) == (_TYPE, MESSAGE_2)


def names_other_message(headers: Mapping[str, str]) -> bool:
    """Whether the body is said to be a message that nobody here can read."""
    return _type_of(headers)[1] not in {"", _MESSAGE, MESSAGE_2}


def encoding_of(headers: Mapping[str, str]) -> str:
    """``Content-Encoding``."""
    return headers.get("Content-Encoding", "").strip().lower()


def unfamiliar(headers: Mapping[str, str]) -> str:
    """What the headers say the body is, where that is nothing we understand; empty: they say what we understand, or nothing."""
    if _type_of(headers)[0] not in _UNSAID | {_TYPE} or names_other_message(headers):
        return f"Content-Type: {headers['Content-Type'].strip()}"
    encoding = encoding_of(headers)
    return "" if encoding in {"", "snappy", ZSTD} else f"Content-Encoding: {encoding}"


def _type_of(headers: Mapping[str, str]) -> tuple[str, str]:
    """The media type and its parameter ``proto``."""
    return _read_type(headers.get("Content-Type", ""))


@lru_cache(maxsize=16)
def _read_type(text: str) -> tuple[str, str]:
    kind, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "proto":
            return kind.lower(), value.strip().strip('"')
    return kind.lower(), ""
