"""The HTTP client of one endpoint: a body in, the judged answer out. Never raises for what an endpoint or the network does.

Redirects keep method and body (307, 308); those that would turn a write into a GET and lose the data (301, 302, 303) are not followed but
held, with the new location in the text. Credentials and headers of the configuration go to the configured host only.
"""

import io
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from coordinator.sinks.prom_remote.answers import MAX_TEXT, Answer, Kind, judge, one_line
from coordinator.sinks.prom_remote.credentials import (
    Address,
    Authorization,
    CredentialError,
    Secrets,
    basic,
    shown_address,
)
from m3x.tls import ClientTLS
from m3x.version import VERSION

__all__ = ["Endpoint", "Sender"]

_HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
    "User-Agent": f"m3coordinator/{VERSION}",
}
_WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"
_LEFT_OUT = ("Accept", "Accept-Encoding")
_MAX_REDIRECTS = 5
_MAX_READ = 4096
_WRITTEN_AT_ONCE = 1 << 20
"""Bytes up to which a body is handed to the socket in one go; larger ones in pieces, so that other tasks get their turn."""
_FOREVER_S = 1e9
_IDLE_SHARE = 0.75
"""Of the time-out for idle connections: where the server has the same one, it must not close what we are about to write to."""
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}
"""What OpenSSL, by its version, calls an answer that is no TLS."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go, and how."""

    address: Address
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of every request, beside those of the protocol; taken for secret."""
    user: str | None = None
    """Basic authentication; without, that of the address."""
    password_file: str = ""
    bearer_token_file: str = ""
    tls: ClientTLS | None = None
    proxy: Address | None = None
    """None: what the environment says (``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``)."""
    request_timeout_s: float = 60.0
    """From connecting to the end of the answer; 0: none."""
    connect_timeout_s: float = 5.0
    """0: none."""
    keep_alive_s: float = 60.0
    """Between TCP's own probes; 0: the system's."""
    idle_timeout_s: float = 60.0
    """Connections unused for longer are closed, a quarter earlier in truth; 0: never."""
    address_key: str = "address"
    """What the configuration calls it, for texts."""
    timeout_key: str = "requestTimeout"


class Sender:
    """Sends to one endpoint, over as many connections as there are requests at a time."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Reads nothing yet: a file of credentials that is missing is an answer to ``post``."""
        self._endpoint = endpoint
        address = endpoint.address
        self._secrets = Secrets([*address.secrets, *endpoint.headers.values()])
        if endpoint.proxy is not None:
            for secret in endpoint.proxy.secrets:
                self._secrets.add(secret)
        if endpoint.bearer_token_file:
            self._authorization = Authorization(self._secrets, file=endpoint.bearer_token_file)
        elif endpoint.user is not None:
            self._authorization = Authorization(self._secrets, user=endpoint.user, file=endpoint.password_file)
        else:
            self._authorization = Authorization(self._secrets, user=address.user, password=address.password)
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[tuple[str, str], Address | None] = {}

    async def post(self, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
        """One request, and those of its redirects. ``headers``: of this one only, and nothing secret."""
        try:
            answer = await self._post(body, headers)
            if answer.unauthorized and self._authorization.read_again():
                answer = await self._post(body, headers)
        except CredentialError as error:
            return Answer(Kind.HELD, str(error))
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            return Answer(Kind.HELD, self._text(_tls_failure(error)))
        except TimeoutError:
            endpoint = self._endpoint
            return Answer(
                Kind.LATER,
                f"no answer in time ({endpoint.timeout_key} {endpoint.request_timeout_s:g}s, "
                f"{endpoint.connect_timeout_s:g}s for connecting)",
            )
        except (aiohttp.NonHttpUrlClientError, ValueError):
            # The address itself was looked at before the start.
            return Answer(Kind.HELD, "redirects to something that is no URL of a store")
        except aiohttp.ClientConnectorError as error:
            return Answer(Kind.LATER, self._text(_no_connection(error)), arrived=False)
        except (aiohttp.ClientError, OSError) as error:
            return Answer(Kind.LATER, self._text(str(error) or type(error).__name__))
        return answer

    async def close(self) -> None:
        """Closes all connections; requests under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def shown(self) -> str:
        """The address as it may be seen."""
        return shown_address(self._endpoint.address.url)

    async def _post(self, body: bytes, more: Mapping[str, str]) -> Answer:
        url = self._endpoint.address.url
        for _ in range(_MAX_REDIRECTS + 1):
            status, said, headers = await self._exchange(url, body, more)
            if not 300 <= status < 400:
                answer = judge(status, self._secrets.mask(said), headers.get("Retry-After", ""), time.time())
                return replace(answer, written=_WRITTEN in headers)
            location = headers.get("Location", "")
            if not location:
                return Answer(Kind.HELD, f"status {status} without a location")
            target = urljoin(url, location)
            shown = self._secrets.mask(shown_address(target))[: 2 * MAX_TEXT]
            if status not in (307, 308):
                return Answer(
                    Kind.HELD,
                    f"status {status}: redirects to {shown} in a way that loses the data; set {self._endpoint.address_key} to it",
                )
            if self._has_secrets and not _same_host(url, target):
                return Answer(
                    Kind.HELD,
                    f"status {status}: redirects to another host, {shown}, which must not see the credentials or headers",
                )
            url = target
        return Answer(Kind.HELD, f"more than {_MAX_REDIRECTS} redirects, the last one to {shown_address(url)}")

    async def _exchange(self, url: str, body: bytes, more: Mapping[str, str]) -> tuple[int, str, Mapping[str, str]]:
        """Status, the beginning of the body, headers."""
        headers = {**_HEADERS, **self._endpoint.headers, **more}
        authorization = self._authorization.header()
        if authorization is not None:
            headers["Authorization"] = authorization
        proxy = self._proxy_of(url)
        to_proxy = _proxy_headers(proxy)
        if to_proxy is not None and url.startswith("http:"):
            # Such a request goes to the proxy as it is; those over TLS go through a tunnel that is asked for first.
            headers |= to_proxy
        tls = self._endpoint.tls
        async with self._opened().request(
            self._endpoint.method,
            URL(url, encoded=True),
            data=body if len(body) < _WRITTEN_AT_ONCE else io.BytesIO(body),
            headers=headers,
            allow_redirects=False,
            ssl=tls.context() if tls is not None else True,
            server_hostname=tls.server_name if tls is not None and url.startswith("https:") else None,
            proxy=None if proxy is None else URL(proxy.url, encoded=True),
            proxy_headers=to_proxy,
        ) as response:
            said = b""
            try:
                while len(said) < _MAX_READ and (chunk := await response.content.read(_MAX_READ - len(said))):
                    said += chunk
            except (aiohttp.ClientError, TimeoutError):
                # The status is said, and the rest is only words.
                pass
            return response.status, said.decode(errors="replace"), response.headers

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made where the loop runs."""
        if self._session is None:
            endpoint = self._endpoint
            connector = aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=endpoint.idle_timeout_s * _IDLE_SHARE or _FOREVER_S,
                socket_factory=self._socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(
                    total=endpoint.request_timeout_s or None, sock_connect=endpoint.connect_timeout_s or None
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_LEFT_OUT,
                auto_decompress=False,
            )
        return self._session

    def _socket(self, info: tuple[object, ...]) -> socket.socket:
        family, kind, protocol = info[:3]
        made = socket.socket(family, kind, protocol)  # type: ignore[arg-type]
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if period := max(round(self._endpoint.keep_alive_s), 0):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, period)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, period)
        return made

    def _proxy_of(self, url: str) -> Address | None:
        if self._endpoint.proxy is not None:
            return self._endpoint.proxy
        parts = urlsplit(url)
        place = parts.scheme, parts.hostname or ""
        if place not in self._proxies:
            self._proxies[place] = self._environment_proxy(*place)
        return self._proxies[place]

    def _environment_proxy(self, scheme: str, host: str) -> Address | None:
        found = getproxies().get(scheme)
        # As Go's client: nothing that leads back to this machine goes over a proxy of the environment.
        if not found or host in _LOOPBACK or host.startswith("127.") or proxy_bypass(host):
            return None
        try:
            address = Address.parse(found if "://" in found else f"http://{found}")
        except ValueError as error:
            raise CredentialError(f"the proxy of the environment {error}") from None
        for secret in address.secrets:
            self._secrets.add(secret)
        return address

    @property
    def _has_secrets(self) -> bool:
        endpoint = self._endpoint
        return bool(
            endpoint.headers
            or endpoint.user is not None
            or endpoint.bearer_token_file
            or endpoint.address.user is not None
        )

    def _text(self, said: str) -> str:
        return one_line(self._secrets.mask(said))


