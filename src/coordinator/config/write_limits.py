"""``writeLimits``: how much one tenant may send over HTTP (docs/sending.md, Limits). Not a key of M3."""

import re
from collections.abc import Mapping

import msgspec

from m3x.config import Natural, Section

__all__ = ["TenantLimitsConfig", "WriteLimitsConfig"]

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class TenantLimitsConfig(Section, frozen=True):
    """``writeLimits.tenants.NAME``: what is different for that tenant. None: as for everybody; 0: no limit."""

    max_body_bytes: Natural | None = None
    max_series_per_request: Natural | None = None
    max_active_series: Natural | None = None
    max_labels_per_series: Natural | None = None
    max_label_name_bytes: Natural | None = None
    max_label_value_bytes: Natural | None = None
    max_samples_per_second: float | None = None
    burst_samples: Natural | None = None

    def __post_init__(self) -> None:
        _check_rate(self.max_samples_per_second or 0)


class WriteLimitsConfig(Section, frozen=True):
    """``writeLimits``. 0: no limit but those that all requests have (docs/answers.md)."""

    tenant_header: str = "X-Scope-OrgID"
    """Whose value says which tenant a request is of."""
    max_body_bytes: Natural = 0
    """Of a body as it is sent."""
    max_series_per_request: Natural = 0
    max_active_series: Natural = 0
    """Different series of the last ten to twenty minutes."""
    max_labels_per_series: Natural = 0
    max_label_name_bytes: Natural = 0
    max_label_value_bytes: Natural = 0
    max_samples_per_second: float = 0
    burst_samples: Natural = 0
    """How many may come at once; 0: those of ten seconds."""
    tenants: dict[str, TenantLimitsConfig] = {}

    def __post_init__(self) -> None:
        if not _HEADER.fullmatch(self.tenant_header):
            raise ValueError(f"tenantHeader {self.tenant_header!r} is no name of a header")
        _check_rate(self.max_samples_per_second)

    def of(self, tenant: str) -> Mapping[str, float]:
        """The limits of a tenant, by field."""
        own = self.tenants.get(tenant)
        common = {name: getattr(self, name) for name in _NUMBERS}
        given = {} if own is None else {name: getattr(own, name) for name in _NUMBERS}
        return common | {name: number for name, number in given.items() if number is not None}


_NUMBERS = tuple(field.name for field in msgspec.structs.fields(TenantLimitsConfig))


def _check_rate(rate: float) -> None:
    if not 0 <= rate < float("inf"):
        raise ValueError(f"maxSamplesPerSecond must be a number that is not negative, found {rate:g}")
