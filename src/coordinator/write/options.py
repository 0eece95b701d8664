"""The headers of a remote write and what they ask for (docs/m3/coordinator.md, headers of a write)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.write.attributes import PromType, parse_prom_type
from coordinator.write.media import UNDERSTOOD, ZSTD, encoding_of, is_remote_write_2, names_other_message, unfamiliar
from m3cluster.proto.jsonpb import sound
from m3metrics.errors import PolicyError
from m3metrics.policy import StoragePolicy

METRICS_TYPE = "M3-Metrics-Type"
STORAGE_POLICY = "M3-Storage-Policy"
WRITE_TYPE = "M3-Write-Type"
MAP_TAGS = "M3-Map-Tags-JSON"
PROM_TYPE = "Prometheus-Metric-Type"
REMOTE_WRITE_2 = "2.0"
"""The dialect of Remote Write 2.0."""


class BadRequestError(ValueError):
    """The request cannot be accepted as it is; answered with ``status`` and this text."""

    status = 400
    headers: Mapping[str, str] = {}
    """Of the answer."""


class TooLargeBodyError(BadRequestError):
    """The body has more bytes than one request may have; the text says how many."""

    status = 413

    def __init__(self, most: int) -> None:
        super().__init__(f"the body has more than {most} bytes; send fewer samples in a request")


class UnsupportedMediaError(BadRequestError):
    """The body is not what can be read here; the text names what can."""

    status = 415

    def __init__(self, found: str, understood: str = UNDERSTOOD) -> None:
        super().__init__(f"{found} is not understood; {understood}")


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What the headers of one request say; the default: rules and auto-mapping, and the unaggregated namespace."""

    downsample: bool = True
    """Whether samples go to the aggregators."""
    store: bool = True
    """Whether samples are written to storage at once: to ``policy``, or unaggregated."""
    policy: StoragePolicy | None = None
    map_tags: tuple[tuple[bytes, bytes], ...] = ()
    """Labels to replace, or to add."""
    prom_type: PromType | None = None
    """The type of every series of the request."""
    unfamiliar: str = ""
    """What the headers say the body is, where that is not understood."""
    dialect: str = ""
    """How the body is to be read, where a sender's protocol has several ways."""
    encoding: str = ""
    """Of the body: ``gzip`` or nothing; of remote writes ``zstd`` or nothing, which is snappy."""


def parse_options(headers: Mapping[str, str], *, dialect: str | None = None, encoding: str = "") -> WriteOptions:
    """``headers`` are looked up in M3's spelling. ``dialect``: of another protocol than remote write; None: it is that.

    Raises ``BadRequestError`` with M3's text.
    """
    unknown = ""
    if dialect is None:
        unknown = unfamiliar(headers)
        if names_other_message(headers):
            raise UnsupportedMediaError(unknown)
        dialect = REMOTE_WRITE_2 if is_remote_write_2(headers) else ""
        encoding = ZSTD if encoding_of(headers) == ZSTD else ""
    downsample, store, policy = True, True, None
    metrics_type = headers.get(METRICS_TYPE, "").strip()
    if metrics_type == "unaggregated":
        if headers.get(STORAGE_POLICY, "").strip():
            raise BadRequestError("storage policy should not be set for unaggregated metrics")
        downsample = False
    elif metrics_type == "aggregated":
        downsample = False
        try:
            policy = StoragePolicy.parse(headers.get(STORAGE_POLICY, "").strip())
        except PolicyError as error:
            raise BadRequestError(f"could not parse storage policy: {error}") from error
    elif metrics_type:
        raise BadRequestError(f"unrecognized metrics type: {metrics_type}")
    write_type = headers.get(WRITE_TYPE, "").strip()
    if write_type == "aggregate":
        store, policy = False, None
    elif write_type not in {"", "default"}:
        raise BadRequestError(f"unrecognized write type: {write_type}")
    map_tags = _map_tags(headers.get(MAP_TAGS, ""))
    return WriteOptions(downsample, store, policy, map_tags, _prom_type(headers), unknown, dialect, encoding)


def content_encoding(headers: Mapping[str, str]) -> str:
    """``gzip``, or nothing. Raises ``UnsupportedMediaError``."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity", "gzip"}:
        raise UnsupportedMediaError(f"Content-Encoding: {encoding}", "gzip is, and a body as it is")
    return encoding if encoding == "gzip" else ""


def _prom_type(headers: Mapping[str, str]) -> PromType | None:
    text = headers.get(PROM_TYPE, "").strip()
    if not text:
        return None
    try:
        return parse_prom_type(text)
    except ValueError as error:
        raise BadRequestError(str(error)) from error


def _map_tags(text: str) -> tuple[tuple[bytes, bytes], ...]:
    if not text.strip():
        return ()
    try:
        document = json.loads(text)
        mappers = document.get("tagMappers") or []
        operations = [{key: value for key, value in mapper.items() if value is not None} for mapper in mappers]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise BadRequestError(f"{MAP_TAGS} is not a JSON object with a list tagMappers of objects: {error}") from error
    result = []
    for operation in operations:
        if len(operation) != 1:
            raise BadRequestError(f"must specify one operation per tag mapper (got {len(operation)})")
        kind, content = next(iter(operation.items()))
        kind = sound(kind)
        if kind != "write":
            raise BadRequestError(f"{kind[:1].upper()}{kind[1:]} operation is not yet supported")
        tag, value = (content.get("tag", ""), content.get("value", "")) if isinstance(content, dict) else (None, None)
        if not isinstance(tag, str) or not isinstance(value, str):
            raise BadRequestError(f"{MAP_TAGS}: write needs texts tag and value")
        result.append((sound(tag).encode(), sound(value).encode()))
    return tuple(result)


def apply_map_tags(labels: list[tuple[bytes, bytes]], map_tags: tuple[tuple[bytes, bytes], ...]) -> None:
    """Replaces the value of every label of that name, or appends the label."""
    for name, value in map_tags:
        found = [index for index, label in enumerate(labels) if label[0] == name]
        for index in found:
            labels[index] = (name, value)
        if not found:
            labels.append((name, value))
