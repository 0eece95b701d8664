"""TLS and tokens of a whole coordinator: which calls need which token, and what it says at its start."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.strangers import Certificates, trusting

from coordinator.cli import main
from coordinator.config import load_coordinator
from coordinator.rights import rights
from coordinator.service import Coordinator, StartError, running
from m3x.access import Right

ROOT = Path(__file__).parents[2]
ADMIN, WRITER, READER = (f"{name}-0123456789abcdef" for name in ("admin", "writer", "reader"))
OVERLAY = """
listenAddress: {address}
metrics: {{prometheus: {{listenAddress: 127.0.0.1:0}}}}
carbon: {{ingester: {{listenAddress: 127.0.0.1:0}}}}
ingest: {{m3msg: {{server: {{listenAddress: 127.0.0.1:0}}}}}}
security: {security}
"""
TOKENS = {"adminTokens": ADMIN, "writeTokens": WRITER, "readTokens": READER}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


def _tokens(folder: Path, *keys: str) -> dict[str, object]:
    for key in keys:
        (folder / key).write_text(TOKENS[key])
    return {key: [{"file": str(folder / key)}] for key in keys}


def _files(folder: Path, security: dict[str, object], address: str = "127.0.0.1:0") -> list[Path]:
    overlay = folder / "overlay.yml"
    overlay.write_text(OVERLAY.format(address=address, security=json.dumps(security)))
    return [ROOT / "configs/local/m3coordinator.yml", overlay]


@asynccontextmanager
async def _running(
    folder: Path, security: dict[str, object], address: str = "127.0.0.1:0"
) -> AsyncIterator[Coordinator]:
    loaded = load_coordinator(_files(folder, security, address))
    async with running(loaded.value, folder, loaded.places) as coordinator:
        yield coordinator


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


CALLS = [
    ("GET", "/health", {"", ADMIN, WRITER, READER}),
    ("GET", "/ready", {"", ADMIN, WRITER, READER}),
    ("GET", "/routes", {ADMIN, READER}),
    ("GET", "/api/v1/topic", {ADMIN, READER}),
    ("POST", "/api/v1/topic/init", {ADMIN}),
    ("DELETE", "/api/v1/topic", {ADMIN}),
    ("POST", "/api/v1/kvstore", {ADMIN}),
    ("POST", "/api/v1/services/m3aggregator/placement/init", {ADMIN}),
    ("DELETE", "/api/v1/services/m3aggregator/placement/a", {ADMIN}),
    ("POST", "/nothing/there", {ADMIN}),
    ("GET", "/debug/anything", {ADMIN}),
    ("POST", "/api/v1/prom/remote/write", {ADMIN, WRITER}),
    ("POST", "/api/v1/json/write", {ADMIN, WRITER}),
    ("POST", "/api/v1/influxdb/write", {ADMIN, WRITER}),
    ("POST", "/api/v1/query", {ADMIN, READER}),
    ("POST", "/api/v1/prom/remote/read", {ADMIN, READER}),
]


async def test_every_call_needs_its_token_over_tls(tmp_path: Path, certificates: Certificates) -> None:
    pair = certificates.server
    tls = {"mode": "enforced", "certFile": str(pair.cert), "keyFile": str(pair.key)}
    security = {"tls": tls, "metricsTLS": tls, **_tokens(tmp_path, *TOKENS)}
    async with (
        _running(tmp_path, security) as coordinator,
        httpx.AsyncClient(
            verify=trusting(certificates.authority),
            base_url=f"https://localhost:{coordinator.ports['http']}",
            timeout=20,
        ) as client,
    ):
        for method, path, good in CALLS:
            for token in ("", ADMIN, WRITER, READER):
                answer = await client.request(method, path, headers=_bearer(token))
                assert (answer.status_code not in {401, 403}) == (token in good), (method, path, token)
        page = (await client.get(f"https://localhost:{coordinator.ports['metrics']}/metrics")).text
        found = re.search(
            r'^coordinator_http_http_refused\{needs="admin",reason="no-token"\} (\S+)$', page, re.MULTILINE
        )
        assert found is not None
        assert float(found[1]) == sum(good == {ADMIN} for _, _, good in CALLS)


async def test_a_dry_run_of_rules_asks_over_tls_with_a_token(
    tmp_path: Path, certificates: Certificates, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = certificates.server
    security: dict[str, object] = {
        "tls": {"mode": "enforced", "certFile": str(pair.cert), "keyFile": str(pair.key)},
        **_tokens(tmp_path, *TOKENS),
    }
    monkeypatch.delenv("M3CTL_TOKEN", raising=False)
    async with _running(tmp_path, security) as coordinator:
        url = f"https://localhost:{coordinator.ports['http']}"
        files = [word for file in _files(tmp_path, security) for word in ("-f", str(file))]
        known = ["--ca-file", str(certificates.authority.cert)]

        async def said(*proofs: str) -> tuple[int, str]:
            status = await asyncio.to_thread(main, [*files, "--explain-rules", url, *proofs])
            shown = capsys.readouterr()
            return status, shown.out if status == 0 else shown.err

        status, text = await said(*known, "--token-file", str(tmp_path / "readTokens"))
        assert (status, text.splitlines()[0]) == (0, "0 series")
        monkeypatch.setenv("M3CTL_TOKEN", READER)
        assert (await said(*known))[0] == 0
        monkeypatch.delenv("M3CTL_TOKEN")
        for proofs, expected, problem in (
            ([], 1, "self-signed certificate|unable to get local issuer"),
            (known, 1, "it answered 401: it wants a token: give one with --token-file"),
            (
                [*known, "--token-file", str(tmp_path / "writeTokens")],
                1,
                "it answered 403: the token is not good for it",
            ),
            ([*known, "--token-file", str(tmp_path / "none")], 2, "--token-file .*none cannot be read: No such file"),
            (["--ca-file", str(tmp_path / "none")], 2, "none: No such file"),
        ):
            status, text = await said(*proofs)
            assert status == expected
            assert re.search(problem, text), text
            assert not any(token in text for token in TOKENS.values())


async def test_without_tokens_everything_is_as_it_was(tmp_path: Path) -> None:
    async with (
        _running(tmp_path, {}) as coordinator,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{coordinator.ports['http']}", timeout=20) as client,
    ):
        for method, path, _ in CALLS:
            assert (await client.request(method, path)).status_code not in {401, 403}


def test_what_is_not_known_is_administration() -> None:
    of = rights({"/write"})
    for method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND"):
        assert of(method, "/health") is Right.ADMIN
    assert (of("POST", "/write"), of("PUT", "/write"), of("POST", "/write/")) == (
        Right.WRITES,
        Right.ADMIN,
        Right.ADMIN,
    )
    # A dry run is asked for with a form, and changes nothing.
    assert (of("POST", "/rules"), of("PUT", "/rules")) == (Right.READS, Right.ADMIN)
    assert (of("GET", "/debug"), of("GET", "/debugger")) == (Right.ADMIN, Right.READS)


@pytest.mark.parametrize(("address", "lines"), [("127.0.0.1:0", 0), ("0.0.0.0:0", 1)])
async def test_one_loud_line_if_anybody_can_administrate(
    address: str, lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with _running(tmp_path, {}, address):
        pass
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    loud = [line for line in said if "can administrate this service" in line["msg"]]
    assert [line["level"] for line in loud] == ["warn"] * lines


async def test_files_that_cannot_be_used_keep_it_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing.pem")
    for security, problem in (
        ({"tls": {"mode": "enforced", "certFile": missing, "keyFile": missing}}, f"TLS: {missing}: No such file"),
        ({"adminTokens": [{"file": missing}]}, f"tokens: {missing} cannot be read: No such file"),
    ):
        with pytest.raises(StartError, match=problem):
            async with _running(tmp_path, security):
                pass
        arguments = [word for file in _files(tmp_path, security) for word in ("-f", str(file))]
        assert await asyncio.to_thread(main, [*arguments, "--check-config"]) == 2
        assert problem in capsys.readouterr().err
