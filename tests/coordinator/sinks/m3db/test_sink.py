"""The sink over a session that is played."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from tests.coordinator.sinks.batches import LONG, SHORT, Row, batch_of
from tests.coordinator.sinks.m3db.registry import SECOND, registered, registry_of

from coordinator.sinks.m3db import M3DBSink, Targets
from coordinator.sinks.series import SeriesTable
from coordinator.sinks.sink import RefusedWhy, TryAgainError
from coordinator.sinks.values import UNAGGREGATED, Destination, TimeUnit
from m3db.attempt import BAD_REQUEST, INTERNAL, TOO_NEW, TOO_OLD, RowError
from m3db.consistency import RowState
from m3db.host import HostStatus
from m3db.options import SessionOptions
from m3db.session import WriteResult
from m3db.topology import Host, Topology
from m3db.write import FormRules, WriteRows
from m3db.write.forms import form_of
from m3metrics.ids import encode_tags

NOW = 1_700_000_000 * SECOND
GRAPHITE = encode_tags([(b"__g0__", b"a"), (b"__g1__", b"b"), (b"__option_id_scheme__", b"graphite")])
BAD = encode_tags([(b"a", b"\xff")])


def series(number: int) -> bytes:
    return encode_tags([(b"n", b"%d" % number)])


class PlayedSession:
    """Keeps what it is to write; ``verdict``: series id → state and text."""

    def __init__(self, options: SessionOptions | None = None) -> None:
        self.options = options or SessionOptions()
        self.topology: Topology | None = Topology.static([Host("node1", "a:9000")], 8)
        self.connections = 2
        self.written: list[tuple[str, str, int, int, float, str]] = []
        """Namespace, series id, timestamp, time type, value, annotation."""
        self.shards: list[int] = []
        self.verdict: Callable[[str], tuple[RowState, str, str]] = lambda _: (RowState.WRITTEN, "", "")
        self.writes = 0
        self.patience: list[float | None] = []

    @property
    def hosts(self) -> list[HostStatus]:
        return [HostStatus("node1", "a:9000", self.connections, 2, None, "", 0, True)]

    def trouble(self) -> list[str]:
        return ["node node1 (a:9000) is not connected: refused"]

    async def write(self, rows: WriteRows, *, patience_s: float | None = None) -> WriteResult:
        await asyncio.sleep(0)
        self.writes += 1
        self.patience.append(patience_s)
        states = np.zeros(len(rows), np.uint8)
        errors = []
        for row in range(len(rows)):
            ident = rows.forms.form(int(rows.series[row])).id.decode()
            states[row], kind, text = self.verdict(ident)
            if states[row]:
                host = "" if kind == "timeout" else "node1"
                errors.append(RowError(np.array([row]), host, kind, text))
                continue
            self.shards.append(int(rows.shards[row]))
            self.written.append(
                (
                    rows.namespaces[rows.namespace[row]].decode(), ident, int(rows.timestamp[row]), int(rows.time_type[row]),
                    float(rows.values[row]), rows.annotations[rows.annotation[row]].decode(),
                )
            )  # fmt: skip
        return WriteResult(states, errors)


class Scene:
    """A sink over the namespaces ``agg`` and ``raw``."""

    def __init__(self, options: SessionOptions | None = None) -> None:
        self.session = PlayedSession(options)
        self.targets = Targets()
        self.targets.put(registry_of(registered(), registered("raw", 0)))
        self.now_ns = NOW
        self.table = SeriesTable()
        self.sink = M3DBSink(
            self.session, self.targets, FormRules(shards=0), grace_ns=60 * SECOND, clock=lambda: self.now_ns
        )

    async def deliver(
        self, *rows: Row, again: bool = False
    ) -> tuple[dict[str, list[int]], list[tuple[list[int], float | None]]]:
        """What is refused by reason, and what is parked."""
        found = await self.sink.deliver(batch_of(self.table, rows), again=again)
        refused: dict[str, list[int]] = {}
        for one in found.refused:
            refused.setdefault(one.why, []).extend(one.rows.tolist())
        return refused, [(one.rows.tolist(), one.due_in_s) for one in found.parked]


async def test_a_shard_whose_nodes_do_not_answer_is_not_waited_for_by_each_batch() -> None:
    scene = Scene()
    session = scene.session
    session.verdict = lambda ident: (
        (RowState.RETRY, "timeout", "not decided after 1 s") if ident == '{n="1"}' else (RowState.WRITTEN, "", "")
    )
    shards = {k: form_of(series(k), FormRules(shards=8)).shard for k in range(8)}
    others = [k for k in shards if shards[k] != shards[1]][:3]
    rows = [Row(series(k), NOW) for k in (others[0], 1, *others[1:])]
    assert await scene.deliver(*rows) == ({}, [([1], None)])
    # From now on it is parked at once, and the others are written.
    session.verdict = lambda _: (RowState.WRITTEN, "", "")
    assert await scene.deliver(*rows) == ({}, [([1], None)])
    assert len(session.written) == 6
    # What comes again is sent, has all of the time, and tells that they answer.
    assert await scene.deliver(rows[1], again=True) == ({}, [])
    assert session.patience == [1.0, 1.0, None]
    assert await scene.deliver(*rows) == ({}, [])


async def test_a_shard_that_did_not_answer_is_asked_again_after_a_while() -> None:
    scene = Scene()
    scene.session.verdict = lambda _: (RowState.RETRY, "timeout", "not decided after 1 s")
    assert await scene.deliver(Row(series(1), NOW)) == ({}, [([0], None)])
    scene.session.verdict = lambda _: (RowState.WRITTEN, "", "")
    assert await scene.deliver(Row(series(1), NOW)) == ({}, [([0], None)])
    scene.now_ns += 6 * SECOND
    assert await scene.deliver(Row(series(1), NOW)) == ({}, [])


async def test_values_reach_their_namespaces_as_nodes_have_them() -> None:
    scene = Scene()
    rows = [
        Row(series(1), NOW, 1.5, SHORT, b"note"),
        Row(series(1), NOW + SECOND // 2, 2.5, UNAGGREGATED),
        Row(GRAPHITE, NOW, 3.5, SHORT, b"other"),
        Row(GRAPHITE, NOW, 4.5, UNAGGREGATED, b"note"),
    ]
    assert await scene.deliver(*rows) == ({}, [])
    assert scene.session.written == [
        ("agg", '{n="1"}', NOW // SECOND, TimeUnit.SECONDS, 1.5, "note"),
        ("agg", "a.b", NOW // SECOND, TimeUnit.SECONDS, 3.5, "other"),
        ("raw", '{n="1"}', NOW // 10**6 + 500, TimeUnit.MILLISECONDS, 2.5, ""),
        (
            "raw",
            '{__g0__="a",__g1__="b",__option_id_scheme__="graphite"}',
            NOW // 10**6,
            TimeUnit.MILLISECONDS,
            4.5,
            "note",
        ),
    ]


@pytest.mark.parametrize(
    ("destination", "taken"),
    [(SHORT, True), (UNAGGREGATED, True), (LONG, False), (Destination(SHORT.policy, TimeUnit.NANOSECONDS), True)],
)
def test_it_takes_what_has_a_namespace(destination: Destination, *, taken: bool) -> None:
    assert Scene().sink.takes(destination) == taken


async def test_the_offset_of_the_file_is_taken_off() -> None:
    scene = Scene(SessionOptions(write_timestamp_offset_ns=15 * SECOND))
    await scene.deliver(Row(series(1), NOW))
    assert scene.session.written[0][2] == NOW // SECOND - 15


async def test_what_no_node_would_take_is_not_sent() -> None:
    scene = Scene()
    rows = [
        Row(series(1), NOW - 700 * SECOND), Row(series(2), NOW + 300 * SECOND), Row(BAD, NOW), Row(series(3), NOW, 1.0, LONG),
        Row(series(4), NOW),
    ]  # fmt: skip
    refused, parked = await scene.deliver(*rows)
    assert refused == {RefusedWhy.TOO_OLD: [0], RefusedWhy.BAD_ID: [2]}
    assert parked == [([3], 10.0), ([1], 181.0)]
    assert [one[1] for one in scene.session.written] == ['{n="4"}']


async def test_a_batch_without_a_row_to_send_is_settled() -> None:
    scene = Scene()
    assert await scene.deliver(Row(BAD, NOW)) == ({RefusedWhy.BAD_ID: [0]}, [])
    assert await scene.deliver(Row(series(1), NOW - 700 * SECOND)) == ({RefusedWhy.TOO_OLD: [0]}, [])
    assert scene.session.writes == 0


async def test_refusals_of_nodes_are_those_of_their_rows() -> None:
    scene = Scene()
    scene.session.verdict = lambda ident: {
        '{n="1"}': (RowState.REFUSED, TOO_OLD, "datapoint too far in past: id=x"),
        '{n="2"}': (RowState.REFUSED, TOO_NEW, "datapoint too far in future: id=x"),
        '{n="3"}': (RowState.REFUSED, BAD_REQUEST, "tag name cannot be empty"),
    }.get(ident, (RowState.WRITTEN, "", ""))
    rows = [Row(BAD, NOW), *(Row(series(number), NOW) for number in (4, 3, 2, 1))]
    refused, parked = await scene.deliver(*rows)
    assert refused == {RefusedWhy.BAD_ID: [0], RefusedWhy.TOO_OLD: [4], RefusedWhy.BAD_REQUEST: [2]}
    assert parked == [([3], 10.0)]


async def test_rows_that_fail_wait_for_themselves_while_others_can_be_written() -> None:
    scene = Scene()
    scene.session.verdict = lambda ident: (
        (RowState.RETRY, INTERNAL, "broken") if ident == '{n="2"}' else (RowState.WRITTEN, "", "")
    )
    assert await scene.deliver(Row(series(1), NOW), Row(series(2), NOW)) == ({}, [([1], None)])
    # Alone in its batch it holds nobody either.
    assert await scene.deliver(Row(series(2), NOW)) == ({}, [([0], None)])


async def test_with_all_nodes_away_the_batch_comes_again() -> None:
    scene = Scene()
    scene.session.verdict = lambda _: (RowState.RETRY, "network", "connection refused")
    scene.session.connections = 0
    with pytest.raises(TryAgainError, match="node1: connection refused") as caught:
        await scene.deliver(Row(series(1), NOW), Row(BAD, NOW))
    assert caught.value.arrived
    assert caught.value.retry_after_s is None


async def test_before_nodes_and_namespaces_are_known_everything_waits() -> None:
    scene = Scene()
    scene.session.topology = None
    with pytest.raises(TryAgainError, match="not connected: refused") as caught:
        await scene.deliver(Row(series(1), NOW))
    assert not caught.value.arrived
    sink = M3DBSink(scene.session, Targets(), FormRules(shards=0))
    with pytest.raises(TryAgainError, match="has not said yet which namespaces"):
        await sink.deliver(batch_of(scene.table, [Row(series(1), NOW)]), again=False)


async def test_a_namespace_that_nodes_do_not_know_is_waited_for_a_while() -> None:
    scene = Scene()
    unknown = (RowState.RETRY, "unexpected", "Error({Type:BAD_REQUEST Message:unknown namespace: agg Flags:0})")
    scene.session.verdict = lambda ident: unknown if ident == '{n="1"}' else (RowState.WRITTEN, "", "")
    rows = [Row(series(1), NOW), Row(series(2), NOW, 1.0, UNAGGREGATED)]
    assert await scene.deliver(*rows) == ({}, [([0], None)])
    scene.now_ns += 59 * SECOND
    assert await scene.deliver(*rows) == ({}, [([0], None)])
    scene.now_ns += SECOND
    assert await scene.deliver(*rows) == ({RefusedWhy.NO_NAMESPACE: [0]}, [])
    # Once it is there the while begins anew.
    await scene.deliver(Row(series(2), scene.now_ns))
    assert await scene.deliver(*rows) == ({}, [([0], None)])


async def test_shards_are_those_of_the_placement_in_use() -> None:
    scene = Scene()
    await scene.deliver(Row(series(1), NOW))
    scene.session.topology = Topology.static([Host("node1", "a:9000")], 1)
    await scene.deliver(Row(series(1), NOW))
    assert scene.session.shards[1] == 0
    assert scene.session.written[0] == scene.session.written[1]
