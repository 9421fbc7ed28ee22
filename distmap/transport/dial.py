"""Dialling the other side: proxy, TCP, TLS, upgrade, proof, INFO.

Owns the side of a connection that dials. It must not know what is sent after the handshake. What is said of a hop that
fails is in `hop_errors.py`.

The listener's HELLO names its certificate. If TLS has shown that one, the connection is direct. If not, something on
the way ends TLS (nginx, a JupyterHub): then the two ends speak TLS inside the messages, where the same certificate is
shown and the same proof is given. Who lies about it in either direction spoils the proof, which holds the certificate.
What ends TLS on the way has to be trusted by the system or by `ca`, and is shown headers only once it is. A host that
is not trusted may still be the listener itself, so it is dialled without them.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidProxy, NegotiationError, ProxyError
from websockets.typing import Subprotocol

from distmap.errors import AuthenticationError, ConnectError
from distmap.tasks._typing import Buffer
from distmap.transport.channel import (
    CLOSE_PROTOCOL,
    CLOSE_REFUSED,
    CLOSE_TOKEN,
    CLOSE_UNWANTED,
    Channel,
    Connection,
)
from distmap.transport.first_hop import FirstHop, Headers
from distmap.transport.hop_errors import (
    failed_hop,
    failed_proxy,
    handshake_error,
    is_login_wanted,
    is_refused,
    with_hint,
)
from distmap.transport.hop_report import OnHop, unwatched
from distmap.transport.identity import refusal
from distmap.transport.inner_tls import InnerTLS
from distmap.transport.proxies import address_of, proxy_for, shown_proxy
from distmap.transport.tls import client_context, verified_context
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.transport.websocket import OPTIONS, PATH, SUBPROTOCOL, Link, WebSocketChannel
from distmap.wire import handshake, relaying


class _ClientLink(Link, ClientConnection):
    """Notes whether TLS succeeded, and its session; of ws:// whether TCP did."""

    secured = False
    session: ssl.SSLObject | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.secured = True
        self.session = transport.get_extra_info("ssl_object")


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        # A worker never redirects: what does is something else.
        return exc


class GivenUp(Exception):
    """Raised by the `info` of `prove`: this connection is not wanted any more."""


class _EndsOnTheWay(Exception):
    """TLS ends before the other side does, at a hop whose certificate has not been verified."""


async def dial(
    url: WorkerURL,
    *,
    token: Secret,
    role: handshake.Role,
    info: Mapping[str, object],
    timeout: float = 10.0,
    hop: FirstHop = FirstHop(),  # noqa: B008 - frozen
) -> Connection:
    """Dial the other side, prove the token both ways, exchange INFO, and see that the two sides fit together.

    Raises:
        ConnectError: A hop failed: host name, TCP, proxy, TLS, upgrade. One sentence that names URL and hop.
        AuthenticationError: The tokens differ, or something stands in between.
        ProtocolError: The other side speaks something else.
        VersionMismatch: Python or protocol versions do not fit; the other side reports the same.
        WorkerBusy: The worker serves another pool.
    """
    connection = await prove(url, token=token, role=role, info=lambda: info, timeout=timeout, hop=hop)
    await check_fit(connection, info, str(url))
    return connection


async def check_fit(connection: Connection, info: Mapping[str, object], url: str) -> None:
    """Close the connection and raise, as `dial` does, if the other side refuses this one or does not fit to it."""
    problem = refusal(info, connection.peer_info, url)
    if problem is not None:
        await connection.channel.close(CLOSE_REFUSED)
        raise problem


