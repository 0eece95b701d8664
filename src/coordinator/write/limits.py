"""What one tenant may send over HTTP (docs/sending.md, "Limits"), whatever the protocol.

A request is a *visit* of the limiter: its tenant has an account. What is wrong with the whole of it raises (413, 429); series that are
beyond a limit are taken out of it, and the others go on. A request that its sender has to bring again costs it nothing.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator import prompb
from coordinator.config.write_limits import WriteLimitsConfig
from coordinator.not_kept import Reason
from coordinator.write import kernels
from coordinator.write.active_series import PERIOD_S, ActiveSeries
from coordinator.write.decoding import Decoded
from coordinator.write.options import BadRequestError
from coordinator.write.outcome import Outcome
from m3metrics.ids import readable_tags
from m3x.instrument import Scope
from m3x.protobuf import DecodeError

__all__ = ["Limiter", "Limits", "TooFastError", "TooManyError", "Visit"]

ANONYMOUS = "anonymous"
"""Requests without the header."""
OTHER = "other"
"""Tenants beyond ``MOST_TENANTS``, all of them together."""
MOST_TENANTS = 1000
IDLE_S = 2 * PERIOD_S
"""A tenant that has not come for so long has no active series any more, and is forgotten where there are too many."""
_LONGEST_NAME = 150
_BURST_S = 10
_UNBOUNDED = (1 << 63) - 1
_SHOWN = 200


class TooManyError(BadRequestError):
    """A request has more than its tenant may send in one."""

    status = 413


class TooFastError(BadRequestError):
    """A tenant sends more samples a second than it may; the request may come again after ``retry_after_s``."""

    status = 429

    def __init__(self, text: str, retry_after_s: int) -> None:
        super().__init__(text)
        self.headers = {"Retry-After": str(retry_after_s)}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one tenant; 0: none."""

    body_bytes: int = 0
    series: int = 0
    """Of one request."""
    active_series: int = 0
    labels: int = 0
    """Of one series."""
    name_bytes: int = 0
    value_bytes: int = 0
    samples_per_second: float = 0.0
    burst: int = 0
    """Samples that may come at once."""

    @classmethod
    def of(cls, config: WriteLimitsConfig, tenant: str) -> "Limits":
        """Those of a tenant."""
        found = config.of(tenant)
        rate = float(found["max_samples_per_second"])
        return cls(
            int(found["max_body_bytes"]), int(found["max_series_per_request"]), int(found["max_active_series"]),
            int(found["max_labels_per_series"]), int(found["max_label_name_bytes"]), int(found["max_label_value_bytes"]),
            rate, int(found["burst_samples"]) or math.ceil(_BURST_S * rate),
        )  # fmt: skip

    def shared(self, processes: int) -> "Limits":
        """The share of one of so many processes, among which connections are spread: of the rate. A tenant has as many active series in
        each as it may have at all, as a series may come by any of them."""
        return replace(
            self,
            samples_per_second=self.samples_per_second / processes,
            burst=math.ceil(self.burst / processes),
        )


class _Account:
    """What one tenant has used up."""

    def __init__(self, name: str, limits: Limits, scope: Scope, now_s: float) -> None:
        self.name = name
        self.limits = limits
        self.last_s = now_s
        self.active = ActiveSeries(limits.active_series, now_s) if limits.active_series else None
        self._scope = scope
        self._left = float(limits.burst)
        self._at_s = now_s
        self.whole = not (limits.labels or limits.name_bytes or limits.value_bytes)
        """Whether labels need not be looked at."""

    def take(self, limits: Limits, now_s: float) -> None:
        """Other limits from now on. A tenant whose number of active series is another one is counted anew, and has all of its burst where
        there was no rate."""
        before, self.limits = self.limits, limits
        if limits.active_series != before.active_series:
            self.active = ActiveSeries(limits.active_series, now_s) if limits.active_series else None
        self._left = min(self._left, float(limits.burst)) if before.samples_per_second else float(limits.burst)
        self.whole = not (limits.labels or limits.name_bytes or limits.value_bytes)

    def count(self, name: str, reason: str, number: int = 1) -> None:
        """A counter grows."""
        self._scope.tagged(reason=reason).count(name, number)

    def charge(self, samples: int, now_s: float) -> int:
        """Pays for samples; 0, or after how many seconds there is enough for them. A request larger than the burst is paid for later."""
        limits = self.limits
        self._left = min(float(limits.burst), self._left + (now_s - self._at_s) * limits.samples_per_second)
        self._at_s = now_s
        missing = min(samples, limits.burst) - self._left
        if missing > 0:
            return max(1, math.ceil(missing / limits.samples_per_second))
        self._left -= samples
        return 0

    def give_back(self, samples: int) -> None:
        """They were paid for, and have to come again."""
        self._left += samples


