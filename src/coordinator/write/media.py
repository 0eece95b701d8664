"""What the body of a remote write is, by its headers: ``Content-Type`` and ``Content-Encoding``.

M3 looks at neither, and takes what it can read whatever they say (golden/coordinator/write_to_m3msg.jsonl has such a request). So here they
decide nothing about a body that is a WriteRequest; one that is none is refused for what they say rather than for its first broken byte.
Remote Write 2.0 is told by its type alone: its sender then comes again with 1.0.
"""

from collections.abc import Mapping

UNDERSTOOD = (
    "Remote Write 1.0 is: Content-Type: application/x-protobuf;proto=prometheus.WriteRequest, Content-Encoding: snappy"
)
_TYPE = "application/x-protobuf"
_UNSAID = {"", "application/x-www-form-urlencoded"}
"""The second is what curl and others send when nobody has said anything."""
_MESSAGE = "prometheus.WriteRequest"
_MESSAGE_2 = "io.prometheus.write.v2.Request"
_ENCODING = "snappy"


def is_remote_write_2(headers: Mapping[str, str]) -> bool:
    """Whether the body is said to be a request of Remote Write 2.0."""
    return _type_of(headers)[1] == _MESSAGE_2


def unfamiliar(headers: Mapping[str, str]) -> str:
    """What the headers say the body is, where that is nothing we understand; empty: they say what we understand, or nothing."""
    kind, message = _type_of(headers)
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if kind not in _UNSAID | {_TYPE} or message not in {"", _MESSAGE}:
        return f"Content-Type: {headers['Content-Type'].strip()}"
    return "" if encoding in {"", _ENCODING} else f"Content-Encoding: {encoding}"


def _type_of(headers: Mapping[str, str]) -> tuple[str, str]:
    """The media type and its parameter ``proto``."""
    kind, *parameters = (part.strip() for part in headers.get("Content-Type", "").split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "proto":
            return kind.lower(), value.strip().strip('"')
    return kind.lower(), ""
