"""``GET /ready``: M3's lists of namespaces that can be read and written, and our reasons (docs/m3/coordinator.md, routes)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coordinator.api.answers import APIError, Methods
from coordinator.config import Namespace
from coordinator.write import AggregatorSink
from m3cluster.kv import Store
from m3msg.producer import Producer
from m3x.golang import go_duration, parse_bool


class Readiness:
    """Reads are ready when storage is open, writes when the aggregators can be reached; ``topic`` None: nothing is sent.

    ``obstacle``: why ordinary writes have nowhere to go, whoever can be reached; None: they have. ``more_reasons``: why else they would
    not get where they are to go. ``notes``: what is as it should be, and worth knowing.
    """

    def __init__(
        self,
        namespaces: Sequence[Namespace],
        topic: AggregatorSink | None,
        producer: Producer | None,
        store: Store,
        more_problems: Callable[[], list[str]] = list,
        obstacle: Callable[[], str | None] | None = None,
        more_reasons: Callable[[], list[str]] = list,
        notes: Callable[[], list[str]] = list,
    ) -> None:
        self._obstacle = obstacle
        self._more_reasons = more_reasons
        self.notes = notes
        self.set_namespaces(namespaces)
        self._topic = topic
        self._producer = producer
        self._store = store
        self._more_problems = more_problems

    def set_namespaces(self, namespaces: Sequence[Namespace]) -> None:
        """From now on these are listed."""
        self._namespaces = [_describe(namespace) for namespace in namespaces]

    def reasons(self) -> list[str]:
        """Why writes are refused now, or wait; one line each. Empty: they do not."""
        refusal = self._topic.refusal() if self._topic is not None else None
        obstacle = self._obstacle() if self._obstacle is not None else None
        found = [*(reason for reason in (obstacle, refusal) if reason is not None), *self._more_reasons()]
        return list(dict.fromkeys(found))

    def problems(self, writes: bool = True) -> list[str]:
        """What is wrong although the coordinator serves. Of writes, while they are accepted: the KV silent, consumers not usable, shard
        counts that differ; always: rules and values that come to nothing."""
        if not writes:
            return self._more_problems()
        trouble = self._store.trouble()
        producer = self._producer.problems() if self._producer is not None else []
        found = [*([trouble] if trouble is not None else []), *producer, *self._unreached(), *self._more_problems()]
        return list(dict.fromkeys(found))

    def _unreached(self) -> list[str]:
        """Consumers that cannot be connected to: what is meant for them waits, and is dropped when its buffer is full."""
        if self._producer is None:
            return []
        status = self._producer.status()
        return [
            f"topic {status.topic}: {one.instance} of {service.service} is not reached at {one.endpoint} "
            f"({one.last_error or 'no connection yet'}): is it running, and is that its endpoint in the placement?"
            for service in status.services
            for one in service.instances
            if not one.connected
        ]

    def document(self, writes: bool = True) -> tuple[int, dict[str, Any]]:
        """Status and body. What is not asked about counts as ready and is listed all the same, as in M3; reads always are."""
        body: dict[str, Any] = {}
        reasons = self.reasons() if writes else []
        if self._namespaces:
            body["readyReads"] = self._namespaces
            body["notReadyWrites" if reasons else "readyWrites"] = self._namespaces
        if reasons:
            body["reasons"] = reasons
        if problems := self.problems(writes and not reasons):
            body["problems"] = problems
        if notes := self.notes():
            body["notes"] = notes
        return (500 if reasons else 200), body


def _describe(namespace: Namespace) -> dict[str, Any]:
    attributes = {
        "metricsType": "aggregated" if namespace.aggregated else "unaggregated",
        "retention": go_duration(namespace.retention_ns),
        "resolution": go_duration(namespace.resolution_ns),
    }
    return {"id": namespace.name, "attributes": attributes}


def ready_route(readiness: Readiness, refresh: Callable[[], Awaitable[None]] | None = None) -> Route:
    """The route; query parameters ``reads`` and ``writes`` leave one side unasked. ``refresh``: asks others first."""

    async def ready(request: Request) -> Response:
        asked = {}
        for name in ("reads", "writes"):
            try:
                asked[name] = parse_bool(request.query_params.get(name, "true"))
            except ValueError as error:
                raise APIError(400, str(error)) from error
        if refresh is not None:
            await refresh()
        status, body = readiness.document(asked["writes"])
        return JSONResponse(body, status)

    return Route("/ready", Methods({"GET": ready}))
