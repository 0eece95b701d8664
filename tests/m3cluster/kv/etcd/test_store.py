"""What only etcd can do to a client: stop, die, come back, compact, hang; and what a start without it looks like."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest
from lab.kv_servers import EtcdServer
from lab.ports import free_port
from lab.relay import Relay
from lab.waiting import until
from tests.m3cluster.kv.waiting import LONG_S, insist, next_of, value_is

from m3cluster.kv import ConditionFailedError, Etcd, EtcdTLS, KeyNotFoundError, KVError, open_store
from m3cluster.kv.etcd.cache import Cache
from m3cluster.kv.etcd.channel import Channel, Stream
from m3cluster.kv.etcd.connection import TXN, Connection
from m3cluster.kv.etcd.watch import WatchStream, _Key
from m3x.clock import boot_ns


@pytest.fixture
async def open_client(new_etcd):
    """Opens stores that are closed at the end of the test, before any server; afterwards nothing of theirs may run."""
    stores = []

    async def client(*servers, **options):
        options = {"dial_timeout_s": 1, "request_timeout_s": 3, "watch_silence_s": 0.5} | options
        stores.append(await open_store(Etcd(tuple(server.address for server in servers), **options)))
        return stores[-1]

    yield client
    for store in stores:
        await store.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("kv ")]

    async def quiet():
        return asyncio.all_tasks() == {asyncio.current_task()}

    # gRPC's own tasks for calls that were just cancelled end by themselves.
    await until(quiet)


class Nobody:
    """An endpoint at which nothing listens."""

    def __init__(self):
        self.address = f"127.0.0.1:{free_port()}"


class Silent:
    """An endpoint that takes connections and never says anything."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self):
        self._listener.close()


