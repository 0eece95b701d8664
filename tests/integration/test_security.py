"""The files of docs/security.md, run: both services with TLS on every port but carbon's, mutual where the page says so, and tokens."""

import json
import re
import ssl
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lab.cluster import LOCAL, ROOT, aggregator_overlay, coordinator_overlay, member, overlaid, write_cluster
from lab.kv import kv_of
from lab.ports import free_ports
from lab.processes import Process, children, module_command
from lab.waiting import wait_until
from tests.strangers import HOSTS, Certificates, trusting

from aggregator.config import load_config
from coordinator.config import load_coordinator
from m3ctl.bench.remote_write import write_request

PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
ADMIN, WRITER = "admin-0123456789abcdef", "writer-0123456789abcdef"
WRITE = "/api/v1/prom/remote/write"


def blocks(service: str) -> list[str]:
    """What the page has for a service's file."""
    found = re.findall(r"^```yaml\n# (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == service]


class Secured:
    """A coordinator with two write processes, and an aggregator, as the page says; its files lie in ``folder`` instead of ``/etc/m3``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = certificates = Certificates(folder)
        for name, pair in (("server", certificates.server), ("client", certificates.client)):
            (folder / f"{name}.pem").write_bytes(pair.cert.read_bytes())
            (folder / f"{name}.key").write_bytes(pair.key.read_bytes())
        (folder / "ca.pem").write_bytes(certificates.authority.cert.read_bytes())
        (folder / "admin.tokens").write_text(f"{ADMIN}\n")
        (folder / "write.tokens").write_text(f"{WRITER}\n")
        self.context = trusting(certificates.authority, certificates.client)
        self.http, self.metrics, carbon, ingest, m3msg, pages, figures = free_ports(7)
        self.base, self.pages = f"https://localhost:{self.http}", f"https://localhost:{pages}"
        self.kv = kv_of("embedded", folder)
        address = f"127.0.0.1:{m3msg}"
        self.kv.do(
            lambda store: write_cluster(store, [member("m3aggregator-local", address)], f"127.0.0.1:{ingest}", 64)
        )
        overlays = {
            "coordinator": coordinator_overlay(
                (self.http, self.metrics, carbon, ingest), self.kv.section("m3coordinator"), folder / "store"
            ),
            "aggregator": aggregator_overlay(
                address, f"127.0.0.1:{pages}", f"127.0.0.1:{figures}", self.kv.section("m3aggregator")
            ),
        }
        more = {
            "coordinator": ["--workers", "2", "--data-dir", str(folder / "coordinator")],
            "aggregator": ["--workers", "1", "--data-dir", str(folder / "aggregator")],
        }
        self.processes = {}
        for service, overlay in overlays.items():
            files = ["-f", str(LOCAL / f"m3{service}.yml"), *self._files(service)]
            files += overlaid(LOCAL / f"m3{service}.yml", overlay, folder / f"{service}-overlay.yml")[2:]
            command = module_command(service, *files, *more[service])
            self.processes[service] = Process(service, command, folder / f"{service}.log")

    def _files(self, service: str) -> list[str]:
        names = []
        for number, text in enumerate(block for block in blocks(service) if "zookeeper" not in block):
            file = self.folder / f"{service}-{number}.yml"
            file.write_text(text.replace("/etc/m3", str(self.folder)))
            names += ["-f", str(file)]
        return names

    def ask(
        self, url: str, token: str = "", body: bytes | None = None, context: ssl.SSLContext | None = None
    ) -> tuple[int, str]:
        """Status and text. Raises ``OSError``."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(
            url, data=body, headers={**headers, "Content-Encoding": "snappy"} if body else headers
        )
        try:
            with urllib.request.urlopen(request, context=context or self.context, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def is_ready(self, url: str) -> bool:
        for process in self.processes.values():
            process.check()
        try:
            return self.ask(f"{url}/ready")[0] == 200
        except OSError:
            return False

    def figure(self, name: str) -> float:
        """Of the coordinator."""
        page = self.ask(f"https://localhost:{self.metrics}/metrics")[1]
        return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"coordinator_{name}"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"))
    try:
        wait_until("the aggregator is ready", lambda: made.is_ready(made.pages), 120)
        wait_until("the coordinator takes writes", lambda: made.is_ready(made.base), 120)
        yield made
    finally:
        for process in made.processes.values():
            print(f"--- end of the log of {process.name}\n{process.tail()}")
            process.kill()


def sample(name: str) -> bytes:
    return write_request([((("__name__", name),), 1.0, time.time_ns() // 1_000_000)])


def test_samples_go_all_the_way_over_tls(secured: Secured) -> None:
    def written() -> bool:
        status, text = secured.ask(secured.base + WRITE, WRITER, sample("secured"))
        assert status == 200, text
        return secured.figure("ingest_m3msg_ingest_success") > 0

    # Out of the aggregator, after a window, and into the store.
    wait_until("aggregated values arrive", written, 120, every_s=0.5)
    assert secured.figure("ingest_m3msg_consumer_upgrade_to_tls_errors") == 0


def test_calls_need_their_tokens_whichever_process_has_them(secured: Secured) -> None:
    before = secured.figure("http_http_refused")
    for _ in range(6):
        assert secured.ask(secured.base + WRITE, "", sample("a"))[0] == 401
        assert secured.ask(secured.base + WRITE, ADMIN, sample("a"))[0] == 200
        assert secured.ask(f"{secured.base}/api/v1/topic/init", WRITER, b"{}")[0] == 403
        assert secured.ask(f"{secured.base}/api/v1/topic/init", ADMIN, b"{}")[0] not in {401, 403}
        assert secured.ask(f"{secured.base}/api/v1/query?query=up")[0] == 200
    wait_until("all are counted", lambda: secured.figure("http_http_refused") == before + 12, 60)


def test_the_aggregator_s_http_asks_for_a_certificate(secured: Secured) -> None:
    with pytest.raises(OSError, match="(?i)certificate required|eof|reset|closed"):
        secured.ask(f"{secured.pages}/resign", body=b"", context=trusting(secured.certificates.authority))
    assert secured.ask(f"{secured.pages}/status")[0] == 200


def test_plain_text_reaches_nothing(secured: Secured) -> None:
    for url in (secured.base, secured.pages, f"https://localhost:{secured.metrics}"):
        with pytest.raises(OSError, match=r"."):
            secured.ask(f"{url.replace('https', 'http')}/health")
    wait_until("it is counted", lambda: secured.figure("http_upgrade_to_tls_errors") >= 2, 60)


def test_m3ctl_sees_the_cluster(secured: Secured) -> None:
    own = secured.folder
    proofs = ["--ca-file", own / "ca.pem", "--cert-file", own / "client.pem", "--key-file", own / "client.key"]
    where = [
        "--env",
        "namespace/m3db-cluster-name",
        "--coordinator",
        secured.base,
        "--aggregator",
        f"m3aggregator-local={secured.pages}",
    ]
    command = module_command(
        "m3ctl", "leaders", "--json", *where, *map(str, proofs), "--token-file", str(own / "admin.tokens")
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"] is True


def test_a_renewed_certificate_is_in_use_everywhere_without_a_restart(secured: Secured) -> None:
    ports = [int(url.rsplit(":", 1)[1]) for url in (secured.base, secured.pages)]
    before = [ssl.get_server_certificate(("127.0.0.1", port)) for port in ports[:1]]
    pair = secured.certificates.authority.sign("server", *HOSTS)
    (secured.folder / "server.key").write_bytes(pair.key.read_bytes())
    (secured.folder / "server.pem").write_bytes(pair.cert.read_bytes())
    renewed = pair.cert.read_text()[pair.cert.read_text().index("-----BEGIN") :]
    wait_until("the new one is shown", lambda: ssl.get_server_certificate(("127.0.0.1", ports[0])) == renewed, 60)
    assert before != [renewed]
    assert secured.is_ready(secured.pages)


def test_sockets_and_data_are_for_the_user_alone(secured: Secured) -> None:
    made = [path for path in secured.folder.rglob("*") if path.is_dir() and path.name not in {"own", "strange"}]
    assert made
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    sockets = _unix_sockets(
        {p.pid for p in secured.processes.values()} | {c for p in secured.processes.values() for c in children(p.pid)}
    )
    assert sockets
    for path in sockets:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, path


def _unix_sockets(pids: set[int]) -> set[Path]:
    """Those in the file system that these processes listen on."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {Path(line[7]) for line in lines if len(line) > 7 and line[6] in inodes and line[7].startswith("/")}


def test_no_log_line_has_a_token_or_a_key(secured: Secured) -> None:
    keys = [(secured.folder / name).read_text().splitlines()[1] for name in ("server.key", "client.key")]
    for process in secured.processes.values():
        log = process.log_file.read_text()
        assert not any(secret in log for secret in (ADMIN, WRITER, *keys))


@pytest.mark.parametrize("service", ["coordinator", "aggregator"])
def test_every_block_of_the_page_is_a_valid_part_of_a_file(service: str, tmp_path: Path) -> None:
    assert blocks(service)
    for text in blocks(service):
        assert yaml.safe_load(text)
        (tmp_path / "part.yml").write_text(text)
        files = [LOCAL / f"m3{service}.yml", tmp_path / "part.yml"]
        if service == "coordinator":
            load_coordinator(files)
        else:
            load_config(files)
