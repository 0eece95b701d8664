"""Secrets in a coordinator's file are in no refusal, whatever is wrong with it, and in no dump of what was read."""

from pathlib import Path

import pytest

from coordinator.config import load_coordinator
from m3x.config import ConfigError

SECRET = "hunter2canary"
ENDPOINT = "backend: prom-remote\nprometheusRemoteBackend: {{endpoints: [{{name: a, {}}}]}}\n"
TARGET = "writeForwarding: {{promRemoteWrite: {{targets: [{{{}}}]}}}}\n"
TRACING = "tracing: {{{}}}\n"
URL = "'http://me:hunter2canary@host/path?token=hunter2canary'"

SOUND = {
    "address": ENDPOINT.format(f"address: {URL}"),
    "endpoint's header": ENDPOINT.format(f"address: 'http://h/', headers: {{Authorization: {SECRET}}}"),
    "proxy": ENDPOINT.format(f"address: 'http://h/', proxyURL: {URL}"),
    "target": TARGET.format(f"url: {URL}, headers: {{X-Key: {SECRET}}}"),
    "jaeger": TRACING.format(f"jaeger: {{reporter: {{user: me, password: {SECRET}, http_headers: {{X: {SECRET}}}}}}}"),
    "lightstep": TRACING.format(f"lightstep: {{access_token: {SECRET}}}"),
}
UNSOUND = {
    "no scheme": ENDPOINT.format(f"address: 'me:{SECRET}@host'"),
    "no port": ENDPOINT.format(f"address: 'http://me:{SECRET}@host:port/'"),
    "spaces": ENDPOINT.format(f"address: 'http://me:{SECRET} @host/'"),
    "a list": ENDPOINT.format(f"address: ['http://me:{SECRET}@host/']"),
    "a mapping": ENDPOINT.format(f"address: {{url: 'http://me:{SECRET}@host/'}}"),
    "no list of endpoints": f"backend: prom-remote\nprometheusRemoteBackend: {{endpoints: {SECRET}}}\n",
    "no endpoint": f"backend: prom-remote\nprometheusRemoteBackend: {{endpoints: [{SECRET}]}}\n",
    "an unknown key": ENDPOINT.format(f"address: 'http://h/', password: {SECRET}"),
    "a header with a line break": ENDPOINT.format(f'address: "http://h/", headers: {{X: "{SECRET}\\n"}}'),
    "two proofs": ENDPOINT.format(f"address: 'http://h/', bearerTokenFile: f, headers: {{Authorization: {SECRET}}}"),
    "no headers": ENDPOINT.format(f"address: 'http://h/', headers: {SECRET}"),
    "a list of headers": ENDPOINT.format(f"address: 'http://h/', headers: ['X: {SECRET}']"),
    "basicAuth as text": ENDPOINT.format(f"address: 'http://h/', basicAuth: 'me:{SECRET}'"),
    "a password instead of its file": ENDPOINT.format(
        f"address: 'http://h/', basicAuth: {{username: me, password: {SECRET}}}"
    ),
    "a proxy that is none": ENDPOINT.format(f"address: 'http://h/', proxyURL: 'me:{SECRET}@proxy'"),
    "a target that is none": TARGET.format(f"url: 'ftp://me:{SECRET}@host/'"),
    "a target and a header": TARGET.format(f"url: 'http://me:pw@h/', headers: {{Authorization: {SECRET}}}"),
    "not in quotes": ENDPOINT.format(f"address: *{SECRET}"),
    "an alias of a variable": ENDPOINT.format("address: ${ADDRESS}"),
    "a tag": ENDPOINT.format(f"address: !!int {SECRET}"),
    "a token instead of a source": f"security: {{adminTokens: [{SECRET}]}}\n",
    "a token that is no file": f"security: {{adminTokens: [{{token: {SECRET}}}]}}\n",
}


def files(folder: Path, text: str) -> list[Path]:
    (folder / "c.yml").write_text(text)
    return [folder / "c.yml"]


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_dumps_show_none(text: str, tmp_path: Path) -> None:
    loaded = load_coordinator(files(tmp_path, text))
    assert SECRET not in repr(loaded.value)
    assert SECRET not in repr(loaded)


@pytest.mark.parametrize("text", UNSOUND.values(), ids=UNSOUND)
def test_refusals_show_none(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADDRESS", f"*{SECRET}")
    with pytest.raises(ConfigError) as refusal:
        load_coordinator(files(tmp_path, text))
    assert SECRET not in str(refusal.value)
