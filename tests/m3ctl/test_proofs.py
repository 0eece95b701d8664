"""m3ctl over TLS and with tokens: what it shows to whom, what it says when that is not enough, and that no token is seen."""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.m3ctl.conftest import Server
from tests.strangers import Certificates

from m3ctl.cli import main

TOKEN = "a-token-0123456789abcdef"
REFUSED = (401, b'{"status":"error","error":"this call needs a token of security.readTokens or adminTokens"}\n')
TOPIC = (
    200,
    b'{"topic":{"name":"t","numberOfShards":4,"consumerServices":[{"serviceId":'
    b'{"name":"m3coordinator","environment":"e","zone":"z"},"consumptionType":"SHARED","messageTtlNanos":"0"}]},"version":2}',
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificates: Certificates) -> Iterator[Server]:
    """A coordinator that asks for a client certificate and a token."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.authority.cert))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    made = Server(context)
    made.answers["GET", "/api/v1/topic"] = lambda headers: (
        TOPIC if headers["Authorization"] == f"Bearer {TOKEN}" else REFUSED
    )
    yield made
    made.close()


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    (tmp_path / "token").write_text(f"# mine\n{TOKEN}\n")
    return str(tmp_path / "token")


def proofs(certificates: Certificates) -> list[str]:
    client = certificates.client
    return [
        *("--ca-file", str(certificates.authority.cert)),
        *("--cert-file", str(client.cert), "--key-file", str(client.key)),
    ]


def ctl(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["topic", "t", *arguments])
    found = capsys.readouterr()
    assert TOKEN not in found.out + found.err
    return code, found.out + found.err


def test_a_token_from_a_file_or_the_environment(
    server: Server,
    certificates: Certificates,
    token_file: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = ["--coordinator", f"localhost:{server.port}", *proofs(certificates)]
    assert ctl(capsys, *where, "--token-file", token_file)[0] == 0
    code, said = ctl(capsys, *where)
    assert code == 1
    assert (
        "answered 401: this call needs a token of security.readTokens or adminTokens; give one with --token-file"
        in said
    )
    monkeypatch.setenv("M3CTL_TOKEN", TOKEN)
    assert ctl(capsys, *where)[0] == 0
    monkeypatch.setenv("M3CTL_TOKEN", "another-token-0123456789")
    assert "the token of --token-file or M3CTL_TOKEN is not good for it" in ctl(capsys, *where)[1]


def test_files_named_by_the_environment(
    server: Server,
    certificates: Certificates,
    token_file: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in zip(("CA_FILE", "CERT_FILE", "KEY_FILE"), proofs(certificates)[1::2], strict=True):
        monkeypatch.setenv(f"M3CTL_{name}", value)
    monkeypatch.setenv("M3CTL_TOKEN_FILE", token_file)
    monkeypatch.setenv("M3CTL_COORDINATOR", f"https://localhost:{server.port}")
    assert ctl(capsys)[0] == 0


def test_what_is_wrong_with_tls_is_said(
    server: Server, certificates: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    own, strange = str(certificates.authority.cert), str(certificates.strange.cert)
    code, said = ctl(capsys, "--coordinator", f"https://localhost:{server.port}", "--ca-file", strange)
    assert code == 1
    assert "the server's certificate is not accepted: self-signed certificate" in said
    code, said = ctl(capsys, "--coordinator", f"https://localhost:{server.port}", "--ca-file", own)
    assert code == 1
    # A server that closes with the request unread may reset the connection before its alert is read.
    assert "client certificate that it accepts" in said or "Connection reset by peer" in said


def test_a_plain_server_is_told_apart(certificates: Certificates, capsys: pytest.CaptureFixture[str]) -> None:
    plain = Server()
    try:
        code, said = ctl(capsys, "--coordinator", f"https://localhost:{plain.port}", *proofs(certificates))
    finally:
        plain.close()
    assert code == 1
    assert "the server speaks no TLS on this port" in said


def test_a_token_does_not_follow_to_another_server(token_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = Server(), Server()
    one.answers["GET", "/api/v1/topic"] = lambda _: (302, b"")
    one.more_headers["Location"] = f"{other.url}/api/v1/topic"
    try:
        code, said = ctl(capsys, "--coordinator", one.url, "--token-file", token_file)
    finally:
        one.close()
        other.close()
    assert (code, other.seen) == (1, [])
    assert "answered 302" in said


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--token-file", "/nowhere"], "--token-file /nowhere cannot be read: No such file or directory"),
        (["--ca-file", "/nowhere"], "TLS: /nowhere: No such file or directory"),
        (["--cert-file", "/nowhere"], "certFile and keyFile belong together"),
        (["--coordinator", f"http://me:{TOKEN}@host:1"], "an URL with a user or a password in it"),
    ],
)
def test_arguments_that_cannot_be(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = ctl(capsys, *arguments)
    assert code == 2
    assert problem in said


def test_json_output_has_the_refusal_too(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server()
    server.answers["GET", "/api/v1/topic"] = REFUSED
    try:
        assert main(["topic", "t", "--coordinator", server.url, "--json"]) == 1
    finally:
        server.close()
    assert "answered 401" in json.loads(capsys.readouterr().out)["problems"][0]
