"""Keys as paths of ZooKeeper nodes: the key's segments are folders, its last one is the node that holds the value.

ZooKeeper has no empty segments, reserves ``.``, ``..`` and ``/zookeeper`` and refuses control characters; a node that is a folder and a
value at once could not be deleted while it has children. So a key is spelled like this, and every key has exactly one path:

=================================  ==========================  =====================================================
key                                path below the chroot       because
=================================  ==========================  =====================================================
``_kv/prod/shardset/0/flush``      ``/_kv/prod/shardset/0/flush=``  the node with the value ends in ``=``, no folder does
``/topic/prod/ingest``             ``/%/topic/prod/ingest=``   an empty segment is ``%``
``a=b/50%``                        ``/a%3Db/50%25=``           other characters are the percent-encoded bytes of UTF-8
=================================  ==========================  =====================================================

Nodes whose names are not spelled so are somebody else's and are not looked at.
"""

import re
from urllib.parse import unquote_to_bytes

__all__ = ["Paths"]

_VALUE = "="
_EMPTY = "%"
_CLOCK = "%clock"
"""No key has this path: ``%`` is followed by two hexadecimal digits or by nothing."""
_UNSAFE = re.compile("[^ -$&-<>-~\u00a0-\ud7ff\uf900-\uffef]")


def _escape(match: "re.Match[str]") -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def _encode(segment: str, *, first: bool) -> str:
    if segment in (".", "..") or (first and segment == "zookeeper"):
        return f"%{ord(segment[0]):02X}{segment[1:].replace('.', '%2E')}"
    return _UNSAFE.sub(_escape, segment)


def _decode(name: str, *, first: bool) -> str | None:
    """The segment that is spelled ``name``; None if there is none."""
    segment = unquote_to_bytes(name).decode("utf-8", "surrogateescape")
    return segment if _encode(segment, first=first) == name else None


class Paths:
    """The paths below one chroot (``/m3``, or empty for the root)."""

    def __init__(self, chroot: str) -> None:
        self._chroot = chroot

    @property
    def top(self) -> str:
        """The folder that all nodes are in."""
        return self._chroot or "/"

    @property
    def clock(self) -> str:
        """The node whose version counts the keys that were created."""
        return f"{self._chroot}/{_CLOCK}"

    def folder(self, segments: list[str]) -> str:
        """The folder of keys that begin with these segments."""
        names = (_encode(segment, first=not place) or _EMPTY for place, segment in enumerate(segments))
        return "".join((self._chroot, *(f"/{name}" for name in names))) or "/"

    def value(self, key: str) -> str:
        """The node that holds the value of ``key``."""
        *segments, last = key.split("/")
        folder = self.folder(segments)
        return f"{'' if folder == '/' else folder}/{_encode(last, first=False)}{_VALUE}"

    def parents(self, path: str) -> list[str]:
        """The folders that ``path`` needs, outermost first."""
        parts = path.split("/")[1:-1]
        return ["/" + "/".join(parts[: depth + 1]) for depth in range(len(parts))]

    def read(self, name: str, *, first: bool) -> tuple[str, bool] | None:
        """The segment that a child of a folder stands for and whether it holds a value; None for a node that is not ours.

        ``first``: the folder is the top.
        """
        if name == _EMPTY:
            return "", False
        holds = name.endswith(_VALUE)
        segment = _decode(name.removesuffix(_VALUE), first=first and not holds)
        if segment is None or not (segment or holds):
            return None
        return segment, holds