@pytest.fixture
def silent():
    server = Silent()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoints": ()}, "at least one endpoint"),
        ({"endpoints": ("a:1", " ")}, "none may be empty"),
        ({"endpoints": ("a:1",), "request_timeout_s": 0}, "request_timeout_s must be above 0"),
        ({"endpoints": ("a:1",), "keepalive_s": -1}, "keepalive_s must not be negative"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Etcd(**options)


def test_the_cache_file_is_named_as_m3_names_it(tmp_path):
    assert Etcd(("a:1",)).cache_path() is None
    config = Etcd(("a:1",), cache_dir=tmp_path, service="test_app", zone="z/1")
    assert config.cache_path() == tmp_path / "test_app_z_1.json"


async def test_an_endpoint_that_refuses_is_named_with_advice(open_client):
    nobody = Nobody()
    store = await open_client(nobody)
    with pytest.raises(KVError, match=f"etcd {nobody.address}: .*is etcd running"):
        await store.get("a")
    with pytest.raises(KVError, match="is etcd running"):
        await store.set("a", b"")
    with pytest.raises(KVError, match="is etcd running"):
        await store.grant(5)


async def test_waiting_is_said_aloud_with_what_and_since_when(open_client, new_etcd, capsys):
    server = new_etcd()
    store = await open_client(server)
    assert store.trouble() is None
    watch = store.watch("a")

    async def trouble():
        return store.trouble()

    said = await until(trouble)
    assert re.fullmatch(rf"waiting for etcd {server.address} since \d\d:\d\d:\d\d UTC: etcd .*is etcd running.*", said)
    server.start()
    await insist(store.set, "a", b"1")
    await value_is(watch, b"1")
    assert store.trouble() is None
    log = capsys.readouterr().err
    assert log.count("waiting for the store; ") == 1
    assert log.count("the store answers again") == 1


async def test_an_endpoint_that_says_nothing_is_named_as_well(open_client, silent):
    store = await open_client(silent, dial_timeout_s=LONG_S, request_timeout_s=LONG_S)
    store.watch("a")

    async def trouble():
        return store.trouble()

    assert f"waiting for etcd {silent.address}" in await until(trouble)


async def test_all_endpoints_are_named_when_none_answers(open_client):
    one, two = Nobody(), Nobody()
    store = await open_client(one, two)
    with pytest.raises(KVError, match=f"{one.address}, {two.address}"):
        await store.keys("")


async def test_a_dead_endpoint_costs_nothing_while_another_one_lives(open_client, shared_etcd):
    store = await open_client(Nobody(), shared_etcd)
    assert await store.set("failover", b"1") >= 1
    assert (await next_of(store.watch("failover"))).data == b"1"
    lease = await store.grant(5)
    await lease.revoke()


async def test_a_silent_endpoint_is_left_for_the_next_one(open_client, shared_etcd, silent):
    store = await open_client(silent, shared_etcd, dial_timeout_s=0.3)
    watch = store.watch("failover")
    assert await store.set("failover", b"2") >= 1
    await value_is(watch, b"2")


async def test_a_silent_endpoint_alone_is_an_error_in_time(open_client, silent):
    store = await open_client(silent, dial_timeout_s=0.2)
    with pytest.raises(KVError, match="no connection within 0.2 s"):
        await store.get("a")


async def test_a_cluster_of_three_serves_on_whichever_member_dies(open_client, new_etcd):
    members = [new_etcd() for _ in range(3)]
    EtcdServer.form_cluster(members)
    store = await open_client(*members)
    lease = await store.grant(10)
    own = await store.put_with_lease("a/leased", b"here", lease)
    watch = store.watch("a/watched")
    for number, member in enumerate(members):
        member.kill()
        # A write that was under way may have been carried out: then it is made once more.
        await insist(store.set, "a/watched", b"%d" % number)
        await value_is(watch, b"%d" % number)
        before_ns = lease.deadline_ns()

        async def kept(before_ns=before_ns):
            return lease.deadline_ns() > before_ns

        await until(kept)
        assert [(key, value.create_revision) for key, value in await insist(store.keys, "a/leased")] == [
            ("a/leased", own.create_revision)
        ]
        member.start()
    # One of three cannot decide anything: that is an error in time, and the lease's end cannot be known.
    for member in members[:2]:
        member.kill()
    with pytest.raises(KVError):
        await store.set("a/watched", b"lost")
    for member in members[:2]:
        member.launch()
    await insist(store.set, "a/watched", b"again")
    await value_is(watch, b"again")
    await lease.revoke()


async def test_a_client_outlives_kill_and_restart(open_client, own_etcd):
    store = await open_client(own_etcd)
    watch, gone = store.watch("a"), store.watch("b")
    await store.set("a", b"1")
    await store.set("b", b"1")
    await value_is(watch, b"1")
    before = await value_is(gone, b"1")
    waiting = asyncio.ensure_future(store.wait_deleted("b", before.create_revision))
    own_etcd.kill()
    with pytest.raises(KVError, match="etcd"):
        await store.set("a", b"lost")
    own_etcd.start()
    other = await open_client(own_etcd)
    assert await other.set("a", b"2") == 2
    await other.delete("b")
    assert (await value_is(watch, b"2")).version == 2
    assert await value_is(gone, None) is None
    async with asyncio.timeout(LONG_S):
        await waiting
    assert await insist(store.set, "a", b"3") == 3
    await value_is(watch, b"3")


async def test_a_lease_outlives_a_short_restart(open_client, own_etcd):
    store = await open_client(own_etcd)
    lease = await store.grant(LONG_S)
    mine = await store.put_with_lease("k", b"me", lease)
    own_etcd.kill()
    own_etcd.start()
    first = lease.deadline_ns()
    # The next regular keepalive is ten seconds away: ask for one now, as the lease itself would.
    assert await insist(store._connection.keep_alive, lease.id, 1.0) == LONG_S
    assert lease.deadline_ns() == first
    assert await insist(store.get, "k") == mine


async def test_keepalives_find_their_way_back(open_client, own_etcd, monkeypatch):
    store = await open_client(own_etcd)
    # A third of it until a keepalive is due; the rest is for etcd to start again where others want the processor, too.
    lease = await store.grant(12)
    own_etcd.kill()
    stopped_ns = boot_ns()
    renew, failures = lease._renew, 0

    async def counted(*arguments):
        nonlocal failures
        failures += 1
        answer = await renew(*arguments)
        failures -= 1
        return answer

    monkeypatch.setattr(lease, "_renew", counted)
    await until(lambda: failures)
    assert lease.deadline_ns() <= stopped_ns + lease.ttl_ns
    await asyncio.to_thread(own_etcd.start)

    async def renewed():
        return lease.deadline_ns() > stopped_ns + lease.ttl_ns

    await until(renewed)


async def test_a_stopped_etcd_ends_leases_by_the_clock_and_nothing_else(open_client, own_etcd):
    store = await open_client(own_etcd, request_timeout_s=0.5)
    watch = store.watch("a")
    await insist(store.set, "a", b"1")
    await value_is(watch, b"1")
    lease = await store.grant(1)
    await store.put_with_lease("k", b"me", lease)
    own_etcd.stop()
    stopped_ns = boot_ns()
    try:
        with pytest.raises(KVError, match="DEADLINE_EXCEEDED.*takes connections but does not answer|UNAVAILABLE"):
            await store.keys("")
        async with asyncio.timeout(LONG_S):
            await lease.lost()
        assert boot_ns() <= stopped_ns + 10 * lease.ttl_ns
        assert lease.deadline_ns() == 0
    finally:
        own_etcd.resume()
    other = await open_client(own_etcd)
    await insist(other.set, "a", b"2")
    await value_is(watch, b"2")

    async def vanished():
        try:
            await other.get("k")
        except KeyNotFoundError:
            return True
        return False

    await until(vanished)


async def test_a_stream_that_fell_silent_is_opened_anew_elsewhere(open_client, own_etcd):
    async with Relay(own_etcd.address) as relay:
        store = await open_client(relay, own_etcd)
        watch = store.watch("a")
        await store.set("a", b"1")
        await value_is(watch, b"1")
        relay.hold()
        other = await open_client(own_etcd)
        await other.set("a", b"2")
        await value_is(watch, b"2")
        assert relay.held_bytes > 0


async def test_a_connection_that_hangs_without_breaking_is_replaced(open_client, own_etcd):
    """Only the missing progress tells; a release or gRPC's own keepalive, half a minute later, has no part in it."""
    async with Relay(own_etcd.address) as relay:
        store = await open_client(relay, request_timeout_s=1)
        watch = store.watch("a")
        await store.set("a", b"1")
        await value_is(watch, b"1")
        relay.hold()
        other = await open_client(own_etcd)
        await other.set("a", b"2")
        await value_is(watch, b"2")
        assert await insist(store.set, "a", b"3") == 3
        assert relay.held_bytes > 0


async def test_a_lease_replaces_a_connection_that_hangs(open_client, own_etcd):
    async with Relay(own_etcd.address) as relay:
        store = await open_client(relay)
        lease = await store.grant(3)
        relay.hold()
        held_ns = boot_ns()

        async def renewed():
            return lease.deadline_ns() > held_ns + lease.ttl_ns

        await until(renewed)


async def compact(store):
    """Compacts up to the present revision, as an operator's cron job would."""
    answer = await store._connection.call(TXN, {"success": []}, repeatable=True)
    body = b"\x08" + varint(answer["header"]["revision"]) + b"\x10\x01"
    await store._connection.current.unary("/etcdserverpb.KV/Compact", body, 5)


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


async def test_a_compaction_while_the_watch_is_away_hides_nothing(open_client, own_etcd):
    async with Relay(own_etcd.address) as relay:
        store = await open_client(relay)
        watch, still = store.watch("a"), store.watch("b")
        await store.set("a", b"1")
        await store.set("b", b"1")
        await value_is(watch, b"1")
        await value_is(still, b"1")
        relay.hold()
        other = await open_client(own_etcd)
        for number in range(20):
            await other.set("a", b"%d" % (100 + number))
        await other.delete("b")
        await compact(other)
        relay.release()
        await value_is(watch, b"119")
        await value_is(still, None)
        await other.set("a", b"last")
        await value_is(watch, b"last")


async def test_a_watch_that_a_compaction_overtook_reads_again(open_client, own_etcd):
    store = await open_client(own_etcd)
    for number in range(10):
        await store.set("a", b"%d" % number)
    await compact(store)
    watches = store._watches
    create = watches._create

    async def from_the_past(stream, key, state):
        # As if the history between read and watch had been compacted: once only.
        watches._create = create
        revision, state.revision = state.revision, 1
        await create(stream, key, state)
        state.revision = revision

    watches._create = from_the_past
    watch = store.watch("a")
    await value_is(watch, b"9")
    await store.set("a", b"after")
    await value_is(watch, b"after")
    assert watches._create == create


async def test_a_restored_cluster_with_lower_revisions_is_believed(open_client, own_etcd, tmp_path):
    store = await open_client(own_etcd)
    watch = store.watch("a")
    for number in range(20):
        await store.set("a", b"%d" % number)
    await value_is(watch, b"19")
    own_etcd.kill()
    (own_etcd.directory / "data").rename(tmp_path / "old")
    own_etcd.start()
    await insist(store.set, "a", b"restored")
    assert (await value_is(watch, b"restored")).version == 1
    await store.set("a", b"again")
    await value_is(watch, b"again")


async def test_a_start_without_etcd_serves_cached_values(open_client, own_etcd, tmp_path):
    options = {"cache_dir": tmp_path / "cache", "service": "m3aggregator", "zone": "embedded"}
    store = await open_client(own_etcd, **options)
    await store.set("read", b"1")
    await store.set("watched", b"\x00\xff")
    await store.set("deleted", b"x")
    await value_is(store.watch("watched"), b"\x00\xff")
    await store.delete("deleted")
    await store.close()
    own_etcd.kill()

    entries = json.loads((tmp_path / "cache" / "m3aggregator_embedded.json").read_text())["values"]
    assert set(entries) == {"read", "watched"}
    assert entries["watched"]["value"] == "AP8="
    assert entries["watched"]["version"] == 1
    store = await open_client(own_etcd, **options)
    assert (await store.get("read")).data == b"1"
    watch = store.watch("watched")
    assert (await next_of(watch)).data == b"\x00\xff"
    with pytest.raises(KVError):
        await store.get("deleted")
    waiting = asyncio.ensure_future(store.wait_deleted("watched", 10**9))
    own_etcd.start()
    async with asyncio.timeout(LONG_S):
        await waiting
    await insist(store.set, "watched", b"new")
    assert (await next_of(watch)).data == b"new"


async def test_a_silent_etcd_does_not_keep_watches_from_the_cache(open_client, silent, tmp_path):
    cache = {"values": {"a": {"value": "MQ==", "version": 3, "revision": 9}}}
    (tmp_path / "s.json").write_text(json.dumps(cache))
    store = await open_client(silent, cache_dir=tmp_path, service="s", dial_timeout_s=LONG_S, request_timeout_s=LONG_S)
    value = await next_of(store.watch("a"))
    assert (value.data, value.version, value.mod_revision) == (b"1", 3, 9)


@pytest.mark.parametrize("content", [b"", b"{", b'{"values": 3}', b"\xff\xfe", b'{"values":{"a":{"value":"?"}}}'])
async def test_a_damaged_cache_is_a_warning(open_client, tmp_path, capsys, content):
    (tmp_path / "kv.json").write_bytes(content)
    store = await open_client(Nobody(), cache_dir=tmp_path)
    with pytest.raises(KVError):
        await store.get("a")
    assert "cache cannot be read" in capsys.readouterr().err


async def test_a_cache_that_cannot_be_written_warns_once(open_client, shared_etcd, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"")
    store = await open_client(shared_etcd, cache_dir=tmp_path / "file" / "cache")
    for number in range(3):
        await store.set("unwritable", b"%d" % number)
        await store._cache.save()
    assert (await store.get("unwritable")).data == b"2"
    await store.close()
    assert capsys.readouterr().err.count("cache cannot be written") == 1


async def test_a_write_whose_answer_was_lost_says_that_it_may_have_been_made(open_client, own_etcd):
    async with Relay(own_etcd.address) as relay:
        store = await open_client(relay, own_etcd, request_timeout_s=0.5)
        await insist(store.set, "a", b"1")
        relay.hold()
        with pytest.raises(KVError, match="may have been carried out"):
            await store.set("a", b"2")
        with pytest.raises(ConditionFailedError):
            await store.put_if("a", b"3", "lock", 1)


async def test_cancelling_a_call_is_a_cancellation_and_closing_an_error(open_client, own_etcd):
    store = await open_client(own_etcd, request_timeout_s=LONG_S)
    await store.set("a", b"1")
    own_etcd.stop()
    try:
        cancelled, ended = (asyncio.ensure_future(store.get("a")) for _ in range(2))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await store.close()
        with pytest.raises(KVError, match="closed"):
            await ended
    finally:
        own_etcd.resume()


async def test_a_value_that_is_too_large_says_which_limit(open_client, shared_etcd):
    store = await open_client(shared_etcd)
    with pytest.raises(KVError, match="larger than .*max-request-bytes"):
        await store.set("large", bytes(2 << 20))


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def certificates(tmp_path):
    """A CA and a certificate for 127.0.0.1 that serves as the server's and as the client's."""
    folder = tmp_path / "tls"
    folder.mkdir()
    paths = {name: str(folder / name) for name in ("ca.pem", "ca.key", "both.pem", "both.key", "both.csr", "ext")}
    Path(paths["ext"]).write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new, "-keyout", paths["ca.key"], "-out", paths["ca.pem"], "-subj", "/CN=test ca")
    openssl("req", *new, "-keyout", paths["both.key"], "-out", paths["both.csr"], "-subj", "/CN=both")
    sign = ["-CA", paths["ca.pem"], "-CAkey", paths["ca.key"], "-CAcreateserial", "-extfile", paths["ext"]]
    openssl("x509", "-req", "-in", paths["both.csr"], *sign, "-out", paths["both.pem"])
    return paths


