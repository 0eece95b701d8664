"""The routes of all writes over HTTP but remote write, whose module has its own: a path and a sender for each protocol."""

from starlette.routing import Route

from coordinator.config.coordinator import OTLPConfig
from coordinator.write import influx, json_write, otlp
from coordinator.write.remote_write import RemoteWriter, route_of
from coordinator.write.sender import Sender, WayIn
from m3x.instrument import Scope

__all__ = ["sender_routes"]

_DEFAULT = OTLPConfig()


def sender_routes(writer: RemoteWriter, scope: Scope, config: OTLPConfig = _DEFAULT) -> list[Route]:
    """``scope``: of the coordinator; the figures of each protocol have its tag ``handler``."""
    senders: dict[str, Sender] = {
        influx.PATH: influx.Influx(),
        json_write.PATH: json_write.JSONWrite(),
        otlp.PATH: otlp.OTLP(
            otlp.Promotion(frozenset(config.promote_resource_attributes), config.promote_scope_metadata)
        ),
    }
    return [
        route_of(path, writer, WayIn(sender, scope.tagged(handler=sender.handler))) for path, sender in senders.items()
    ]
