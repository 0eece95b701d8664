"""Compiles the kernels of writes, or loads them from numba's cache."""

import numpy as np

from m3db.connection import MessageIds
from m3db.thrift import marshal
from m3db.write.answers import element_errors
from m3db.write.forms import FormRules, SeriesForms
from m3db.write.requests import WRITE, encode_calls
from m3db.write.rows import WriteRows
from m3metrics.ids import encode_tags
from m3x.byte_table import ByteTable

__all__ = ["warm"]


class _Series:
    """A table of a few series."""

    def __init__(self, count: int) -> None:
        self._ids = ByteTable()
        self._ids.add([encode_tags([(b"a", b"%d" % number)]) for number in range(count)], range(count))
        self.ids = self._ids.ranges
        self.id = self._ids.key

    def __len__(self) -> int:
        return len(self._ids)


def warm() -> None:
    """Calls every kernel once with the dtypes of the service."""
    one = np.zeros(1, np.uint16)
    series = np.zeros(1, np.uint32)
    # The columns of a table are strided, but to numpy those of a single series are not.
    for count in (1, 2):
        forms = SeriesForms(FormRules(shards=1), reserved_bytes=1 << 16)
        forms.require(_Series(count), series)
    rows = WriteRows(
        forms, series, (b"n",), one, np.zeros(1, np.int64), np.zeros(1, np.uint8), np.zeros(1), (b"",), one
    )
    encode_calls(rows, None, MessageIds().reserve, 1)
    body = marshal(WRITE.result, {"err": {"errors": [{"index": 0, "err": {"type": 0, "message": b""}}]}})
    element_errors(1, body, 1)
