"""What of kazoo is overridden though kazoo promises none of it: a release that moves one of these is to fail here, by name."""

import inspect

import pytest
from kazoo.client import KazooClient, TransactionRequest
from kazoo.exceptions import ConnectionLoss
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.serialization import Connect, Exists
from kazoo.protocol.states import KeeperState

from m3cluster.kv.zookeeper.client import Client, Handler

OVERRIDDEN = [
    (ConnectionHandler, "__init__", ["self", "client", "retry_sleeper", "logger"]),
    (ConnectionHandler, "_invoke", ["self", "timeout", "request", "xid"]),
    (KazooClient, "_call", ["self", "request", "async_object"]),
    (KazooClient, "_session_callback", ["self", "state"]),
    (SequentialThreadingHandler, "spawn", ["self", "func", "args", "kwargs"]),
    (SequentialThreadingHandler, "create_connection", ["self", "args", "kwargs"]),
    (SequentialThreadingHandler, "select", ["self", "args", "kwargs"]),
]
CALLED = [
    (ConnectionHandler, "_connect", {"_invoke", "create_connection", "time_out"}),
    (ConnectionHandler, "_connect", {"_session_callback"}),
    (ConnectionHandler, "_connect_attempt", {"_session_callback", "select"}),
    (ConnectionHandler, "_read", {"select", "pending"}),
    (ConnectionHandler, "start", {"spawn"}),
    (KazooClient, "_session_callback", {"_state", "_notify_pending"}),
    (KazooClient, "_create_async_inner", {"_call"}),
    (KazooClient, "get_async", {"_call"}),
    (TransactionRequest, "commit_async", {"_call"}),
    (KazooClient, "start_async", {"_connection"}),
    (KazooClient, "stop", {"_connection"}),
    (KazooClient, "close", {"_connection"}),
]


@pytest.mark.parametrize(("owner", "name", "parameters"), OVERRIDDEN)
def test_what_is_overridden_takes_what_it_took(owner, name, parameters):
    found = list(inspect.signature(getattr(owner, name)).parameters)
    assert found[: len(parameters)] == parameters


@pytest.mark.parametrize(("owner", "name", "used"), CALLED)
def test_kazoo_calls_what_is_overridden(owner, name, used):
    assert used <= set(getattr(owner, name).__code__.co_names)


def test_the_connection_of_a_client_is_ours():
    handler = Handler(1.0, lambda: None)
    plain, ours = KazooClient(), Client("127.0.0.1:1", 4.0, handler, None)
    assert type(plain._connection) is ConnectionHandler
    assert isinstance(ours._connection, ConnectionHandler)
    assert type(ours._connection) is not ConnectionHandler
    assert ours._connection.client is ours
    assert ours._connection.retry_sleeper is not ours._conn_retry
    assert ours._conn_retry.max_tries == -1


def test_the_answer_to_the_request_for_a_session_names_its_timeout(monkeypatch):
    asked = Connect(0, 0, 4000, 0, b"", None)
    monkeypatch.setattr(ConnectionHandler, "_invoke", lambda *_: (asked._replace(time_out=6000), 0))
    client = Client("127.0.0.1:1", 4.0, Handler(1.0, lambda: None), None)
    assert client.asked_ns == 0
    client._connection._invoke(1.0, asked)
    assert client.granted_ms == 6000
    assert client.asked_ns > 0


def test_the_session_is_waited_for_no_longer_than_a_connection(monkeypatch):
    waits = []

    def invoke(_connection, timeout, request, _xid=None):
        waits.append(timeout)
        return (request, 0)

    monkeypatch.setattr(ConnectionHandler, "_invoke", invoke)
    client = Client("127.0.0.1:1", 30.0, Handler(1.0, lambda: None), None)
    session, other = Connect(0, 0, 30_000, 0, b"", None), Exists("/m3", None)
    for timeout, request in ((30.0, session), (0.5, session), (30.0, other)):
        client._connection._invoke(timeout, request)
    assert waits == [1.0, 0.5, 30.0]


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_async("/a"),
        lambda client: client.create_async("/a", b"1"),
        lambda client: client.transaction().commit_async(),
    ],
    ids=["read", "write", "transaction"],
)
def test_without_a_connection_nothing_is_queued(ask):
    client = Client("127.0.0.1:1", 30.0, Handler(1.0, lambda: None), None)
    client._session_callback(KeeperState.CONNECTING)
    assert isinstance(ask(client).exception, ConnectionLoss)
    assert not client._queue
