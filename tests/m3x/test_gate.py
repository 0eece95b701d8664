"""Who is let in over HTTP with TLS, over real sockets; each refusal is one line and one count, and concerns nobody else."""

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import httpx
import pytest
from lab.waiting import until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tests.strangers import CASES, HOSTS, STRANGERS, Certificates, Stranger, trusting

from m3x import gate as gates
from m3x import tls
from m3x.gate import Gate
from m3x.instrument import Registry
from m3x.pace import Pace
from m3x.tls import Refusal, ServerTLS, ServerTLSConfig
from m3x.web import Sharing, serve, serve_shared


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def _no_lines_left_out() -> None:
    """Of one kind there is one line a second."""
    tls._log._limits.clear()


async def _scheme(request: Request) -> Response:
    return PlainTextResponse(f"{request.url.scheme} {len(await request.body())}")


APP = Starlette(routes=[Route("/health", _scheme, methods=["GET", "POST"])])


class Alone:
    """Takes all connections."""

    def pause_s(self, connections: int) -> float:
        return 0.0

    def have(self, connections: int) -> None:
        pass


def _gate(registry: Registry, config: ServerTLSConfig | None) -> Gate:
    return Gate("HTTP", registry.scope("http"), None if config is None else ServerTLS.of(config))


def _refused(registry: Registry, refusal: Refusal) -> float:
    return registry.counter("http_upgrade_to_tls_errors", reason=refusal.value)


@pytest.mark.parametrize("stranger", STRANGERS, ids=CASES)
async def test_strangers_are_named_and_harm_nobody(
    stranger: Stranger, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry()
    config = None if stranger.listener is None else certificates.config(**stranger.listener)
    context = trusting(certificates.authority, certificates.client)
    if config is not None and config.cert_file == str(certificates.expired_server.cert):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    scheme = "http" if config is None else "https"
    async with (
        serve(APP, "127.0.0.1:0", _gate(registry, config)) as port,
        httpx.AsyncClient(verify=context, base_url=f"{scheme}://localhost:{port}") as neighbour,
    ):
        assert (await neighbour.get("/health")).text == f"{scheme} 0"
        await asyncio.to_thread(stranger.come, certificates, port)
        await until(lambda: _refused(registry, stranger.refusal) == 1)
        # Over the same connection.
        assert (await neighbour.get("/health")).text == f"{scheme} 0"
    lines = [line for line in capsys.readouterr().err.splitlines() if "connection refused" in line]
    assert len(lines) == 1
    assert stranger.refusal.text in lines[0]
    assert '"peer": "127.0.0.1:' in lines[0]


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
async def test_a_permissive_port_takes_both(certificates: Certificates, shared: bool) -> None:
    registry = Registry()
    gate = _gate(registry, certificates.config("permissive"))
    body = b"x" * 3_000_000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sharing: Sharing = Alone()
        server = serve_shared(APP, listener, sharing, gate) if shared else serve(APP, "127.0.0.1:0", gate)
        async with server as bound, httpx.AsyncClient(verify=trusting(certificates.authority)) as client:
            port = listener.getsockname()[1] if shared else bound
            for scheme in ("http", "https"):
                answer = await client.post(f"{scheme}://localhost:{port}/health", content=body)
                assert answer.text == f"{scheme} {len(body)}"
    assert "upgrade_to_tls" not in registry.render().decode()


@pytest.mark.parametrize("mode", ["permissive", "enforced"])
async def test_whoever_only_looks_whether_the_port_is_open_is_no_stranger(
    certificates: Certificates, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry()
    gate = _gate(registry, certificates.config(mode))
    async with serve(APP, "127.0.0.1:0", gate) as port:
        with socket.create_connection(("127.0.0.1", port)):
            pass
        async with httpx.AsyncClient(verify=trusting(certificates.authority)) as client:
            assert (await client.get(f"https://localhost:{port}/health")).status_code == 200
    assert "upgrade_to_tls" not in registry.render().decode()
    assert "refused" not in capsys.readouterr().err


@pytest.mark.parametrize("sent", [b"", bytes((0x16, 3, 1))], ids=["silent", "half a handshake"])
async def test_a_handshake_that_does_not_end_is_given_up(
    certificates: Certificates, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "HANDSHAKE_S", 0.05)
    registry = Registry()
    async with serve(APP, "127.0.0.1:0", _gate(registry, certificates.config())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()
    assert _refused(registry, Refusal.TIMEOUT) == 1


async def test_a_server_ends_while_handshakes_are_under_way(certificates: Certificates) -> None:
    registry = Registry()
    async with serve(APP, "127.0.0.1:0", _gate(registry, certificates.config("permissive"))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes((0x16, 3)))
        await writer.drain()
    # Reset, as half a handshake was not read.
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    registry = Registry()
    gate = _gate(registry, certificates.config())
    async with (
        serve(APP, "127.0.0.1:0", gate) as port,
        httpx.AsyncClient(verify=trusting(certificates.authority), base_url=f"https://localhost:{port}") as neighbour,
    ):
        assert (await neighbour.get("/health")).status_code == 200
        before = await _serial(port)
        await asyncio.to_thread(certificates.authority.sign, "server", *HOSTS)

        async def renewed() -> bool:
            return await _serial(port) != before

        await until(renewed)
        assert (await neighbour.get("/health")).status_code == 200


async def _serial(port: int) -> str:
    """Of the certificate that the port shows."""
    pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    return pem


async def test_handshakes_take_turns(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "handshakes", lambda: Pace(4, 1))
    registry = Registry()
    async with serve(APP, "127.0.0.1:0", _gate(registry, certificates.config())) as port:
        flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in flood:
            writer.write(bytes((0x16, 3, 1)))
        await until(lambda: registry.counter("http_handshakes_delayed") == 3)
        for _, writer in flood:
            writer.close()
        await until(lambda: _refused(registry, Refusal.CLOSED) == 4)
        async with httpx.AsyncClient(verify=trusting(certificates.authority)) as client:
            assert (await client.get(f"https://localhost:{port}/health")).status_code == 200
