"""The HTTP client: redirects, credentials, proxies, TLS, and that nothing secret is ever said."""

import asyncio
import base64
import os
import random
import re
import ssl
from pathlib import Path

import cramjam
import pytest
from lab.certificates import Authority
from lab.receiver import Received, Receiver, Reply
from lab.waiting import until

from coordinator.sinks.prom_remote.answers import Answer, Kind
from coordinator.sinks.prom_remote.credentials import Address
from coordinator.sinks.prom_remote.sender import Endpoint, Sender
from m3x.tls import ClientTLS, ClientTLSConfig

BODY = bytes([3, 8]) + b"abc"
"""``abc`` in snappy's block format: not much of a request, but one that can be decompressed."""
SECRET = "s3cret-Token"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own proxies only."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def post(url: str, **keys: object) -> Answer:
    """One request by a sender of its own."""
    sender = Sender(Endpoint(Address.parse(url), **keys))  # type: ignore[arg-type]
    try:
        return await sender.post(BODY)
    finally:
        await sender.close()


def basic_header(user: str, password: str) -> str:
    """As browsers write it."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("status", [307, 308])
async def test_redirects_keep_method_and_body(status: int) -> None:
    def answer(received: Received) -> Reply:
        return Reply(status, headers={"Location": "b?x=y"}) if received.path == "/w/a" else Reply(204)

    async with Receiver(answer) as receiver:
        sent = await post(f"http://user:{SECRET}@{receiver.host}/w/a", headers={"X-Scope-OrgID": "t"})
    assert sent.kind is Kind.STORED
    assert [(one.method, one.path, one.proto) for one in receiver.requests] == [
        ("POST", "/w/a", b"abc"), ("POST", "/w/b?x=y", b"abc"),
    ]  # fmt: skip
    assert [one.header("authorization") for one in receiver.requests] == [basic_header("user", SECRET)] * 2
    assert [one.header("x-scope-orgid") for one in receiver.requests] == ["t", "t"]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304])
async def test_redirects_that_would_lose_the_data_are_held(status: int) -> None:
    async with Receiver(lambda _: Reply(status, headers={"Location": "/b"} if status != 304 else {})) as receiver:
        sent = await post(f"{receiver.url}/a")
    assert sent.kind is Kind.HELD
    assert len(receiver.requests) == 1
    assert status == 304 or f"{receiver.url}/b" in sent.text


async def test_credentials_do_not_go_to_another_host() -> None:
    async with Receiver() as target:
        elsewhere = f"http://localhost:{target.host.rpartition(':')[2]}/b"
        async with Receiver(lambda _: Reply(307, headers={"Location": elsewhere})) as receiver:
            held = await post(f"http://user:{SECRET}@{receiver.host}/a")
            also_held = await post(f"{receiver.url}/a", headers={"X-Scope-OrgID": "t"})
            assert target.requests == []
            followed = await post(f"{receiver.url}/a")
    assert (held.kind, also_held.kind, followed.kind) == (Kind.HELD, Kind.HELD, Kind.STORED)
    assert "another host" in held.text
    assert elsewhere in held.text


@pytest.mark.parametrize(
    "location", ["http://[", "http://h:port/", "ftp://h/", "http://[::1/x", "http://u:p@127.0.0.1:1/", ""]
)
async def test_redirects_to_nowhere_are_held_or_tried_again(location: str) -> None:
    async with Receiver(lambda _: Reply(308, headers={"Location": location})) as receiver:
        sent = await post(f"{receiver.url}/a")
    assert sent.kind is (Kind.LATER if "127.0.0.1" in location else Kind.HELD)
    assert "u:p" not in sent.text


async def test_redirects_in_a_circle_end() -> None:
    async with Receiver(lambda _: Reply(308, headers={"Location": "/a"})) as receiver:
        sent = await post(f"{receiver.url}/a")
    assert sent.kind is Kind.HELD
    assert len(receiver.requests) == 6


async def test_a_token_is_read_again_when_the_file_changes(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with Receiver() as receiver:
        sender = Sender(Endpoint(Address.parse(receiver.url), bearer_token_file=str(token)))
        for text in ("first", "second-token"):
            token.write_text(f"{text}\n")
            assert (await sender.post(BODY)).kind is Kind.STORED
        token.unlink()
        missing = await sender.post(BODY)
        await sender.close()
    assert [one.header("authorization") for one in receiver.requests] == ["Bearer first", "Bearer second-token"]
    assert missing.kind is Kind.HELD
    assert str(token) in missing.text


async def test_after_401_the_file_is_read_again_at_once(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("old-password")
    before = password.stat()

    def answer(received: Received) -> Reply:
        return Reply(204 if received.header("authorization") == basic_header("user", "new-password") else 401)

    async with Receiver(answer) as receiver:
        sender = Sender(Endpoint(Address.parse(receiver.url), user="user", password_file=str(password)))
        assert (await sender.post(BODY)).kind is Kind.HELD
        # The same size, inode and time: nothing but the content tells.
        password.write_text("new-password")
        os.utime(password, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (await sender.post(BODY)).kind is Kind.STORED
        await sender.close()
    assert len(receiver.requests) == 3


async def test_user_info_of_the_address_is_decoded_as_go_does() -> None:
    async with Receiver() as receiver:
        await post(f"http://us%40er:p%3Aw%20%C3%A9@{receiver.host}/a%2Fb?q=%20")
    (received,) = receiver.requests
    assert received.path == "/a%2Fb?q=%20"
    assert received.header("authorization") == basic_header("us@er", "p:w é")
    assert received.header("host") == receiver.host


async def test_a_proxy_of_the_configuration_and_one_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver() as proxy:
        with_user = f"http://me:{SECRET}@{proxy.host}"
        await post("http://store.invalid/w?a=b", proxy=Address.parse(with_user))
        monkeypatch.setenv("HTTP_PROXY", proxy.host)
        monkeypatch.setenv("http_proxy", proxy.host)
        monkeypatch.setenv("no_proxy", "near.invalid")
        await post("http://far.invalid/w")
        assert (await post("http://near.invalid/w")).kind is Kind.LATER
        async with Receiver() as local:
            await post(f"{local.url}/w")
            assert len(local.requests) == 1
    assert [(one.path, one.header("proxy-authorization")) for one in proxy.requests] == [
        ("http://store.invalid/w?a=b", basic_header("me", SECRET)), ("http://far.invalid/w", None),
    ]  # fmt: skip


async def test_tls_with_the_right_and_a_wrong_authority(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path, "right"), Authority(tmp_path, "wrong")
    pair = authority.sign("server", "IP:127.0.0.1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.cert, pair.key)
    async with Receiver(tls=server) as receiver:
        answers = [
            await post(receiver.url, tls=tls)
            for tls in (
                ClientTLS(ClientTLSConfig(ca_file=str(authority.cert))),
                ClientTLS(ClientTLSConfig(ca_file=str(other.cert))),
                ClientTLS(ClientTLSConfig(ca_file=str(authority.cert), server_name="elsewhere")),
                None,
            )
        ]
    assert [one.kind for one in answers] == [Kind.STORED, Kind.HELD, Kind.HELD, Kind.HELD]
    assert re.match(r"TLS: the certificate of 127\.0\.0\.1:\d+ is not accepted: ", answers[1].text)
    assert len(receiver.requests) == 1


async def test_no_connection_and_no_tls_are_said_in_plain_words() -> None:
    async with Receiver() as receiver:
        answer = await post(f"https://{receiver.host}/w")
        assert answer.kind is Kind.HELD
        assert answer.text.startswith(f"TLS: no agreement with {receiver.host}: ")
        assert answer.text.endswith("if plain HTTP is spoken there, address must begin with http://")
    answer = await post(f"http://{receiver.host}/w")
    assert (answer.kind, answer.arrived) == (Kind.LATER, False)
    assert answer.text == f"cannot connect to {receiver.host}: Connection refused"
    answer = await post("http://store.invalid/w")
    assert answer.kind is Kind.LATER
    assert re.fullmatch(r"cannot connect to store\.invalid:80: [^\[\]]+", answer.text)


async def test_time_outs_say_which() -> None:
    async with Receiver(lambda _: Reply(delay_s=30)) as receiver:
        answer = await post(receiver.url, request_timeout_s=0.2)
        assert answer.kind is Kind.LATER
        assert "requestTimeout 0.2s" in answer.text
        receiver.answer = lambda _: Reply(delay_s=0.3)
        assert (await post(receiver.url, request_timeout_s=0.0)).kind is Kind.STORED


@pytest.mark.parametrize(("status", "kind"), [(200, Kind.STORED), (400, Kind.REFUSED)])
async def test_a_status_counts_though_its_body_breaks_off(status: int, kind: Kind) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\nhalf of" % status)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        sent = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert sent.kind is kind
    assert status == 200 or sent.text == "status 400: half of"


async def test_a_status_counts_though_its_body_does_not_end() -> None:
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of")
        await gone.wait()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        sent = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", request_timeout_s=1.0)
        gone.set()
    assert sent.kind is Kind.STORED


async def test_idle_connections_are_closed() -> None:
    async with Receiver() as receiver:
        sender = Sender(Endpoint(Address.parse(receiver.url), idle_timeout_s=0.05))
        await sender.post(BODY)

        async def another() -> bool:
            await sender.post(BODY)
            return len(receiver.connections) > 1

        await until(another, every_s=0.2)
        await sender.close()


async def test_a_body_of_megabytes() -> None:
    content = random.Random(1).randbytes(3 << 20)

    def answer(received: Received) -> Reply:
        return Reply(307, headers={"Location": "/b"}) if received.path == "/a" else Reply()

    async with Receiver(answer) as receiver:
        sender = Sender(Endpoint(Address.parse(f"{receiver.url}/a")))
        assert (await sender.post(bytes(cramjam.snappy.compress_raw(content)))).kind is Kind.STORED
        await sender.close()
    assert [one.proto == content for one in receiver.requests] == [True, True]
    assert receiver.requests[0].header("content-length") is not None


def secret_endpoints(host: str, tmp_path: Path) -> list[dict[str, object]]:
    """Every way to configure ``SECRET``."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return [
        {"url": f"http://user:{SECRET}@{host}/w"},
        {"url": f"http://{host}/w?key={SECRET}&x=y"},
        {"url": f"http://{host}/w", "headers": {"X-Token": SECRET}},
        {"url": f"http://{host}/w", "bearer_token_file": str(file)},
        {"url": f"http://{host}/w", "user": "user", "password_file": str(file)},
        {"url": f"http://{host}/w", "proxy": Address.parse(f"http://user:{SECRET}@{host}")},
    ]


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("status", [400, 401, 302, 307, 500])
async def test_secrets_never_show(place: int, status: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not even when the endpoint says them itself."""

    def answer(received: Received) -> Reply:
        said = " ".join([received.path, *(value for _, value in received.headers)])
        return Reply(status, said, {"Location": f"http://user:{SECRET}@h.invalid/x?key={SECRET}"})

    async with Receiver(answer) as receiver:
        keys = secret_endpoints(receiver.host, tmp_path)[place]
        told = await post(**keys)  # type: ignore[arg-type]
        sender = Sender(Endpoint(Address.parse(str(keys["url"]))))
        shown = sender.shown
    nobody = await post(**keys)  # type: ignore[arg-type]
    output = capfd.readouterr()
    encoded = basic_header("user", SECRET).partition(" ")[2]
    for text in (told.text, told.body, repr(told), nobody.text, shown, output.out, output.err):
        assert SECRET not in text
        assert encoded not in text