async def test_tls_with_client_certificates(open_client, new_etcd, certificates):
    ca, cert, key = certificates["ca.pem"], certificates["both.pem"], certificates["both.key"]
    options = [f"--trusted-ca-file={ca}", f"--cert-file={cert}", f"--key-file={key}", "--client-cert-auth"]
    server = new_etcd(*options, scheme="https").start()
    store = await open_client(server, tls=EtcdTLS(ca, cert, key))
    assert await store.set("a", b"1") == 1
    assert (await next_of(store.watch("a"))).data == b"1"
    for tls in (None, EtcdTLS(ca)):
        stranger = await open_client(server, tls=tls)
        with pytest.raises(KVError, match="TLS of the endpoint"):
            await stranger.get("a")


async def test_tls_files_are_named(tmp_path):
    with pytest.raises(KVError, match="CA file /nowhere/ca.pem: No such file"):
        await open_store(Etcd(("a:1",), tls=EtcdTLS("/nowhere/ca.pem")))
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(KVError, match="is not PEM"):
        await open_store(Etcd(("a:1",), tls=EtcdTLS(tmp_path / "ca.pem")))
    with pytest.raises(ValueError, match="both its certificate file and its key"):
        EtcdTLS(cert_path="a")


def test_grpc_is_imported_only_when_etcd_is_opened():
    check = "import sys, m3cluster.kv; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_connection_names_all_its_endpoints():
    channels = [Channel("a:1", lambda: None, 1), Channel("b:2", lambda: None, 1)]
    connection = Connection(Etcd(("a:1", "b:2")), channels)
    assert connection.name == "a:1, b:2"
    connection.move_on(channels[1])
    assert connection.current is channels[0]
    connection.move_on(channels[0])
    connection.move_on(channels[0])
    assert connection.current is channels[1]


