"""Which series a rule may match: the tables behind ``interest_kernels``, so that all others never leave compiled code."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.write import kernels
from m3metrics.filters import TagsFilter
from m3metrics.metric import RESERVED_PREFIX
from m3metrics.rules.index import telling_item

Asked = dict[bytes, set[tuple[int, bytes]]]
"""By label: what is asked of its value, a length of ``interest_kernels`` and the bytes."""


@dataclass(frozen=True, slots=True)
class Interest:
    """The tables for one state of the rules."""

    tags: NDArray[Any]
    lengths: NDArray[np.int32]
    values: NDArray[np.uint64]

    @classmethod
    def none(cls) -> "Interest":
        """No series is interesting."""
        return cls(np.empty(0, kernels.TAG), np.empty(0, np.int32), np.zeros(1, np.uint64))

    @classmethod
    def of(cls, filters: Iterable[TagsFilter]) -> "Interest | None":
        """For rules with these filters; None: every series is interesting."""
        asked: Asked = {}
        for one in filters:
            # Labels of the series only: the tags that rules see besides them are made later.
            item = telling_item(one, lambda tag: not tag.startswith(RESERVED_PREFIX))
            if item is None:
                return None
            tag, pattern = item
            wanted = (kernels.PRESENT, b"")
            if pattern.equals is not None:
                wanted = (kernels.WHOLE, pattern.equals)
            elif pattern.prefix:
                wanted = (len(pattern.prefix), pattern.prefix)
            asked.setdefault(tag, set()).add(wanted)
        return _tables(asked) if asked else cls.none()


def _tables(asked: Asked) -> Interest:
    tags = np.zeros(_room(len(asked)), kernels.TAG)
    values = np.zeros(_room(sum(map(len, asked.values()))), np.uint64)
    lengths: list[int] = []
    for tag, wanted in asked.items():
        name = int(kernels.name_hash(_array(tag), 0, len(tag)))
        different = sorted({length for length, _ in wanted})
        slot = _free(tags["count"], name)
        tags[slot] = (name, len(lengths), len(different))
        lengths += different
        for length, value in wanted:
            if length != kernels.PRESENT:
                h = int(kernels.value_hash(_array(value), 0, len(value), np.uint64(name), length))
                values[_free(values, h)] = h
    return Interest(tags, np.array(lengths, np.int32), values)


def _array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(data) or bytearray(1), np.uint8)


def _room(entries: int) -> int:
    """Slots: a power of two, at least twice the entries."""
    return 1 << (2 * entries).bit_length()


def _free(used: NDArray[Any], h: int) -> int:
    """The first free slot from ``h`` on."""
    mask = len(used) - 1
    slot = h & mask
    while used[slot]:
        slot = (slot + 1) & mask
    return slot
