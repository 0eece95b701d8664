"""What aggregators say that they refused, over all their lives: figures end with the process, so they are read again and again."""

import http.client
import re
import threading
from collections import Counter
from collections.abc import Iterable

from lab.http import get
from lab.instances import Aggregator

__all__ = ["Refusals"]

_EVERY_S = 0.5
_ERRORS = re.compile(r'^\w*_(add\w+)_errors\w*\{.*?reason="([^"]*)".*\} (\S+)$', re.MULTILINE)


class Refusals:
    """Reads the metrics pages of ``aggregators`` in a thread until it is closed."""

    def __init__(self, aggregators: Iterable[Aggregator]) -> None:
        self._aggregators = list(aggregators)
        self._last: dict[str, Counter[str]] = {one.name: Counter() for one in self._aggregators}
        self._before: Counter[str] = Counter()
        """Of lives that have ended."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)
        self._thread.start()

    def by_reason(self) -> dict[str, int]:
        """``addTimed too-far-in-the-past`` … and how often, without what nobody refused."""
        total = self._before.copy()
        for last in self._last.values():
            total += last
        return {reason: count for reason, count in sorted(total.items()) if count}

    def close(self) -> None:
        """Ends reading."""
        self._end.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._end.wait(_EVERY_S):
            for one in self._aggregators:
                try:
                    status, text = get(one.metrics_url, 2.0)
                except (OSError, http.client.HTTPException):
                    continue
                if status == 200:
                    self._read(one.name, text)

    def _read(self, name: str, text: str) -> None:
        now = Counter({f"{what} {reason}": int(float(count)) for what, reason, count in _ERRORS.findall(text)})
        if any(now[reason] < count for reason, count in self._last[name].items()):
            self._before += self._last[name]
        self._last[name] = now