def _no_connection(error: aiohttp.ClientConnectorError) -> str:
    """Whom it is to, and the system's word: the library's own text has its settings of TLS in it, even where there is none."""
    number, text = error.os_error.errno, error.os_error.strerror or str(error.os_error)
    return f"cannot connect to {error.host}:{error.port}: {os.strerror(number) if number is not None and number > 0 else text}"


def _tls_failure(error: aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError) -> str:
    """What TLS says, and for the usual mistake what to do."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause: Exception = error.certificate_error
        why = getattr(cause, "verify_message", "") or str(cause)
        return f"TLS: the certificate of {error.host}:{error.port} is not accepted: {why}"
    text = f"TLS: no agreement with {error.host}:{error.port}: {error.os_error.strerror or error.os_error}"
    if getattr(error.os_error, "reason", "") in _NOT_TLS:
        return f"{text}; if plain HTTP is spoken there, address must begin with http://"
    return text


def _proxy_headers(proxy: Address | None) -> dict[str, str] | None:
    if proxy is None or proxy.user is None:
        return None
    return {"Proxy-Authorization": basic(proxy.user, proxy.password)}


def _same_host(before: str, after: str) -> bool:
    """Whether what may be said to one may be said to the other: the same host, and not in the clear where it was not before."""
    old, new = urlsplit(before), urlsplit(after)
    return old.hostname == new.hostname and not (old.scheme == "https" and new.scheme != "https")
