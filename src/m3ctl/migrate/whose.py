"""Which process is M3's and which is ours: ours serve paths that M3's do not have."""

import urllib.parse
from collections.abc import Iterable

from m3ctl.answers import Placement
from m3ctl.client import CtlError, ask_all
from m3ctl.cluster import COORDINATOR, Cluster, Target

__all__ = ["M3S", "OURS", "UNKNOWN", "aggregators", "coordinators"]

M3S, OURS, UNKNOWN = "M3's", "ours", "unknown"


def aggregators(cluster: Cluster, targets: Iterable[Target]) -> dict[str, str]:
    """Instance id → whose it is; unknown: it does not answer."""
    asked = list(targets)
    answers = ask_all(cluster.ready, asked)
    return {
        target.id: UNKNOWN if isinstance(answer, CtlError) else M3S if answer is None else OURS
        for target, answer in zip(asked, answers, strict=True)
    }


def coordinators(cluster: Cluster) -> dict[str, str]:
    """The same of the coordinators of the placement, asked at the hosts of their endpoints and the port of ``--coordinator``."""
    try:
        placement: Placement = cluster.placement(COORDINATOR).placement
    except CtlError:
        return {}  # Said by the check of that placement.
    where = urllib.parse.urlsplit(cluster.settings.coordinator)
    asked = {one.id: f"{where.scheme}://{one.host}:{where.port or 7201}" for one in placement.instances.values()}
    answers = ask_all(lambda ident: _serves(cluster, asked[ident]), asked)
    return {
        ident: UNKNOWN if isinstance(answer, CtlError) else answer for ident, answer in zip(asked, answers, strict=True)
    }


def _serves(cluster: Cluster, url: str) -> str:
    settings = cluster.settings
    answer = settings.caller.request("GET", f"{url}/api/v1/sinks", timeout_s=settings.timeout_s)
    return OURS if answer.status == 200 else M3S
