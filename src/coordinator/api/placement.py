"""Placement handlers (reference/cluster.md §12)."""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.answers import APIError, body_of, environment_of, header, message_answer, zone_of
from m3cluster.keys import DEFAULT_ENVIRONMENT, DEFAULT_ZONE
from m3cluster.kv import Store
from m3cluster.placement import (
    CutoverTimes,
    NoPlacementError,
    Placement,
    PlacementOptions,
    PlacementService,
)
from m3cluster.placement.codec import instance_from_message, placement_to_message
from m3cluster.proto import DecodeError, MessageValue, parse_json
from m3cluster.proto.messages import PLACEMENT_GET_RESPONSE, PLACEMENT_INIT_REQUEST
from m3x.clock import wall_ns

__all__ = ["SERVICES", "AdminContext", "PlacementHandlers"]

SERVICES = ("m3db", "m3aggregator", "m3coordinator")


@dataclass(frozen=True, slots=True)
class AdminContext:
    """What the handlers work on.

    ``zones`` are the zones that ``store`` stands for; any other one is an error. ``window_ns`` is the unit that shard cutovers of
    m3aggregator are rounded up to: the largest resolution, a minute if there is none.
    """

    store: Store
    environment: str = DEFAULT_ENVIRONMENT
    zone: str = DEFAULT_ZONE
    zones: Collection[str] = field(default_factory=lambda: (DEFAULT_ZONE,))
    window_ns: int = 60 * 1_000_000_000
    clock: Callable[[], int] = wall_ns
    rng: random.Random | None = None

    def store_of(self, zone: str) -> Store:
        """The store of a zone; raises ``APIError`` with M3's text if there is none."""
        if zone not in self.zones:
            raise APIError(500, f"no etcd cluster found for zone: {zone}")
        return self.store


class PlacementHandlers:
    """The handlers of one service's placement."""

    def __init__(self, context: AdminContext, service: str) -> None:
        self._context = context
        self._service = service

    async def init(self, request: Request) -> Response:
        """``POST …/placement/init``: makes the first placement; answers version 0, as M3 does."""
        message = parse_json(PLACEMENT_INIT_REQUEST, await body_of(request))
        try:
            instances = [instance_from_message(i) for i in message["instances"]]
        except DecodeError as error:
            raise APIError(400, error.reason) from error
        replica_factor = 1 if self._service == "m3coordinator" else message["replication_factor"]
        placements = self._placements(request, message["option_override"])
        placement = await placements.init(instances, message["num_shards"], replica_factor)
        return _answer(placement)

    async def get(self, request: Request) -> Response:
        """``GET …/placement[?version=N]``."""
        version = _version(request)
        placements = self._placements(request)
        try:
            if version is None:
                return _answer(await placements.placement())
            return _answer(await placements.placement_for_version(version))
        except NoPlacementError:
            raise APIError(404, "placement does not exist") from None

    def _placements(self, request: Request, override: MessageValue | None = None) -> PlacementService:
        zone = zone_of(request, self._context.zone)
        return PlacementService(
            self._context.store_of(zone),
            environment_of(request, self._context.environment),
            self._service,
            self._options(zone, override or {}),
            dry_run=header(request, "Dry-Run", "") == "true",
            rng=self._context.rng,
        )

    def _options(self, zone: str, override: MessageValue) -> PlacementOptions:
        aggregator, coordinator = self._service == "m3aggregator", self._service == "m3coordinator"
        is_sharded = not coordinator
        if override.get("is_sharded") is not None:
            is_sharded = override["is_sharded"]["value"]
        skip_ports = override.get("skip_port_mirroring")
        now_ns = self._context.clock()
        return PlacementOptions(
            is_sharded=is_sharded,
            is_mirrored=aggregator,
            is_staged=aggregator,
            valid_zone=zone,
            skip_port_mirroring=skip_ports is not None and skip_ports["value"],
            stable_only=coordinator,
            times=CutoverTimes.aggregator(now_ns, self._context.window_ns) if aggregator else CutoverTimes(),
        )


def _version(request: Request) -> int | None:
    """The version that is asked for; None for the current one. Texts that are no version are named as Go names them."""
    text = request.query_params.get("version")
    if not text:
        return None
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(text) - len(digits) <= 1):
        raise APIError(400, f'could not parse version: strconv.Atoi: parsing "{text}": invalid syntax')
    if len(digits) > 18:
        raise APIError(400, f'could not parse version: strconv.Atoi: parsing "{text}": value out of range')
    return int(text)


def _answer(placement: Placement) -> Response:
    value = {"placement": placement_to_message(placement), "version": placement.version}
    return message_answer(PLACEMENT_GET_RESPONSE, value)
