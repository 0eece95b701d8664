"""Whether a store answers: said aloud once when it does not, again while that lasts, and once when it answers again."""

import time

from m3x.log import logger

__all__ = ["Contact"]

log = logger(__name__)

_PATIENCE_S = 2.0
"""How long a question may be open before that is worth a word."""


class Contact:
    """What is known of one store, whose ``name`` is for people: ``etcd dbnode01:2379``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since_s: float | None = None
        self._at = ""
        self._error = ""

    def asked(self) -> None:
        """Something was asked; without an answer, that is trouble soon."""
        self._begin()

    def failed(self, error: str) -> None:
        """It did not answer, or with nothing that can be used."""
        first = not self._error
        self._begin()
        self._error = error
        if first:
            log.warning("waiting for the store; what is known already stays in use", store=self._name, error=error)
        else:
            log.warning_limited("still waiting for the store", per_second=0.1, store=self._name, **self._wait())

    def answered(self) -> None:
        """It answers."""
        if self._error:
            log.info("the store answers again", store=self._name, seconds=self._seconds())
        self._since_s, self._error = None, ""

    def trouble(self) -> str | None:
        """One line for people while it does not answer; None: it does."""
        if self._since_s is None or (not self._error and self._seconds() < _PATIENCE_S):
            return None
        error = self._error or "no answer yet"
        return f"waiting for {self._name} since {self._at} UTC: {error}"

    def _begin(self) -> None:
        if self._since_s is None:
            self._since_s = time.monotonic()
            self._at = time.strftime("%H:%M:%S", time.gmtime())

    def _seconds(self) -> float:
        return 0.0 if self._since_s is None else round(time.monotonic() - self._since_s, 1)

    def _wait(self) -> dict[str, object]:
        return {"since": f"{self._at} UTC", "seconds": self._seconds(), "error": self._error}