async def test_an_answer_that_is_read_before_its_question_returns_is_an_answer():
    """The reader runs while the question is still being written."""

    class Answering:
        questions = 0

        async def write(self, request):
            await asyncio.sleep(0)
            self.questions += 1
            watches._heard_s, watches._asked_s = asyncio.get_running_loop().time(), None
            await asyncio.sleep(0)

    config = Etcd(("a:1",), watch_silence_s=0.02)
    channel, stream = Channel("a:1", lambda: None, 1), Answering()
    watches = WatchStream(Connection(config, [channel]), config, Cache(None))
    watches._keys["k"] = _Key()
    writing = asyncio.ensure_future(watches._write(channel, stream))

    async def asked_often():
        return writing.done() or stream.questions >= 5

    await until(asked_often)
    assert not writing.done()
    writing.cancel()
    await asyncio.wait([writing])


@pytest.mark.parametrize("error", [grpc.aio.InternalError, grpc.aio.UsageError, asyncio.InvalidStateError])
async def test_whatever_grpc_raises_for_a_stream_that_has_ended_is_an_error_of_ours(error):
    """A batch of operations that fails because the call ended under it is neither a status nor a misuse for gRPC."""

    class Ended:
        async def fail(self, *_):
            raise error('Failed "execute_batch"')

        write = read = fail

    stream = Stream(Channel("a:1", lambda: None, 1), None, "/etcdserverpb.Lease/LeaseKeepAlive", Ended())
    for call in (lambda: stream.write(b""), stream.read):
        with pytest.raises(KVError, match="LeaseKeepAlive failed: Failed"):
            await call()