class Visit:
    """One request at the limiter."""

    def __init__(self, account: _Account, clock: Callable[[], float]) -> None:
        self._account = account
        self._clock = clock
        self._charged = 0

    @property
    def most_bytes(self) -> int:
        """That its body may have; 0: no limit."""
        return self._account.limits.body_bytes

    def too_large(self) -> TooManyError:
        """Its body has more."""
        self._account.count("limited_requests", "body")
        return TooManyError(
            f"the body has more than {self.most_bytes} bytes, {self._whose()}; send fewer samples in a request"
        )

    def admit(self, request: Decoded, outcome: Outcome) -> Decoded:
        """The request without the series that are beyond a limit. Raises ``TooManyError``, ``TooFastError``."""
        account, limits, now_s = self._account, self._account.limits, self._clock()
        if limits.series and len(request.series) > limits.series:
            account.count("limited_requests", "series")
            raise TooManyError(
                f"the request has {len(request.series)} series, more than {limits.series}, {self._whose()}; send fewer in a request"
            )
        samples = request.samples()
        if limits.samples_per_second:
            if wait_s := account.charge(samples, now_s):
                account.count("limited_requests", "rate")
                account.count("limited_samples", "rate", samples)
                raise TooFastError(
                    f"more than {limits.samples_per_second:g} samples a second, {self._whose()}; "
                    f"nothing was accepted, send it again in {wait_s} s",
                    wait_s,
                )
            self._charged = samples
        if not account.whole:
            request = self._with_small_labels(request, outcome)
        if account.active is not None and len(request.series):
            admitted = account.active.admit(request.buf, request.series, now_s)
            if admitted is not None:
                text = f"there are {limits.active_series} series already, more are not taken"
                request = self._without(request, ~admitted, "active-series", text, outcome)
        return request

    def ended(self, status: int) -> None:
        """With which status it was answered."""
        if status >= 500 and self._charged:
            self._account.give_back(self._charged)

    def _whose(self) -> str:
        return f"the limit of tenant {self._account.name!r}"

    def _with_small_labels(self, request: Decoded, outcome: Outcome) -> Decoded:
        limits = self._account.limits
        found = np.zeros(len(request.series), np.uint8)
        labels, name, value = (n or _UNBOUNDED for n in (limits.labels, limits.name_bytes, limits.value_bytes))
        if not kernels.beyond(request.buf, request.series, labels, name, value, found):
            return request
        for code, reason, text in (
            (kernels.MANY_LABELS, "labels", f"more than {limits.labels} labels"),
            (kernels.LONG_NAME, "label-name", f"the name of a label has more than {limits.name_bytes} bytes"),
            (kernels.LONG_VALUE, "label-value", f"the value of a label has more than {limits.value_bytes} bytes"),
        ):
            wrong = found == code
            if wrong.any():
                request, found = self._without(request, wrong, reason, text, outcome), found[~wrong]
        return request

    def _without(self, request: Decoded, wrong: NDArray[np.bool_], reason: str, text: str, outcome: Outcome) -> Decoded:
        """Takes series out, and says which was the first."""
        number = int(np.count_nonzero(wrong))
        first = request.series[int(np.argmax(wrong))]
        self._account.count("limited_series", reason, number)
        outcome.refuse(f"{text}, {self._whose()}: {_shown(request, first)}", number)
        outcome.lose(Reason.LIMITED, request.samples(wrong))
        series, kept = request.series[~wrong], np.repeat(~wrong, request.series["samples"])
        series["sample_from"] = np.cumsum(series["samples"]) - series["samples"]
        buf = request.buf if request.lasting else request.buf.copy()
        times, values = request.times[kept], request.values[kept]
        return replace(request, buf=buf, series=series, times=times, values=values, lasting=True)


def _shown(request: Decoded, row: Any) -> str:
    """A series as PromQL has it, cut if it is long."""
    at, size = int(row["labels_at"]), int(row["labels_size"])
    try:
        labels = prompb.labels_of(request.buf[at : at + size].tobytes())
    except DecodeError as error:
        return error.reason
    text = readable_tags(labels)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class Limiter:
    """The accounts of all tenants; used from one event loop only. ``processes``: among which connections are spread."""

    def __init__(
        self,
        config: WriteLimitsConfig,
        scope: Scope,
        *,
        processes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._scope = scope
        self._processes = processes
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._names: set[str] = set()
        """Those that counters have: never more than there may be accounts, though accounts are forgotten."""

    def share(self, processes: int) -> None:
        """Connections are spread among so many processes from now on."""
        self._processes = processes
        self.take(self._config)

    def take(self, config: WriteLimitsConfig) -> None:
        """The configuration has changed; requests in hand are judged by it as well."""
        self._config = config
        for account in self._accounts.values():
            account.take(Limits.of(config, account.name).shared(self._processes), self._clock())

    def visit(self, headers: Mapping[str, str]) -> Visit:
        """Of a request with these headers."""
        name = headers.get(self._config.tenant_header, "").strip()[:_LONGEST_NAME] or ANONYMOUS
        account = self._accounts.get(name)
        if account is None:
            account = self._open(name)
        account.last_s = self._clock()
        return Visit(account, self._clock)

    def _open(self, name: str) -> _Account:
        """An account for a name that has none: that of the others if there are too many."""
        now_s = self._clock()
        if len(self._accounts) >= MOST_TENANTS and name not in self._config.tenants:
            idle = [key for key, one in self._accounts.items() if one.last_s < now_s - IDLE_S]
            for key in idle:
                del self._accounts[key]
            if len(self._accounts) >= MOST_TENANTS:
                name = OTHER
        account = self._accounts.get(name)
        if account is None:
            if len(self._names) < MOST_TENANTS or name in self._config.tenants:
                self._names.add(name)
            limits = Limits.of(self._config, name).shared(self._processes)
            shown = self._scope.tagged(tenant=name if name in self._names else OTHER)
            account = self._accounts[name] = _Account(name, limits, shown, now_s)
        return account
