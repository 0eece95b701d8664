"""Placement handlers (docs/m3/cluster.md, placement API)."""

import contextlib
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from coordinator.api.answers import APIError, body_of, environment_of, header, message_answer, zone_of
from coordinator.api.context import AdminContext
from coordinator.api.requests import (
    PLACEMENT_ADD_REQUEST,
    PLACEMENT_REMOVE_REQUEST,
    PLACEMENT_REPLACE_REQUEST,
    PLACEMENT_SET_REQUEST,
    PLACEMENT_SET_RESPONSE,
)
from m3cluster.keys import flush_times_key, kv_key
from m3cluster.kv import KeyNotFoundError
from m3cluster.placement import (
    CutoverTimes,
    Instance,
    InvalidPlacementError,
    NoPlacementError,
    Placement,
    PlacementOptions,
    PlacementService,
    ShardState,
    validate,
)
from m3cluster.placement.codec import (
    NullShardError,
    instance_from_message,
    placement_from_message,
    placement_to_message,
)
from m3cluster.proto import DecodeError, MessageValue, parse_json
from m3cluster.proto.messages import PLACEMENT_GET_RESPONSE, PLACEMENT_INIT_REQUEST

__all__ = ["SERVICES", "PlacementHandlers"]

SERVICES = ("m3db", "m3aggregator", "m3coordinator")


