"""ZooKeeper over mutual TLS, with a real server: what arrives, what is refused and said, renewed certificates."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.certificates import Pair
from lab.kv_servers import ZooKeeperServer
from lab.waiting import until
from tests.real_servers import require_server
from tests.strangers import Certificates

from m3cluster.kv import KVError, Store, ZooKeeper, check_store, open_store
from m3cluster.kv.sections import ZooKeeperSection
from m3cluster.kv.zookeeper import client as zookeeper_client
from m3x.config import ConfigError, Duration, load
from m3x.tls import ClientTLSConfig


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    require_server(ZooKeeperServer)
    folder = tmp_path_factory.mktemp("zookeeper")
    store = folder / "server.pem"
    store.write_bytes(certificates.server.key.read_bytes() + certificates.server.cert.read_bytes())
    made = ZooKeeperServer(folder / "data", tls=(store, certificates.authority.cert))
    try:
        yield made.start()
    finally:
        made.kill()


@pytest.fixture(autouse=True)
def _no_lines_left_out() -> None:
    zookeeper_client.log._limits.clear()


def proofs(certificates: Certificates, pair: Pair | None = None, **keys: Any) -> ClientTLSConfig:
    """Of a client that may come."""
    own = pair or certificates.client
    files = {"ca_file": str(certificates.authority.cert), "cert_file": str(own.cert), "key_file": str(own.key)}
    return ClientTLSConfig(**{**files, "certificates_ttl": Duration(1), **keys})


@contextlib.asynccontextmanager
async def opened(server: ZooKeeperServer, tls: ClientTLSConfig | None, **keys: Any) -> AsyncIterator[Store]:
    where = f"localhost:{server.secure_port}"
    store = await open_store(ZooKeeper((where,), tls=tls, connect_timeout_s=20, **keys))
    try:
        yield store
    finally:
        await store.close()


async def test_values_watches_and_leases(server: ZooKeeperServer, certificates: Certificates) -> None:
    # Values larger than a record, and many small ones whose answers share records.
    async with opened(server, proofs(certificates)) as one, opened(server, proofs(certificates)) as other:
        large = bytes(range(256)) * 2000
        await one.set("a/large", large)
        assert (await other.get("a/large")).data == large
        await asyncio.gather(*(one.set(f"a/{n}", b"%d" % n) for n in range(300)))
        found = await asyncio.gather(*(other.get(f"a/{n}") for n in range(300)))
        assert [value.data for value in found] == [b"%d" % n for n in range(300)]


REFUSED = [
    ({"ca_file": "strange"}, "the server's certificate is not accepted: "),
    ({"server_name": "elsewhere.example"}, "the server's certificate is not accepted: Hostname mismatch"),
]


@pytest.mark.parametrize(("keys", "problem"), REFUSED, ids=["authority", "name"])
async def test_a_server_that_is_not_trusted_is_named(
    server: ZooKeeperServer,
    certificates: Certificates,
    keys: dict[str, str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "ca_file" in keys:
        keys = {"ca_file": str(certificates.strange.cert)}
    async with opened(server, proofs(certificates, **keys)):
        said = ""

        def is_said() -> bool:
            nonlocal said
            said += capsys.readouterr().err
            return problem in said

        await until(is_said)
    lines = [json.loads(line) for line in said.splitlines() if problem in line]
    assert [(line["msg"], line["server"]) for line in lines[:1]] == [("no TLS with ZooKeeper", "localhost")]


async def test_the_server_s_own_refusals_leave_a_store_that_waits(
    server: ZooKeeperServer, certificates: Certificates
) -> None:
    for tls in (
        proofs(certificates, certificates.expired_client),
        proofs(certificates, certificates.strange_client),
        proofs(certificates, cert_file="", key_file=""),
        None,
    ):
        async with opened(server, tls, request_timeout_s=1) as store:
            with pytest.raises(KVError):
                async with asyncio.timeout(30):
                    await store.get("a")
    # Others are not concerned.
    async with opened(server, proofs(certificates)) as store:
        await store.set("b", b"1")


async def test_a_port_without_tls(server: ZooKeeperServer, certificates: Certificates) -> None:
    config = ZooKeeper((f"localhost:{server.port}",), tls=proofs(certificates), connect_timeout_s=1)
    store = await open_store(config)
    with pytest.raises(KVError):
        await store.get("a")
    await store.close()


async def test_a_renewed_certificate_of_the_client_is_shown(
    server: ZooKeeperServer, certificates: Certificates, tmp_path: Path
) -> None:
    pair = certificates.authority.sign("renewed", days=-1)
    async with opened(server, proofs(certificates, pair), request_timeout_s=60) as store:
        waiting = asyncio.create_task(store.set("c", b"1"))
        await asyncio.sleep(0)
        await asyncio.to_thread(certificates.authority.sign, "renewed")
        async with asyncio.timeout(60):
            await waiting


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    config = ZooKeeper(("a:1",), tls=ClientTLSConfig(ca_file=str(tmp_path / "nothing.pem")))
    with pytest.raises(KVError, match=r"nothing\.pem: No such file"):
        check_store(config)


def test_the_keys_of_the_section(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("{servers: [a], tls: {caFile: x, serverName: host}}")
    tls = load([tmp_path / "a.yml"], ZooKeeperSection).value.client().tls
    assert tls is not None
    assert (tls.ca_file, tls.server_name, tls.enabled) == ("x", "host", True)
    (tmp_path / "a.yml").write_text("{servers: [a], tls: {enabled: false}}")
    assert load([tmp_path / "a.yml"], ZooKeeperSection).value.client().tls is None
    (tmp_path / "a.yml").write_text("{servers: [a], tls: {useSSL: true}}")
    with pytest.raises(ConfigError, match="unknown key"):
        load([tmp_path / "a.yml"], ZooKeeperSection)


def test_contexts_need_tls_1_2() -> None:
    assert zookeeper_client.ClientTLS(ClientTLSConfig()).context().minimum_version is ssl.TLSVersion.TLSv1_2
