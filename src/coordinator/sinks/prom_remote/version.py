"""Which version of remote write an endpoint is sent: 2.0 where it is asked for, and 1.0 for a while once it was not taken."""

import time
from collections.abc import Callable, Mapping

from coordinator.sinks.prom_remote.answers import Answer, Kind
from m3x.log import logger

__all__ = ["AGAIN_S", "VERSION_2", "Version"]

VERSION_2: Mapping[str, str] = {
    "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
    "X-Prometheus-Remote-Write-Version": "2.0.0",
}
"""Headers of such requests."""
AGAIN_S = 600.0
"""After so long an endpoint is asked again: it may have been replaced by a newer one."""

log = logger(__name__)


class Version:
    """Of one endpoint. ``wanted``: whether it is to be 2.0; ``shown``: its address, for the log."""

    def __init__(self, wanted: bool, shown: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._wanted = wanted
        self._shown = shown
        self._clock = clock
        self._until_s = float("-inf")

    @property
    def is_2(self) -> bool:
        """Whether the next request is one of 2.0."""
        return self._wanted and self._clock() >= self._until_s

    def refused(self, answer: Answer) -> bool:
        """Whether a request of 2.0 was not understood; the next ones are of 1.0 then.

        Besides 415 that is an answer which does not say how much was written: who knows only 1.0 may find nothing in such a body, and call
        that a success.
        """
        misread = answer.kind in (Kind.STORED, Kind.REFUSED) and not answer.written
        if not (answer.unsupported or misread):
            return False
        if self.is_2:
            log.info(
                f"{self._shown} does not take Remote Write 2.0 and is sent 1.0",
                answer=answer.text or "success, without a word about how much was written",
                again_in_s=AGAIN_S,
            )
        self._until_s = self._clock() + AGAIN_S
        return True