async def prove(
    url: WorkerURL,
    *,
    token: Secret,
    role: handshake.Role | None,
    info: Callable[[], Mapping[str, object]],
    timeout: float = 10.0,
    hop: FirstHop = FirstHop(),  # noqa: B008 - frozen
    on_hop: OnHop = unwatched,
) -> Connection:
    """As `dial`, but whether the other side refuses is left to the caller.

    Args:
        url: Where to dial.
        token: What the other side must hold too.
        role: Role of this side; None: the one that fits the other side.
        info: Called when the other side has proved itself, just before our INFO is sent. May raise GivenUp.
        timeout: Seconds for all of it.
        hop: What a proxy on the way needs.
        on_hop: Called for each hop that is passed. A hop that ends TLS is gone to once more when its certificate has
            to be verified: then the hops begin anew.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + timeout
    try:
        verified = bool(hop.headers) or hop.room is not None
        return await _prove(url, token, role, info, timeout, hop, on_hop, verified=verified)
    except _EndsOnTheWay:
        return await _prove(url, token, role, info, max(0.1, deadline - clock()), hop, on_hop, verified=True)
    except ConnectError as untrusted:
        if hop.room is not None or not hop.headers or not isinstance(untrusted.__cause__, ssl.SSLCertVerificationError):
            raise
        # Who is reached directly shows a certificate of its own, and needs no headers.
        bare = replace(hop, headers=Headers())
        try:
            return await _prove(url, token, role, info, max(0.1, deadline - clock()), bare, on_hop, verified=False)
        except (_EndsOnTheWay, ConnectError):
            raise untrusted from untrusted.__cause__


async def _prove(
    url: WorkerURL,
    token: Secret,
    role: handshake.Role | None,
    info: Callable[[], Mapping[str, object]],
    timeout: float,
    hop: FirstHop,
    on_hop: OnHop,
    *,
    verified: bool,
) -> Connection:
    """One connection. `verified`: only to a host whose certificate is trusted."""
    deadline = asyncio.get_running_loop().time() + timeout
    link = await open_link(url, timeout, hop, verified, on_hop)
    if hop.room is not None:
        await hop.room.enter(link)
        deadline = asyncio.get_running_loop().time() + timeout
    on_hop("relay", met=hop.room is not None)
    channel = WebSocketChannel(link, str(url))
    peer: str = "other side" if role is None else handshake.OTHER[role]
    hello, inner = b"", None
    try:
        async with asyncio.timeout_at(deadline):
            hello, certificate = bytes(await channel.recv()), _certificate_of(link)
            role = role or handshake.OTHER[handshake.role_of(hello)]
            peer = handshake.OTHER[role]
            named = handshake.certificate_of(hello, handshake.OTHER[role])
            on_hop("hello", role=peer)
            if named != certificate:
                if not verified and url.scheme == "wss":
                    raise _EndsOnTheWay
                inner = InnerTLS(channel, client_context(), server_side=False)
                await inner.handshake()
                hello, certificate = bytes(await inner.recv()), inner.certificate
            on_hop("inner TLS", inside=inner is not None)
            side = _dialer(token, role, certificate)
            theirs, rtt = await _prove_to_listener(inner or channel, side, hello, info)
            on_hop("token", kid=token.kid)
    except (GivenUp, _EndsOnTheWay):
        await (inner or channel).close(CLOSE_UNWANTED)
        raise
    except Exception as error:
        await (inner or channel).close(CLOSE_TOKEN if isinstance(error, AuthenticationError) else CLOSE_PROTOCOL)
        raise handshake_error(url, peer, token, error, timeout, heard=bool(hello)) from error
    except BaseException:
        channel.abort()
        raise
    finally:
        if hop.room is not None:
            hop.room.arrived(link)
    remote = link.transport.get_extra_info("peername")
    if not isinstance(remote, tuple):
        remote = None  # a Unix socket, whose other end leads on
    return Connection(inner or channel, theirs, rtt, side.session_id, remote, through_hop=inner is not None)


def _dialer(token: Secret, role: handshake.Role, certificate: bytes) -> handshake.Dialer:
    nonce = secrets.token_bytes(handshake.NONCE_BYTES)
    return handshake.Dialer(
        kid=token.kid, token=token.material(), role=role, nonce=nonce, certificate=certificate
    )  # fmt: skip


def nothing_listens(error: BaseException) -> bool:
    """Whether `dial` failed because the host is there and nothing listens on that port of it."""
    return isinstance(error, ConnectError) and error.refused


def check_hop(url: WorkerURL, hop: FirstHop) -> None:
    """Raise the ConnectError with which any dial would end before its first hop."""
    if hop.headers and url.scheme == "ws" and (hop.proxy or not url.is_loopback):
        raise ConnectError(f"{url}: headers are not sent over ws://, where everybody on the way can read them; use wss")
    if hop.ca is not None:
        verified_context(hop.ca)


async def open_link(
    url: WorkerURL, timeout: float, hop: FirstHop, verified: bool, on_hop: OnHop = unwatched
) -> _ClientLink:
    """A WebSocket to the worker, pool or relay at the URL. Raises ConnectError, as `dial` does."""
    path, subprotocol = (PATH, SUBPROTOCOL) if hop.room is None else (relaying.PATH, Subprotocol(relaying.SUBPROTOCOL))
    links: list[_ClientLink] = []
    proxy = proxy_for(url, hop.proxy) if hop.tunnel is None else None
    extra = _tls_options(url, hop, proxy, verified, timeout)

    def make(*args: Any, **kwargs: Any) -> _ClientLink:
        # Called when there is a TCP connection, through the proxy if there is one.
        if hop.tunnel is None and proxy is None:
            on_hop("TCP", port=url.port)
        on_hop("proxy", proxy="" if proxy is None else shown_proxy(proxy))
        links.append(_ClientLink(*args, **kwargs))
        if hop.room is not None:
            hop.room.connected(links[-1])
        return links[-1]

    if hop.tunnel is not None:
        on_hop("name")
        began = asyncio.get_running_loop().time()
        extra |= {"sock": await hop.tunnel(timeout)}
        timeout = max(0.1, timeout - (asyncio.get_running_loop().time() - began))
        on_hop("TCP")
    try:
        if hop.tunnel is None and on_hop is not unwatched:
            async with asyncio.timeout(timeout):
                await _show_first_hops(url, proxy, on_hop)
        link = await _Connect(
            f"{url.uri}{path}",
            **{**OPTIONS, "subprotocols": [subprotocol], **extra},
            proxy=proxy,
            open_timeout=timeout,
            additional_headers=hop.headers.reveal(),
            user_agent_header=None,
            create_connection=make,  # type: ignore[arg-type]
        )
    # A proxy's address is the user's, and its scheme may need a package: ValueError, ImportError.
    except (OSError, EOFError, InvalidHandshake, InvalidProxy, ValueError, ImportError) as error:
        _show_hops(links, error, verified, on_hop)
        raise _connect_error(url, hop, proxy, links, error, timeout) from error
    assert isinstance(link, _ClientLink)
    _show_hops(links, None, verified, on_hop)
    if link.subprotocol != subprotocol:
        link.transport.abort()
        await link.wait_closed()
        raise ConnectError(f"{url}: a WebSocket server listens there, but it is not distmap's")
    on_hop("subprotocol", subprotocol=link.subprotocol)
    return link


def _tls_options(url: WorkerURL, hop: FirstHop, proxy: str | None, verified: bool, timeout: float) -> dict[str, Any]:
    """The options of the library about TLS, up to the first hop and up to a proxy."""
    options: dict[str, Any] = {}
    if url.scheme == "wss":
        context = verified_context(hop.ca) if verified else _any_context()
        # Shorter, so that silence of TLS can be distinguished from silence of the network.
        options = {"ssl": context, "ssl_handshake_timeout": timeout / 2}
    else:
        check_hop(url, hop)
    if proxy is not None and proxy.startswith("https://"):
        options["proxy_ssl"] = verified_context(hop.ca)
    return options


def _connect_error(
    url: WorkerURL, hop: FirstHop, proxy: str | None, links: Sequence[_ClientLink], error: Exception, timeout: float
) -> ConnectError:
    """The error to raise for one that came before the end of the upgrade; `links`: what was there by then."""
    at_proxy = proxy is not None and (not links or isinstance(error, ProxyError))
    if proxy is not None and at_proxy:
        if isinstance(error, InvalidProxy):
            error.proxy = shown_proxy(proxy)  # a traceback shows it, and there may be a password in it
        why = failed_proxy(proxy, url, error, timeout, given=hop.proxy is not None)
    else:
        connected = any(link.secured for link in links)
        why = failed_hop(url, error, connected, timeout, bool(hop.headers))
    about_relay = None
    if hop.room is not None:
        about_relay = None if at_proxy else hop.room.why_not(url, error)
        for link in links:
            hop.room.arrived(link)
    failed = ConnectError(f"{url}: {about_relay or with_hint(url, why, error)}")
    # What refuses where a path begins is a proxy, which says nothing of what it leads to; nor does a relay.
    failed.refused = not at_proxy and not url.path and hop.room is None and is_refused(error)
    failed.wants_login = is_login_wanted(error)
    return failed


def _show_hops(links: Sequence[_ClientLink], error: Exception | None, verified: bool, on_hop: OnHop) -> None:
    """Tell of the hops that the last connection has passed: TLS and the upgrade."""
    if links and links[-1].secured:
        on_hop("TLS", session=links[-1].session, verified=verified)
        if error is None or isinstance(error, NegotiationError):
            on_hop("HTTP upgrade", response=links[-1].response)


async def _show_first_hops(url: WorkerURL, proxy: str | None, on_hop: OnHop) -> None:
    """Take the steps that the library takes at once, for who wants to know of each: name, and TCP to a proxy."""
    host, port = (url.host, url.port) if proxy is None else address_of(proxy)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    on_hop("name", host=host, addresses=tuple(dict.fromkeys(str(address[4][0]) for address in found)))
    if proxy is not None:
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        await writer.wait_closed()
        on_hop("TCP", port=port)


async def _prove_to_listener(
    channel: Channel,
    side: handshake.Dialer,
    hello: Buffer,
    info: Callable[[], Mapping[str, object]],
) -> tuple[Mapping[str, object], float]:
    """The dialer's half of the handshake after HELLO; the INFO of the other side and the round trip in seconds."""
    clock = asyncio.get_running_loop().time
    answer = side.receive_hello(bytes(hello))
    began = clock()
    await channel.send([answer])
    side.receive_proof(bytes(await channel.recv()))
    rtt = clock() - began
    await channel.send([side.seal_info(info())])
    return side.open_info(bytes(await channel.recv())), rtt


def _any_context() -> ssl.SSLContext:
    """For the first look: the end of the way may be a proxy, which may speak an older TLS."""
    context = client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _certificate_of(link: _ClientLink) -> bytes | None:
    """SHA-256 of the certificate that TLS has shown; None where it is not TLS 1.3, which every distmap speaks."""
    secured = link.transport.get_extra_info("ssl_object")
    if secured is None or secured.version() != "TLSv1.3":
        return None
    return hashlib.sha256(secured.getpeercert(binary_form=True)).digest()
