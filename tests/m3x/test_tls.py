"""TLS contexts from files: who is trusted, and that changed files are taken up."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from lab.certificates import Authority
from lab.waiting import until

from m3x.config import ConfigError, Duration, load
from m3x.tls import ClientTLS, ClientTLSConfig, ServerTLS, ServerTLSConfig, TLSError

HOSTS = ("DNS:localhost", "IP:127.0.0.1")
NOW = Duration(1)
"""A ``certificatesTTL`` after which files are looked at again at once."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Trusted."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Not trusted, of the same name."""
    return Authority(tmp_path_factory.mktemp("other"))


def server_of(authority: Authority, **keys: object) -> ServerTLSConfig:
    """A server with a certificate of an authority."""
    pair = authority.sign("server", *HOSTS)
    return ServerTLSConfig(mode="enforced", cert_file=str(pair.cert), key_file=str(pair.key), **keys)  # type: ignore[arg-type]


@asynccontextmanager
async def listening(tls: ServerTLS) -> AsyncIterator[int]:
    """An echo server; its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls.context())
    async with server:
        yield server.sockets[0].getsockname()[1]


async def exchange(port: int, tls: ClientTLS, host: str = "localhost") -> bytes:
    """What the server echoes. Raises ``ssl.SSLError`` or ``ConnectionError`` where one side does not trust the other."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls.context(), server_hostname=tls.server_name or host
    )
    try:
        writer.write(b"hello")
        await writer.drain()
        answer = await reader.read(100)
        if not answer:
            raise ConnectionResetError("closed by the server")
        return answer
    finally:
        writer.close()


async def test_a_server_of_a_trusted_authority(authority: Authority, other: Authority) -> None:
    trusting, wrong = (ClientTLS(ClientTLSConfig(ca_file=str(one.cert))) for one in (authority, other))
    async with listening(ServerTLS(server_of(authority))) as port:
        assert await exchange(port, trusting) == b"hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            await exchange(port, wrong)
        with pytest.raises(ssl.SSLCertVerificationError):
            await exchange(port, ClientTLS(ClientTLSConfig()))
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await exchange(port, trusting, "elsewhere.example")
        named = ClientTLS(ClientTLSConfig(ca_file=str(authority.cert), server_name="localhost"))
        assert await exchange(port, named, "elsewhere.example") == b"hello"
        assert (
            await exchange(port, ClientTLS(ClientTLSConfig(insecure_skip_verify=True)), "elsewhere.example") == b"hello"
        )


async def test_clients_have_to_show_a_certificate(authority: Authority, other: Authority) -> None:
    config = server_of(authority, m_tls_enabled=True, client_ca_file=str(authority.cert))
    mine, strange = authority.sign("client"), other.sign("client")
    ca_file = str(authority.cert)
    async with listening(ServerTLS(config)) as port:
        known = ClientTLS(ClientTLSConfig(ca_file=ca_file, cert_file=str(mine.cert), key_file=str(mine.key)))
        assert await exchange(port, known) == b"hello"
        for keys in ({}, {"cert_file": str(strange.cert), "key_file": str(strange.key)}):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await exchange(port, ClientTLS(ClientTLSConfig(ca_file=ca_file, **keys)))


async def test_changed_files_are_taken_up(tmp_path: Path) -> None:
    first = Authority(tmp_path, "first")
    config = server_of(first, certificates_ttl=NOW)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(first.cert.read_bytes())
    client = ClientTLS(ClientTLSConfig(ca_file=str(trusted), certificates_ttl=NOW))
    async with listening(ServerTLS(config)) as port:
        assert await exchange(port, client) == b"hello"
        before = client.context()
        second = Authority(tmp_path, "second")
        second.sign("server", *HOSTS)
        with pytest.raises(ssl.SSLCertVerificationError):
            await exchange(port, client)
        trusted.write_bytes(second.cert.read_bytes())
        await until(lambda: client.context() is not before)
        assert await exchange(port, client) == b"hello"


async def test_files_that_became_unusable_leave_the_earlier_ones_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path)
    config = server_of(authority, certificates_ttl=NOW)
    cert = Path(config.cert_file)
    client = ClientTLS(ClientTLSConfig(ca_file=str(authority.cert)))
    async with listening(ServerTLS(config)) as port:
        await asyncio.to_thread(cert.write_text, "nonsense")
        assert await exchange(port, client) == b"hello"
        await asyncio.to_thread(cert.unlink)
        assert await exchange(port, client) == b"hello"
    assert "the earlier ones stay in use" in capsys.readouterr().err


def test_files_that_cannot_be_used_at_the_start(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "nonsense").write_text("nonsense")
    pair = authority.sign("x")
    for name in ("missing", "nonsense"):
        file = str(tmp_path / name)
        with pytest.raises(TLSError, match=name):
            ClientTLS(ClientTLSConfig(ca_file=file))
        with pytest.raises(TLSError, match=name):
            ServerTLS(ServerTLSConfig(mode="enforced", cert_file=file, key_file=str(pair.key)))
        with pytest.raises(TLSError, match=name):
            ServerTLS(
                ServerTLSConfig(
                    mode="permissive", cert_file=str(pair.cert), key_file=str(pair.key), client_ca_file=file
                )
            )


def test_contexts_stay_the_same_while_files_do(authority: Authority) -> None:
    client = ClientTLS(ClientTLSConfig(ca_file=str(authority.cert), certificates_ttl=NOW))
    assert client.context() is client.context()
    assert client.context().minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("cls", "text", "problem"),
    [
        (ClientTLSConfig, "certFile: a", "certFile and keyFile belong together"),
        (ServerTLSConfig, "mode: enforced", "mode enforced needs certFile and keyFile"),
        (
            ServerTLSConfig,
            "{mode: enforced, certFile: a, keyFile: b, mTLSEnabled: true}",
            "mTLSEnabled needs clientCAFile",
        ),
        (ServerTLSConfig, "certificatesTTL: -1s", "certificatesTTL must not be negative"),
        (ServerTLSConfig, "mode: on", "expected one of 'disabled', 'permissive', 'enforced'"),
    ],
)
def test_sections_that_cannot_be(cls: type[ClientTLSConfig], text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        load([tmp_path / "a.yml"], cls)


def test_keys_of_m3(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(
        "{enabled: true, insecureSkipVerify: false, serverName: host, caFile: a, certFile: b, keyFile: c, certificatesTTL: 1m}"
    )
    config = load([tmp_path / "c.yml"], ClientTLSConfig).value
    assert (config.ca_file, config.cert_file, config.server_name) == ("a", "b", "host")
    (tmp_path / "s.yml").write_text(
        "{mode: permissive, mTLSEnabled: true, certFile: a, keyFile: b, clientCAFile: c, certificatesTTL: 1m}"
    )
    assert load([tmp_path / "s.yml"], ServerTLSConfig).value.client_ca_file == "c"