class PlacementHandlers:
    """The handlers of one service's placement."""

    def __init__(self, context: AdminContext, service: str) -> None:
        self._context = context
        self._service = service

    async def init(self, request: Request) -> Response:
        """``POST …/placement/init``: makes the first placement; answers version 0, as M3 does."""
        message = parse_json(PLACEMENT_INIT_REQUEST, await body_of(request))
        instances = _instances(message["instances"])
        replica_factor = 1 if self._service == "m3coordinator" else message["replication_factor"]
        placements = self._placements(request, message["option_override"])
        placement = await placements.init(instances, message["num_shards"], replica_factor)
        return _answer(placement)

    async def get(self, request: Request) -> Response:
        """``GET …/placement[?version=N]``."""
        placements = self._placements(request)
        version = _version(request)
        try:
            if version is None:
                return _answer(await placements.placement())
            return _answer(await placements.placement_for_version(version))
        except NoPlacementError:
            raise APIError(404, "placement does not exist") from None

    async def add(self, request: Request) -> Response:
        """``POST …/placement``: adds instances."""
        message = parse_json(PLACEMENT_ADD_REQUEST, await body_of(request))
        instances = _instances(message["instances"])
        placements = self._placements(request, message["option_override"], force=message["force"])
        return _answer(await placements.add(instances))

    async def remove(self, request: Request) -> Response:
        """``POST …/placement/remove``: removes instances, for m3aggregator whole shard sets."""
        message = parse_json(PLACEMENT_REMOVE_REQUEST, await body_of(request))
        placements = self._placements(request, message["option_override"], force=message["force"])
        return _answer(await placements.remove(message["instance_ids"]))

    async def replace(self, request: Request) -> Response:
        """``POST …/placement/replace``: as in M3 only ``force`` selects and pairs the candidates, else they are taken as they are."""
        message = parse_json(PLACEMENT_REPLACE_REQUEST, await body_of(request))
        candidates, force = _instances(message["candidates"]), message["force"]
        is_free = force or self._service == "m3coordinator"
        placements = self._placements(request, message["option_override"], force=is_free)
        return _answer(await placements.replace(message["leavingInstanceIDs"], candidates, select=force))

    async def set(self, request: Request) -> Response:
        """``POST …/placement/set``: stores a placement as it is sent, if ``confirm`` says so."""
        message = parse_json(PLACEMENT_SET_REQUEST, await body_of(request))
        placements = self._placements(request)
        try:
            current = (await placements.placement()).version
        except NoPlacementError:
            current = 0
        if message["placement"] is None:
            raise APIError(400, "nil placement proto")
        try:
            placement = placement_from_message(message["placement"])
        except DecodeError as error:
            raise APIError(400, error.reason) from error
        except NullShardError as error:
            raise APIError(500, f"a shard is missing in the request: {error}") from error
        if not message["force"]:
            try:
                validate(placement)
            except InvalidPlacementError as error:
                raise APIError(400, f"unable to validate new placement: {error}") from error
        if message["confirm"]:
            version = await placements.put(placement, current)
        else:
            version = current + 1 if current else 0
        answer = {"placement": message["placement"], "version": version, "dry_run": not message["confirm"]}
        return message_answer(PLACEMENT_SET_RESPONSE, answer)

    async def delete(self, request: Request) -> Response:
        """``DELETE …/placement``: deletes the placement, whatever still runs."""
        placements = self._placements(request)
        try:
            placement = await placements.placement()
            await placements.delete()
        except NoPlacementError:
            raise APIError(404, "key not found") from None
        await self._forget(request, {i.shard_set_id for i in placement.instances})
        return PlainTextResponse('{"deleted":true}\n')

    async def delete_one(self, request: Request) -> Response:
        """``DELETE …/placement/{id}[?force=true]``: removes one instance."""
        instance_id = request.scope["path"].rsplit("/", 1)[1]
        force = request.query_params.get("force") == "true" or self._service == "m3coordinator"
        placements = self._placements(request, force=force)
        before = await placements.placement()
        instance = before.instance(instance_id)
        if instance is None:
            raise APIError(404, f"instance not found: {instance_id}")
        placement = await placements.remove([instance_id])
        if sum(i.shard_set_id == instance.shard_set_id for i in before.instances) == 1:
            await self._forget(request, {instance.shard_set_id})
        return _answer(placement)

    async def _forget(self, request: Request, shard_sets: Iterable[int]) -> None:
        """Deletes the flush times of shard sets under the key that M3 deletes, which is not the one that the documented settings use.

        Where the key of a leader is there as well, M3 deletes the flush times once more in its place, and fails since they are gone: the
        placement is deleted then, and the answer an error, which asks to look at that key.
        """
        if self._service != "m3aggregator" or _is_dry_run(request):
            return
        store = self._context.store_of(zone_of(request, self._context.zone))
        environment = environment_of(request, self._context.environment)
        left = 0
        for number in sorted(shard_sets):
            with contextlib.suppress(KeyNotFoundError):
                await store.delete(flush_times_key(environment, number, "/shardset/%d/flush"))
            with contextlib.suppress(KeyNotFoundError):
                await store.get(kv_key(environment, f"/shardset/{number}/lock"))
                left += 1
        if left:
            text = "error delete election key for deleted instance: key not found"
            raise APIError(500, "\n".join([text] * left))

    def _placements(
        self, request: Request, override: MessageValue | None = None, *, force: bool = True
    ) -> PlacementService:
        """The placement that the headers name; without ``force`` it may be changed only if all shards are available."""
        zone = zone_of(request, self._context.zone)
        return PlacementService(
            self._context.store_of(zone),
            environment_of(request, self._context.environment),
            self._service,
            self._options(zone, override or {}),
            dry_run=_is_dry_run(request),
            check=validate if force else _require_available,
            rng=self._context.rng,
        )

    def _options(self, zone: str, override: MessageValue) -> PlacementOptions:
        aggregator, coordinator = self._service == "m3aggregator", self._service == "m3coordinator"
        wanted = override.get("is_sharded")
        # The others have shards whatever is asked for.
        is_sharded = not coordinator or (wanted is not None and wanted["value"])
        skip_ports = override.get("skip_port_mirroring")
        now_ns = self._context.clock()
        return PlacementOptions(
            is_sharded=is_sharded,
            is_mirrored=aggregator,
            is_staged=aggregator,
            valid_zone=zone,
            skip_port_mirroring=skip_ports is not None and skip_ports["value"],
            stable_only=coordinator,
            times=CutoverTimes.aggregator(now_ns, self._context.window_ns()) if aggregator else CutoverTimes(),
        )


def _is_dry_run(request: Request) -> bool:
    return header(request, "Dry-Run", "") == "true"


def _instances(messages: Iterable[MessageValue]) -> list[Instance]:
    """Raises ``APIError`` for what is no instance."""
    try:
        return [instance_from_message(i) for i in messages]
    except DecodeError as error:
        raise APIError(400, error.reason) from error
    except NullShardError as error:
        raise APIError(500, f"a shard is missing in the request: {error}") from error


def _require_available(placement: Placement) -> None:
    """Raises ``APIError`` unless every instance has shards and all of them are available."""
    changing = [
        i.id for i in placement.instances if not i.shards or any(s.state is not ShardState.AVAILABLE for s in i.shards)
    ]
    if changing:
        raise APIError(400, f"instances do not have all shards available: [{', '.join(changing)}]")


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
