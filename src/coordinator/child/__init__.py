"""The aggregator inside this coordinator: an instance of its own, supervisor, front, workers and journal, that is its child process.

    producer ──m3msg──> front … workers ──m3msg──> ingest server        two sockets in the run directory
    pages, figures <──HTTP── supervisor                                 a third one
    placement, topics, flush times: an embedded KV in the data directory, which nobody else uses

It is there where the file has no ``downsample.remoteAggregator`` (docs/architecture.md, "Aggregation inside the coordinator"), and is
fed and heard like any other: what is special is only that the coordinator writes its configuration, its placement and its topics, starts it
again when it dies, and decides what signals mean.

``settings``  the aggregator's configuration and the producer's, made of the coordinator's
``cluster``   its cluster of one: placement, topics, and what a dead predecessor has left
``process``   the process itself: started, started again, ended in order
``watching``  what it says of itself: readiness, pages, figures
``routes``    where the coordinator shows these
``inside``    all of it together; open it first

Imports ``coordinator.config`` and the ``m3*`` packages, never ``aggregator``: that is a program here.
"""

from coordinator.child.inside import SEVERAL, Inside, inside
from coordinator.child.routes import child_routes
from coordinator.child.settings import producer_options

__all__ = ["SEVERAL", "Inside", "child_routes", "inside", "producer_options"]
