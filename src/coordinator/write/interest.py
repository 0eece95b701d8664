"""Which series a rule may match: the tables behind ``interest_kernels``, so that all others never leave compiled code."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.write import kernels
from m3metrics.filters import TagsFilter
from m3metrics.metric import RESERVED_PREFIX
from m3metrics.rules.index import telling_item
from m3x.byte_table import ByteTable

Asked = dict[bytes, set[tuple[int, bytes]]]
"""By label: what is asked of its value, a length of ``interest_kernels`` and the bytes."""


@dataclass(frozen=True, slots=True)
class Interest:
    """The tables for one state of the rules; layouts in ``interest_kernels.interesting``."""

    tags: np.uint64
    lengths: NDArray[np.int32]
    values: np.uint64
    tables: tuple[ByteTable, ByteTable]
    """What the addresses ``tags`` and ``values`` belong to."""

    @classmethod
    def none(cls) -> "Interest":
        """No series is interesting."""
        return _interest(ByteTable(), [], ByteTable())

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
    tags, values = ByteTable(), ByteTable()
    lengths: list[int] = []
    for tag, wanted in asked.items():
        first = len(lengths)
        tags.add([tag], [first])
        lengths += [*sorted({length for length, _ in wanted}), kernels.END]
        told = [(length, value) for length, value in wanted if length != kernels.PRESENT]
        contexts = [kernels.asked_context(first, length) for length, _ in told]
        values.add([value for _, value in told], [0] * len(told), np.array(contexts, np.uint64))
    return _interest(tags, lengths, values)


def _interest(tags: ByteTable, lengths: list[int], values: ByteTable) -> Interest:
    return Interest(tags.address, np.array(lengths, np.int32), values.address, (tags, values))
