"""Bearer tokens: who may call what, how refusals look, where tokens come from, and that they show nowhere."""

import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from m3x import access as rooms
from m3x import reloading
from m3x.access import Access, AccessError, Right, SecurityConfig, TokenSource, exposed, unusable
from m3x.config import ConfigError, load
from m3x.instrument import Registry
from m3x.tls import ServerTLSConfig
from m3x.web import serve

ADMIN, WRITER, READER, STRANGER = (f"{name}-0123456789abcdef" for name in ("admin", "writer", "reader", "stranger"))
CALLS = {
    "/health": Right.NONE,
    "/read": Right.READS,
    "/write": Right.WRITES,
    "/admin": Right.ADMIN,
}


@pytest.fixture(autouse=True)
def _no_lines_left_out() -> Iterator[None]:
    rooms._log._limits.clear()
    yield
    logging.getLogger("uvicorn.error").handlers.clear()


def config_of(directory: Path, **tokens: str) -> SecurityConfig:
    """``admin``, ``write``, ``read``: what is in the files of these."""
    keys: dict[str, Any] = {}
    for name, text in tokens.items():
        file = directory / f"{name}.token"
        file.write_text(text)
        keys[f"{name}_tokens"] = [TokenSource(file=str(file))]
    return SecurityConfig(**keys)


