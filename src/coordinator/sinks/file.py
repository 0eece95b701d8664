"""Values as lines of JSON, in a file or on standard output: for trying things out, and for pipes.

A line: ``{"labels": {"__name__": "up", …}, "time_ms": 1767355200000, "value": 1.5, "policy": "10s:48h"}``.

A line that was not written to its end, as its process was killed, stands alone: it is no JSON, and what it had comes again.
``value`` is a text for what JSON has no number for (``NaN``, ``+Inf``, ``-Inf``), ``policy`` is ``unaggregated`` for raw samples. Bytes
that are no UTF-8 become U+FFFD. Of two labels of one name the last one is shown.
"""

import asyncio
import contextlib
import errno
import json
import math
import os
import select
import stat
from pathlib import Path

import numpy as np

from coordinator.sinks.sink import Delivered, Refused, RefusedWhy, TryAgainError
from coordinator.sinks.values import Destination, Values, milliseconds
from coordinator.store import series_tags
from m3metrics.errors import IdError

__all__ = ["FileSink"]

_STDOUT = "-"
_LOOK_EVERY_MS = 100


class FileSink:
    """Appends to ``path`` (``-``: standard output); a file that was moved away or deleted is made anew. ``attributes`` None: takes all."""

    ordered = True
    lanes = 1
    batch_rows = 10_000
    gather_s = 0.0

    def __init__(self, path: str, attributes: frozenset[tuple[int, int]] | None, name: str = "file") -> None:
        self.name = name
        self._path = path
        self._attributes = attributes
        self._fd = -1
        self._closed = False

    def takes(self, destination: Destination) -> bool:
        """See ``Sink``."""
        return self._attributes is None or destination.attributes in self._attributes

    async def deliver(self, batch: Values, *, again: bool) -> Delivered:
        """See ``Sink``. What is given again stands in the file twice, as far as it was written before."""
        data, delivered = _lines(batch)
        try:
            await asyncio.to_thread(self._append, data)
        except OSError as error:
            raise TryAgainError(f"cannot append to {self._named}: {error.strerror or error}") from error
        return delivered

    @property
    def _named(self) -> str:
        return "standard output" if self._path == _STDOUT else self._path

    def _append(self, data: bytes) -> None:
        """All of it or, where it is a file, nothing. Raises ``OSError``."""
        descriptor = self._open()
        before = os.fstat(descriptor)
        is_file = stat.S_ISREG(before.st_mode)
        rest = memoryview(data)
        try:
            while rest:
                if not is_file:
                    self._await_room(descriptor)
                rest = rest[os.write(descriptor, rest if is_file else rest[: select.PIPE_BUF]) :]
        except OSError:
            if is_file:
                # Half a line must not stand before the next one.
                os.ftruncate(descriptor, before.st_size)
            raise

    def _await_room(self, descriptor: int) -> None:
        """Until a pipe takes ``PIPE_BUF`` bytes without blocking: a reader that stands still must not keep the process from ending."""
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while not self._closed:
            if poll.poll(_LOOK_EVERY_MS) and not self._closed:
                return
        raise BlockingIOError(errno.EAGAIN, "its reader takes nothing")

    def _open(self) -> int:
        if self._path == _STDOUT:
            return 1
        if self._fd >= 0 and not self._is_current():
            os.close(self._fd)
            self._fd = -1
        if self._fd < 0:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                if self._ends_within_line(descriptor):
                    os.write(descriptor, b"\n")
            except BaseException:
                os.close(descriptor)
                raise
            self._fd = descriptor
        return self._fd

    def _ends_within_line(self, descriptor: int) -> bool:
        """Whether whoever wrote last died in the middle of it; of what cannot be read that is not known."""
        size = os.fstat(descriptor).st_size
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not size:
            return False
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            file.seek(size - 1)
            return file.read(1) != b"\n"
        return False

    def _is_current(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        return False

    async def close(self) -> None:
        """Closes the file, and gives up what waits for a reader."""
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _lines(batch: Values) -> tuple[bytes, Delivered]:
    """The lines of a batch; ids that are no tag set have none."""
    labels: dict[int, str | None] = {}
    errors: dict[int, str] = {}
    for number in np.unique(batch.series).tolist():
        try:
            labels[number] = _labels(batch.table.id(number))
        except IdError as error:
            labels[number], errors[number] = None, str(error)
    policies = [str(one) for one in batch.destinations]
    lines = [
        f'{{"labels": {text}, "time_ms": {time_ms}, "value": {_value(value)}, "policy": "{policies[destination]}"}}\n'
        for number, time_ms, value, destination in zip(
            batch.series.tolist(),
            milliseconds(batch.time_ns).tolist(),
            batch.values.tolist(),
            batch.destination.tolist(),
            strict=True,
        )
        if (text := labels[number]) is not None
    ]
    delivered = Delivered()
    if errors:
        rows = np.flatnonzero(np.isin(batch.series, np.array(list(errors), np.uint32)))
        delivered.refused.append(Refused(RefusedWhy.BAD_ID, rows, errors[int(batch.series[rows[0]])]))
    return "".join(lines).encode(), delivered


def _labels(series_id: bytes) -> str:
    tags = series_tags(series_id, allow_duplicates=True, allow_empty_value=True)
    return json.dumps({_text(name): _text(value) for name, value in tags}, ensure_ascii=False)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _value(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return '"NaN"' if math.isnan(value) else ('"+Inf"' if value > 0 else '"-Inf"')
