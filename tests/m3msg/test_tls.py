"""Producers and the server of port 7507 over TLS, over real sockets."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lab.waiting import until
from tests.m3msg.test_producer_shell import Cluster, Recorder, batch_of
from tests.strangers import HOSTS, LISTENERS, STRANGERS, Certificates, trusting

from m3cluster.topic import ConsumptionType
from m3msg.frames import Message, Metadata, encode_message
from m3x import tls as tls_module
from m3x.instrument import Registry
from m3x.tls import ClientTLSConfig, ServerTLS, TLSError

MESSAGE = encode_message(Message(Metadata(1, 1, 1_700_000_000_000_000_000), b"00000001"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def _no_lines_left_out() -> None:
    tls_module._log._limits.clear()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    try:
        yield made
    finally:
        await made.stack.aclose()
        await made.store.close()
        made.kv.close()


def client(certificates: Certificates, **keys: object) -> ClientTLSConfig:
    """Of a producer with a client certificate."""
    own = certificates.client
    proofs = {"ca_file": str(certificates.authority.cert), "cert_file": str(own.cert), "key_file": str(own.key)}
    return ClientTLSConfig(**{**proofs, **keys})  # type: ignore[arg-type]


async def test_everything_arrives_once_over_mutual_tls(cluster: Cluster, certificates: Certificates) -> None:
    a, b = [await cluster.recorder(ServerTLS(certificates.config(mutual=True))) for _ in range(2)]
    await cluster.topic(ConsumptionType.REPLICATED)
    await cluster.place(a.endpoint, b.endpoint)
    producer = cluster.producer(retry_ms=60_000, tls=client(certificates))
    assert await producer.start()
    await until(lambda: all(i.connected for i in producer.status().services[0].instances))
    # Windows and socket buffers fill, so that writes end in the middle of records.
    for i in range(40):
        assert producer.produce(batch_of(1000, size=1500, first=i * 1000))
    await until(lambda: cluster.acked == 40_000)
    for recorder in (a, b):
        assert len(recorder.numbers) == 40_000
        assert max(recorder.numbers.values()) == 1
    assert b"upgrade_to_tls" not in cluster.registry.render()


async def test_a_permissive_server_takes_producers_of_both_kinds(cluster: Cluster, certificates: Certificates) -> None:
    recorder = await cluster.recorder(ServerTLS(certificates.config("permissive")))
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    for number, tls in enumerate((None, client(certificates))):
        producer = cluster.producer(tls=tls)
        assert await producer.start()
        assert producer.produce(batch_of(100, first=number * 100))
    await until(lambda: len(recorder.numbers) == 200)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"ca_file": "strange"}, "the server's certificate is not accepted: self-signed certificate"),
        ({"server_name": "elsewhere.example"}, "the server's certificate is not accepted: Hostname mismatch"),
        ({"cert_file": "", "key_file": ""}, "client certificate that it accepts|Connection reset"),
    ],
)
async def test_a_producer_says_why_it_cannot_connect(
    cluster: Cluster, certificates: Certificates, keys: dict[str, str], problem: str
) -> None:
    if "ca_file" in keys:
        keys = {"ca_file": str(certificates.strange.cert)}
    recorder = await cluster.recorder(ServerTLS(certificates.config(mutual=True)))
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    producer = cluster.producer(connections=1, tls=client(certificates, **keys))
    await producer.start()
    assert producer.produce(batch_of(10))

    def errors() -> list[str]:
        return [link.last_error for lane in producer.core.lanes() for link in lane.links if link.last_error]

    await until(lambda: any(re.search(problem, error) for error in errors()))
    assert not recorder.numbers


async def test_a_server_without_tls_and_one_that_has_expired(cluster: Cluster, certificates: Certificates) -> None:
    plain = await cluster.recorder()
    expired = await cluster.recorder(ServerTLS(certificates.config(expired=True)))
    await cluster.topic(ConsumptionType.REPLICATED)
    await cluster.place(plain.endpoint, expired.endpoint)
    producer = cluster.producer(connections=1, tls=client(certificates))
    await producer.start()

    def errors() -> str:
        return "\n".join(link.last_error for lane in producer.core.lanes() for link in lane.links)

    await until(lambda: "the server's certificate is not accepted: certificate has expired" in errors())
    # It hangs up on what is no message.
    await until(lambda: "the server broke the TLS connection off" in errors() or "Connection reset" in errors())
    await until(lambda: cluster.registry.counter("consumer_upgrade_to_tls_errors", reason="tls-on-plain-port") >= 1)


async def test_renewed_certificates_are_in_use_without_a_restart(cluster: Cluster, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    recorder = await cluster.recorder(ServerTLS(certificates.config(mutual=True)))
    await cluster.topic(ConsumptionType.SHARED)
    await cluster.place(recorder.endpoint)
    producer = cluster.producer(tls=client(certificates))
    assert await producer.start()
    assert producer.produce(batch_of(100))
    await until(lambda: cluster.acked == 100)
    context = trusting(certificates.authority, certificates.client)

    async def serial() -> bytes | None:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", recorder.server.port, ssl=context, server_hostname="localhost"
        )
        shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return shown

    before = await serial()
    await asyncio.to_thread(certificates.authority.sign, "server", *HOSTS)

    async def renewed() -> bool:
        return await serial() != before

    await until(renewed)
    # The connections of before go on.
    assert producer.produce(batch_of(100, first=100))
    await until(lambda: cluster.acked == 200)


@pytest.mark.parametrize("listener", LISTENERS, ids=str)
async def test_strangers_are_named_and_harm_nobody(
    certificates: Certificates, listener: dict[str, bool] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry()
    config = None if listener is None else certificates.config(**listener)
    recorder = Recorder(None if config is None else ServerTLS(config), registry.scope("consumer"))
    context = None
    if config is not None:
        context = trusting(certificates.authority, certificates.client)
        if config.cert_file == str(certificates.expired_server.cert):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with recorder.server:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", recorder.server.port, ssl=context, server_hostname=None if context is None else "localhost"
        )
        for stranger in [one for one in STRANGERS if one.listener == listener]:
            tls_module._log._limits.clear()
            reason = stranger.refusal.value
            before = _refused(registry, reason)
            capsys.readouterr()
            await asyncio.to_thread(stranger.come, certificates, recorder.server.port)
            await until(lambda reason=reason, n=before + 1: _refused(registry, reason) == n)
            lines = [line for line in capsys.readouterr().err.splitlines() if "connection" in line]
            assert len(lines) == 1
            assert f"m3msg: connection refused: {stranger.refusal.text}" in lines[0]
            writer.write(MESSAGE)
            assert await reader.read(1)
        writer.close()


def _refused(registry: Registry, reason: str) -> float:
    return registry.counter("consumer_upgrade_to_tls_errors", reason=reason)


async def test_files_that_cannot_be_used(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(TLSError, match=r"nothing\.pem"):
        cluster.producer(tls=ClientTLSConfig(ca_file=str(tmp_path / "nothing.pem")))