@asynccontextmanager
async def serving(config: SecurityConfig, registry: Registry) -> AsyncIterator[httpx.AsyncClient]:
    """A service that answers 200 to whom it lets in."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    guarded = Access(config, registry.scope("http")).guarding(app, lambda _, path: CALLS[path])
    async with serve(guarded, "127.0.0.1:0") as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


def bearer(token: str, scheme: str = "Bearer") -> dict[str, str]:
    """The header."""
    return {"Authorization": f"{scheme} {token}"}


async def test_each_right_has_its_tokens(tmp_path: Path) -> None:
    config = config_of(tmp_path, admin=ADMIN, write=WRITER, read=READER)
    may = {
        ADMIN: {"/health", "/read", "/write", "/admin"},
        WRITER: {"/health", "/write"},
        READER: {"/health", "/read"},
        STRANGER: {"/health"},
        "": {"/health"},
    }
    async with serving(config, Registry()) as client:
        for token, paths in may.items():
            for path in CALLS:
                answer = await client.post(path, headers=bearer(token) if token else {}, content=b"x" * 100_000)
                assert (answer.status_code == 200) == (path in paths), (token, path)


async def test_rights_without_tokens_are_everybodys(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path, admin=ADMIN), Registry()) as client:
        assert [(await client.get(path)).status_code for path in CALLS] == [200, 200, 200, 401]
    async with serving(SecurityConfig(), Registry()) as client:
        assert [(await client.get(path)).status_code for path in CALLS] == [200] * 4


@pytest.mark.parametrize(
    ("headers", "status", "challenge", "reason"),
    [
        ({}, 401, 'Bearer realm="m3"', "no-token"),
        (bearer(STRANGER), 401, 'Bearer realm="m3", error="invalid_token"', "unknown-token"),
        (bearer(ADMIN[:-1]), 401, 'Bearer realm="m3", error="invalid_token"', "unknown-token"),
        (bearer(ADMIN, "Basic"), 401, 'Bearer realm="m3", error="invalid_request"', "no-bearer-token"),
        ({"Authorization": "Bearer"}, 401, 'Bearer realm="m3", error="invalid_request"', "no-bearer-token"),
        (bearer(WRITER), 403, 'Bearer realm="m3", error="insufficient_scope"', "token-without-this-right"),
    ],
)
async def test_refusals_say_what_is_missing(
    headers: dict[str, str],
    status: int,
    challenge: str,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registry = Registry()
    async with serving(config_of(tmp_path, admin=ADMIN, write=WRITER), registry) as client:
        answer = await client.post("/admin", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (status, challenge)
    assert json.loads(answer.content)["error"].startswith("this call needs a token of security.adminTokens, and ")
    assert registry.counter("http_http_refused", reason=reason, needs="admin") == 1
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    said = [line for line in lines if line["msg"].startswith("HTTP: a call was refused")]
    assert [(line["path"], line["needs"], line["peer"][:10]) for line in said] == [("/admin", "admin", "127.0.0.1:")]
    for text in (answer.text, json.dumps(lines), registry.render().decode()):
        for token in (ADMIN, ADMIN[:-1], WRITER, STRANGER):
            assert token not in text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Token"])
async def test_schemes_that_carry_a_token(scheme: str, tmp_path: Path) -> None:
    async with serving(config_of(tmp_path, admin=ADMIN), Registry()) as client:
        assert (await client.get("/admin", headers=bearer(ADMIN, scheme))).status_code == 200


async def test_two_authorizations_are_none(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path, admin=ADMIN), Registry()) as client:
        headers = [("Authorization", f"Bearer {token}") for token in (ADMIN, STRANGER)]
        assert (await client.get("/admin", headers=headers)).status_code == 401


async def test_files_are_read_again_when_they_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "_MIN_LOOK_S", 0.0)
    config = config_of(tmp_path, admin=f"# the old one\n{ADMIN}\n\n")
    file = tmp_path / "admin.token"
    async with serving(config, Registry()) as client:

        async def status(token: str) -> int:
            return (await client.get("/admin", headers=bearer(token))).status_code

        async def is_in(token: str) -> bool:
            return await status(token) == 200

        file.write_text(f"{ADMIN}\n{STRANGER}\n")
        assert await is_in(STRANGER)
        assert await is_in(ADMIN)
        file.write_text(f"{STRANGER}\n# and no other\n")
        assert not await is_in(ADMIN)
        # What cannot be used changes nothing.
        file.write_text("short\n")
        assert await is_in(STRANGER)
    assert "changed tokens cannot be used: the earlier ones stay in use" in capsys.readouterr().err


def test_tokens_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SecurityConfig(admin_tokens=[TokenSource(environment="A_TOKEN")])
    monkeypatch.delenv("A_TOKEN", raising=False)
    with pytest.raises(AccessError, match="variable A_TOKEN has none"):
        Access(config, Registry().scope())
    monkeypatch.setenv("A_TOKEN", ADMIN)
    assert list(unusable(config)) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has none: expected a token in a line"),
        (b"# nothing\n\n", "has none"),
        (b"hunter2", "token 1 is too short"),
        (f"{ADMIN}\nwith a space in it".encode(), "token 2 is too short, or has other characters"),
        (b"\xff" * 20, "it is not UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_without_usable_tokens(content: bytes | None, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    config = SecurityConfig(write_tokens=[TokenSource(file=str(file))])
    with pytest.raises(AccessError, match=problem) as refusal:
        Access(config, Registry().scope())
    assert "hunter2" not in str(refusal.value)
    assert [key for key, _ in unusable(config)] == ["security"]


@pytest.mark.parametrize("text", ["{}", "{file: a, environment: B}"])
def test_a_source_is_one_of_two(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(f"adminTokens: [{text}]")
    with pytest.raises(ConfigError, match="one of file and environment is needed"):
        load([tmp_path / "a.yml"], SecurityConfig)


def test_what_is_open_is_said() -> None:
    tls = {"cert_file": "c", "key_file": "k"}
    tokens = [TokenSource(file="t")]
    mutual = ServerTLSConfig(mode="enforced", m_tls_enabled=True, client_ca_file="a", **tls)  # type: ignore[arg-type]
    permissive = ServerTLSConfig(mode="permissive", m_tls_enabled=True, client_ca_file="a", **tls)  # type: ignore[arg-type]
    one_way = ServerTLSConfig(mode="enforced", **tls)  # type: ignore[arg-type]

    def said(address: str, **keys: Any) -> list[str]:
        return [line.split()[0] for line in exposed(SecurityConfig(**keys), address, "listenAddress")]

    assert said("0.0.0.0:7201") == said("10.0.0.1:1") == said("[::]:1") == said("host:1") == ["ANYBODY"]
    for near in ("127.0.0.1:7201", "127.1.2.3:1", "[::1]:1", "localhost:1", "unix:/a"):
        assert said(near) == []
    assert said("0.0.0.0:1", tls=mutual) == []
    assert said("0.0.0.0:1", tls=permissive) == said("0.0.0.0:1", tls=one_way) == ["ANYBODY"]
    assert said("0.0.0.0:1", admin_tokens=tokens) == ["tokens"]
    assert said("0.0.0.0:1", admin_tokens=tokens, tls=one_way) == []
    assert said("0.0.0.0:1", write_tokens=tokens) == ["ANYBODY", "tokens"]
