"""``GET /api/v1/environments``: the environments that have a placement or a topic. M3 does not have it."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from coordinator.api.answers import zone_of
from coordinator.api.context import AdminContext
from m3cluster.environments import environments

__all__ = ["EnvironmentHandlers"]


class EnvironmentHandlers:
    """The handler of ``/api/v1/environments``."""

    def __init__(self, context: AdminContext) -> None:
        self._context = context

    async def get(self, request: Request) -> Response:
        """``{"environments": [{"name": …, "has": ["placement m3aggregator", …]}]}`` of the zone in the header."""
        found = await environments(self._context.store_of(zone_of(request, self._context.zone)))
        return JSONResponse({"environments": [{"name": name, "has": has} for name, has in found.items()]})
