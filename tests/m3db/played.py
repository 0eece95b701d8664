"""Hosts without sockets, for sessions in virtual time: what they are sent is parsed, and what they answer is told to them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from tests.m3db.node import Calls, Received

from coordinator.sinks.series import SeriesTable
from m3db.connection import Answer, Done, MessageIds
from m3db.errors import CallError, CallFailure, ConnectError
from m3db.host import Link
from m3db.thrift import METHODS, StructValue, marshal, unmarshal
from m3db.write import FormRules, SeriesForms
from m3db.write.rows import WriteRows
from m3metrics.ids import encode_tags

HEALTH, WRITE = METHODS["health"], METHODS["writeTaggedBatchRaw"]
TRAVEL_S = 0.001
"""There and back."""
BAD, INTERNAL, EXHAUSTED = (1, 0), (0, 0), (1, 1)
"""Type and flags of errors."""


@dataclass
class Host:
    """One played host: what it does may be changed at any time."""

    mode: str = "ok"
    """``ok``; ``hang``; ``bad``, ``internal``, ``exhausted``: every element that error; ``short``: the first element; ``times``: each
    element is too far in the past, in the future, or neither, in turn; ``code5`` and the like: an error frame; ``close``: the connection
    ends instead; ``emptyerr``: code 1 without an error; ``down``: no connection; ``sick``: health is not ok; ``hang_health``: no answer to
    it; ``unreadable``: no struct."""
    delay_s: float = TRAVEL_S
    reads: bool = True
    """Else what is sent stays in the buffer of the socket."""
    dialled: int = 0
    links: "list[PlayedLink]" = field(default_factory=list)
    """All that were opened."""
    calls: list[tuple[float, StructValue]] = field(default_factory=list)
    """Time and request of each call that writes."""

    @property
    def open(self) -> int:
        """Connections that stand."""
        return sum(not link.closed for link in self.links)

    def ids(self) -> Counter[bytes]:
        """How often each series was sent."""
        return Counter(element["id"] for _, request in self.calls for element in request["elements"])


class Network:
    """Hosts by ``name:9000``."""

    def __init__(self, names: Iterable[str]) -> None:
        self.hosts = {name: Host() for name in names}

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    async def open(self, host: str, port: int, timeout_s: float, ids: MessageIds) -> Link:
        """As ``m3db.host.open_link``."""
        assert port == 9000
        played = self.hosts[host]
        played.dialled += 1
        await asyncio.sleep(TRAVEL_S)
        if played.mode == "down":
            raise ConnectError(f"{host}: connection refused")
        link = PlayedLink(played, ids)
        played.links.append(link)
        return link

    def stop(self, name: str) -> None:
        """The host goes down."""
        self[name].mode = "down"
        for link in self[name].links:
            link.end()


class PlayedLink:
    """One connection to a played host."""

    def __init__(self, host: Host, ids: MessageIds) -> None:
        self._host = host
        self._ids = ids
        self._gone = asyncio.Event()
        self._waiting: set[asyncio.Future[Answer]] = set()
        self.unsent_bytes = 0
        self.sent: list[int] = []
        """Bytes of each ``send``."""

    @property
    def closed(self) -> bool:
        return self._gone.is_set()

    async def wait_closed(self) -> None:
        await self._gone.wait()

    async def close(self) -> None:
        self.end()

    def end(self) -> None:
        """Whatever is on its way fails."""
        self._gone.set()
        for future in list(self._waiting):
            self._fail(future, CallFailure.NETWORK, "closed by the node")

    async def call(self, method: str, body: bytes, timeout_s: float) -> Answer:
        assert method == HEALTH.name
        self._ids.reserve(1)
        mode = self._host.mode
        future = self._future(timeout_s)
        if mode not in {"hang_health", "down"}:
            ok = {"ok": mode != "sick", "status": b"up", "bootstrapped": True}
            self._later(future, Answer(0, marshal(HEALTH.result, {"success": ok})))
        return await future

    def send(self, frames: memoryview | bytes, first: int, count: int, timeout_s: float, done: Done) -> None:
        self.sent.append(len(frames))
        received = Calls().feed(bytes(frames))
        assert [call.id for call in received] == list(range(first, first + count))
        futures = [self._future(timeout_s) for _ in received]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda ended, number=number: done((number,), ended.exception() or ended.result()))
        if self.closed:
            self.end()
        elif not self._host.reads:
            self.unsent_bytes += len(frames)
        else:
            for call, future in zip(received, futures, strict=True):
                self._take(call, future)

    def _take(self, call: Received, future: asyncio.Future[Answer]) -> None:
        assert call.method == WRITE.name
        request = unmarshal(WRITE.args, call.body)["req"]
        loop = asyncio.get_running_loop()
        self._host.calls.append((loop.time(), request))
        mode, size = self._host.mode, len(request["elements"])
        if mode == "times":
            texts = [b"datapoint too far in past: id=", b"datapoint too far in future: id=", b"datapoint too far"]
            self._later(future, Answer(1, error_body(((k, *BAD) for k in range(size)), lambda k: texts[k % 3])))
            return
        errors = {"bad": BAD, "internal": INTERNAL, "exhausted": EXHAUSTED, "short": BAD}
        if mode == "close":
            loop.call_later(self._host.delay_s, self.end)
        elif mode in errors:
            failed = range(1 if mode == "short" else size)
            self._later(future, Answer(1, error_body((index, *errors[mode]) for index in failed)))
        elif mode.startswith("code"):
            kinds = {1: CallFailure.TIMEOUT, 3: CallFailure.BUSY, 5: CallFailure.UNEXPECTED, 6: CallFailure.BAD_REQUEST,
                     7: CallFailure.NETWORK}  # fmt: skip
            loop.call_later(self._host.delay_s, self._fail, future, kinds[int(mode[4:])], "told to fail")
        elif mode == "emptyerr":
            self._later(future, Answer(1, b"\0"))
        elif mode == "unreadable":
            self._later(future, Answer(1, b"\x0c\x00\x01\x0f"))
        elif mode != "hang":
            self._later(future, Answer(0, b"\0"))

    def _future(self, timeout_s: float) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.add(future)
        timer = loop.call_later(timeout_s, self._fail, future, CallFailure.TIMEOUT, f"no answer within {timeout_s:g} s")
        future.add_done_callback(self._waiting.discard)
        future.add_done_callback(lambda _: timer.cancel())
        return future

    def _later(self, future: asyncio.Future[Answer], answer: Answer) -> None:
        def arrive() -> None:
            if not future.done():
                future.set_result(answer)

        asyncio.get_running_loop().call_later(self._host.delay_s, arrive)

    @staticmethod
    def _fail(future: asyncio.Future[Answer], kind: CallFailure, text: str) -> None:
        if not future.done():
            future.set_exception(CallError(kind, text))
            future.exception()


def error_body(
    errors: Iterable[tuple[int, int, int]], text: Callable[[int], bytes] = lambda index: b"told to fail at %d" % index
) -> bytes:
    """``WriteBatchRawErrors`` of (index, type, flags), and what is said of an index."""
    return marshal(
        WRITE.result,
        {"err": {"errors": [
            {"index": index, "err": {"type": kind, "message": text(index), "flags": flags}}
            for index, kind, flags in errors
        ]}},
    )  # fmt: skip


class Series:
    """Series by number, and rows of them."""

    def __init__(self, count: int, shards: int) -> None:
        self.table = SeriesTable()
        for number in range(count):
            self.table.number(encode_tags([(b"__name__", b"m"), (b"n", b"%d" % number)]))
        self.forms = SeriesForms(FormRules(shards), reserved_bytes=1 << 20)
        assert not len(self.forms.require(self.table, np.arange(count, dtype=np.uint32)))

    def id(self, number: int) -> bytes:
        """What nodes get."""
        return self.forms.form(number).id

    def in_shard(self, shard: int) -> list[int]:
        """The series of a shard."""
        return [number for number in range(len(self.table)) if self.forms.form(number).shard == shard]

    def rows(
        self,
        numbers: Iterable[int] | None = None,
        namespaces: tuple[bytes, ...] = (b"default",),
        choose: Callable[[int], int] = lambda _: 0,
    ) -> WriteRows:
        """A row for each of the series; ``choose`` gives the namespace of a row."""
        series = np.array(list(range(len(self.table)) if numbers is None else numbers), np.uint32)
        count = len(series)
        return WriteRows(
            forms=self.forms, series=series, namespaces=namespaces,
            namespace=np.array([choose(row) for row in range(count)], np.uint16),
            timestamp=np.full(count, 1_700_000_000, np.int64), time_type=np.zeros(count, np.uint8),
            values=np.arange(count, dtype=np.float64), annotations=(b"",), annotation=np.zeros(count, np.uint16),
        )  # fmt: skip
