"""The side port of a played node that is a process of its own: JSON over HTTP, by which it is told what to do and says what it holds."""

from dataclasses import asdict
from typing import Any

from aiohttp import web

from lab.m3db.faults import Fault
from lab.m3db.namespaces import Namespace
from lab.m3db.node import Node

__all__ = ["control_app"]


def control_app(node: Node) -> web.Application:
    """``GET /state``, ``GET /series``; ``POST`` of a document to each of the others."""

    async def state(request: web.Request) -> web.Response:
        faults = node.judge.take() if "take" in request.query else list(node.judge.found)
        return web.json_response(
            {
                "name": node.name, "address": node.address, "crashed": node.crashed, "calls": node.state.calls,
                "connections": node.connections, "writes": node.storage.writes, "dropped": node.writer.dropped[-20:],
                "violations": faults, "namespaces": [asdict(one) for one in node.namespaces.values()],
            }
        )  # fmt: skip

    async def series(_: web.Request) -> web.Response:
        return web.json_response(node.storage.dump())

    async def fault(document: dict[str, Any]) -> None:
        told = document["fault"]
        node.fault(document["method"], None if told is None else Fault.from_json(told))

    async def clock(document: dict[str, Any]) -> None:
        node.clock_offset_ns = document["offset_ns"]

    async def shards(document: dict[str, Any]) -> None:
        node.num_shards = document.get("num_shards", node.num_shards)
        node.own(document["shards"])

    async def namespaces(document: dict[str, Any]) -> None:
        node.namespaces.clear()
        node.namespaces.update({one["name"]: Namespace(**one) for one in document["namespaces"]})

    async def silent(document: dict[str, Any]) -> None:
        node.be_silent(document["silent"])

    async def listening(document: dict[str, Any]) -> None:
        if document["listening"]:
            await node.listen()
        else:
            await node.hang_up()

    async def clear(_: dict[str, Any]) -> None:
        node.storage.clear()

    async def break_connections(_: dict[str, Any]) -> None:
        await node.break_connections()

    async def new_series(document: dict[str, Any]) -> None:
        node.writer.new_series_async = document["async"]

    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/state", state)
    app.router.add_get("/series", series)
    told = {
        "fault": fault, "clock": clock, "shards": shards, "namespaces": namespaces, "silent": silent, "listening": listening,
        "clear": clear, "break-connections": break_connections, "new-series": new_series,
    }  # fmt: skip
    for name, action in told.items():

        async def post(request: web.Request, action: Any = action) -> web.Response:
            try:
                await action(await request.json())
            except (KeyError, ValueError, TypeError) as error:
                return web.json_response({"error": repr(error)}, status=400)
            return web.json_response({})

        app.router.add_post(f"/{name}", post)
    return app
