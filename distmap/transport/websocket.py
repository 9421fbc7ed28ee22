"""Channels over WebSocket and TLS, and the handshake that stands before each.

Owns everything about the `websockets` package, which is imported here only, and the words for every hop that can
fail on the way to the other side. It must not know what is said after the handshake: that is a session's business.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import math
import re
import secrets
import socket
import ssl
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    ProxyError,
)
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from distmap.errors import (
    AuthenticationError,
    ConnectError,
    ProtocolError,
    VersionMismatch,
)
from distmap.security import Secret, WorkerURL, client_context, server_context
from distmap.transport.channel import Buffer, ChannelClosed, Connection
from distmap.transport.identity import refusal
from distmap.wire import handshake
from distmap.wire.handshake import Role

#: Path and subprotocol of the HTTP upgrade; they name the framing, the handshake negotiates versions.
PATH = "/distmap/1"
SUBPROTOCOL = Subprotocol("distmap.1")

# Close codes (4000 to 4999 are the application's). One code for every failed proof, and no reason with it: what was
# wrong is told to the own user only.
CLOSE_PROTOCOL, CLOSE_TOKEN, CLOSE_REFUSED = 4400, 4401, 4409

#: Seconds for TLS, for the HTTP upgrade and for the handshake, each.
HOP_TIMEOUT = 5.0
CLOSE_TIMEOUT = 2.0
#: Connections that may be without proof at once, in all and from one address (IPv6: one /64).
MAX_UNPROVED = 32
MAX_UNPROVED_PER_ADDRESS = 8
#: Unsent bytes in the kernel: control messages stay quick while data flows (0.22 s instead of 0.71 s at 16 Mbit/s).
NOTSENT_LOWAT = 128 << 10
#: Sent bytes that nobody acknowledged for so long end the connection (milliseconds).
USER_TIMEOUT = 30_000

# The library's own logger would format every frame at DEBUG; ours is held above that whatever the root says.
_logger = logging.getLogger("distmap.websockets")
_logger.setLevel(logging.WARNING)

_OPTIONS: Final[dict[str, Any]] = {
    "subprotocols": [SUBPROTOCOL],
    # Measured: deflate costs 5 CPU s/GB even on zeros; it also has a history of passing size limits.
    "compression": None,
    # The library's keepalive kills healthy links during transfers and stalls; the session keeps its own.
    "ping_interval": None,
    "close_timeout": CLOSE_TIMEOUT,
    "max_size": 1 << 20,
    "logger": _logger,
}


class _ClientLink(ClientConnection):
    """Notes when a byte came in, and how far the dialling got."""

    heard = -math.inf
    secured = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.secured = True
        _tune(transport)

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)


class _ServerLink(ServerConnection):
    """Notes when a byte came in, and counts as a stranger until the proof."""

    heard = -math.inf
    door: _Door | None = None
    address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        _tune(transport)
        if self.door is not None:
            self.address = _network(transport.get_extra_info("peername"))
            if not self.door.enter(self):
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.door is not None:
            self.door.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)


class _Door:
    """How many connections without proof there are."""

    def __init__(self) -> None:
        self._inside: set[_ServerLink] = set()
        self._by_address: Counter[str] = Counter()

    def enter(self, link: _ServerLink) -> bool:
        if len(self._inside) >= MAX_UNPROVED or self._by_address[link.address] >= MAX_UNPROVED_PER_ADDRESS:
            return False
        self._inside.add(link)
        self._by_address[link.address] += 1
        return True

    def leave(self, link: _ServerLink) -> None:
        """Proved, or gone."""
        if link in self._inside:
            self._inside.remove(link)
            self._by_address[link.address] -= 1
            # A Counter keeps zeros.
            self._by_address += Counter()


class WebSocketChannel:
    """A `Channel` over one WebSocket."""

    def __init__(self, link: _ClientLink | _ServerLink, peer: str) -> None:
        self._link = link
        self.peer = peer

    @property
    def last_heard(self) -> float:
        return self._link.heard

    async def send(self, frame: Sequence[Buffer]) -> None:
        try:
            await self._link.send(frame[0] if len(frame) == 1 else b"".join(frame))
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def recv(self) -> Buffer:
        try:
            return await self._link.recv(decode=False)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        try:
            # The library bounds the closing handshake, but not the wait for room in the write buffer before it.
            async with asyncio.timeout(CLOSE_TIMEOUT + 0.5):
                # 123 bytes are what a close frame takes; "ignore" drops a character that the cut went through.
                await self._link.close(code, reason.encode()[:123].decode(errors="ignore"))
        except TimeoutError:
            self.abort()
        await self._link.wait_closed()

    def abort(self) -> None:
        self._link.transport.abort()


def _closed(error: ConnectionClosed) -> ChannelClosed:
    # What the other side said, else what this side said, else the network's complaint.
    said = error.rcvd if error.rcvd_then_sent is not False and error.rcvd else error.sent or error.rcvd
    if said is None:
        cause = error.__cause__
        return ChannelClosed(1006, f"the connection broke: {cause}" if cause and str(cause) else "the connection broke")
    return ChannelClosed(said.code, said.reason)


def _tune(transport: asyncio.BaseTransport) -> None:
    # asyncio sets TCP_NODELAY itself.
    sock = transport.get_extra_info("socket")
    for name, value in (("TCP_NOTSENT_LOWAT", NOTSENT_LOWAT), ("TCP_USER_TIMEOUT", USER_TIMEOUT)):
        option = getattr(socket, name, None)
        if option is not None and sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _network(peername: tuple[Any, ...] | None) -> str:
    address = ip_address(peername[0].partition("%")[0]) if peername else None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return address.exploded[:19]
    return str(address)


# --- dialling --------------------------------------------------------------------------------------------------------


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        # A worker never redirects; whoever does is something else.
        return exc


async def dial(
    url: WorkerURL, *, token: Secret, role: Role, info: Mapping[str, object], timeout: float = 10.0
) -> Connection:
    """Dial the other side, prove the token both ways, exchange INFO.

    Raises:
        ConnectError: A hop failed: host name, TCP, proxy, TLS, upgrade. One sentence that names URL and hop.
        AuthenticationError: The tokens differ, or something stands in between.
        ProtocolError: The other side speaks something else.
        VersionMismatch: Python or protocol versions do not fit; the other side says the same.
        WorkerBusy: The worker serves another pool.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    link = await _open(url, timeout)
    channel = WebSocketChannel(link, str(url))
    try:
        async with asyncio.timeout_at(deadline):
            theirs, rtt = await _prove_to_listener(link, token, role, info)
    except Exception as error:
        await channel.close(CLOSE_TOKEN if isinstance(error, AuthenticationError) else CLOSE_PROTOCOL)
        raise _in_words(url, "worker" if role == "pool" else "pool", token, error, timeout) from error
    except BaseException:
        channel.abort()
        raise
    problem = refusal(info, theirs, str(url))
    if problem is not None:
        await channel.close(CLOSE_REFUSED)
        raise problem
    return Connection(channel, theirs, rtt)


async def _open(url: WorkerURL, timeout: float) -> _ClientLink:
    links: list[_ClientLink] = []
    proxy = _proxy(url)

    def make(*args: Any, **kwargs: Any) -> _ClientLink:
        links.append(_ClientLink(*args, **kwargs))
        return links[-1]

    try:
        link = await _Connect(
            f"{url}{PATH}",
            **_OPTIONS,
            ssl=client_context(),
            proxy=proxy,
            open_timeout=timeout,
            # Shorter, so that silence of TLS is told from silence of the network.
            ssl_handshake_timeout=timeout / 2,
            user_agent_header=None,
            create_connection=make,  # type: ignore[arg-type]
        )
    # A proxy's address is the user's, and its scheme may need a package: ValueError, ImportError.
    except (OSError, EOFError, InvalidHandshake, InvalidProxy, ValueError, ImportError) as error:
        if proxy is not None and (not links or isinstance(error, ProxyError)):
            why = f"{_proxy_hop(proxy, error, timeout)}; set no_proxy={url.host} if none is needed"
        else:
            why = _hop(url, error, any(link.secured for link in links), timeout)
        raise ConnectError(f"{url}: {why}") from error
    assert isinstance(link, _ClientLink)
    if link.subprotocol != SUBPROTOCOL:
        link.transport.abort()
        await link.wait_closed()
        raise ConnectError(f"{url}: a WebSocket server listens there, but it is not distmap's")
    return link


def _proxy(url: WorkerURL) -> str | None:
    """The proxy on the way, by the environment or the system's settings; None: straight there."""
    if url.is_loopback or urllib.request.proxy_bypass(f"{url.host}:{url.port}"):
        return None
    found = urllib.request.getproxies()
    proxy = next((found[kind] for kind in ("wss", "socks", "https") if kind in found), None)
    if proxy is not None and proxy == found.get("socks") and proxy.startswith("http://"):
        return "socks5h://" + proxy.removeprefix("http://")  # so it stands in the settings of macOS
    return proxy


def _proxy_hop(proxy: str, error: Exception, timeout: float) -> str:
    """What is wrong with the way to the proxy, or through it, in words. Its password is not among them."""
    shown = "the proxy " + re.sub(r"^(\w+://)?.*@", r"\1", proxy)
    if isinstance(error, ImportError):
        return f"{shown} speaks SOCKS, which needs a package: pip install python-socks"
    if isinstance(error, ProxyError):
        return f"{shown} refused ({error})"
    if isinstance(error, InvalidProxy):
        return f"{shown} is none that can be used ({error.msg}); http://, https:// and socks5h:// can"
    if isinstance(error, ValueError):
        return f"{shown} is none that can be used ({error})"
    if isinstance(error, socket.gaierror):
        return f"the host name of {shown} does not resolve ({error.strerror})"
    if isinstance(error, ssl.SSLError):
        return f"{shown} does not speak TLS ({error.reason or error}); perhaps it is http://"
    if _refused(error):
        return f"nothing listens at {shown} (connection refused)"
    if isinstance(error, TimeoutError):
        return f"{shown} did not answer within {timeout:g} s"
    return f"{shown} cannot be reached ({error})"


def _hop(url: WorkerURL, error: Exception, secured: bool, timeout: float) -> str:
    """Which hop failed, in words."""
    elsewhere = "something listens there, but it is no distmap worker or pool"
    if isinstance(error, socket.gaierror):
        return f"the host name {url.host} does not resolve ({error.strerror})"
    if isinstance(error, ssl.SSLError):
        return f"{elsewhere}: it does not speak TLS 1.3 ({error.reason or error})"
    if secured:
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            if status == HTTPStatus.SERVICE_UNAVAILABLE:
                return "it is shutting down (HTTP 503)"
            return f"{elsewhere}: it answered the WebSocket upgrade with HTTP {status}"
        if isinstance(error, TimeoutError):
            return f"{elsewhere}: it speaks TLS, but did not answer the WebSocket upgrade within {timeout:g} s"
        if isinstance(error, OSError | EOFError) or isinstance(error.__cause__, EOFError):
            return "it speaks TLS, but ended the connection: too many are waiting there, or it is no distmap at all"
        return f"{elsewhere}: it speaks TLS, but no WebSocket ({error})"
    if _refused(error):
        return (
            f"nothing listens on port {url.port} of {url.host} (connection refused); start distmap-worker there, with "
            f"--host 0.0.0.0 if it is another machine and --port {url.port}"
        )
    if isinstance(error, ConnectionAbortedError | ConnectionResetError) or not isinstance(error, OSError):
        return f"{elsewhere}: it ended the connection instead of speaking TLS, or kept silent"
    if isinstance(error, TimeoutError):
        return f"{url.host} did not answer within {timeout:g} s; it is down, or a firewall drops the connection"
    return f"{url.host} cannot be reached ({error.strerror or error})"


def _refused(error: Exception) -> bool:
    if isinstance(error, ConnectionRefusedError):
        return True
    # A host with several addresses: asyncio puts the errors of all of them into one text.
    codes = set(re.findall(r"\[Errno (\d+)\]", str(error)))
    return str(errno.ECONNREFUSED) in codes


def _in_words(url: WorkerURL, peer: str, token: Secret, error: Exception, timeout: float) -> Exception:
    """What went wrong after the upgrade and before both sides trusted each other."""
    if isinstance(error, AuthenticationError | ProtocolError | VersionMismatch):
        return type(error)(f"{url}: {error}")
    if isinstance(error, TimeoutError):
        return ConnectError(f"{url}: the {peer} did not finish the handshake within {timeout:g} s")
    if not isinstance(error, ConnectionClosed):
        return error
    said = error.rcvd
    if said is not None and said.code == CLOSE_TOKEN:
        return AuthenticationError(
            f"{url}: wrong token: the {peer} holds another one than this side ({token.kid}), or TLS is terminated in "
            "between; give both sides the same token file (DISTMAP_TOKEN_FILE)"
        )
    if said is not None and said.code == CLOSE_PROTOCOL:
        return ProtocolError(f"{url}: the {peer} did not understand the handshake; install one distmap on both sides")
    how = f"code {said.code}" if said else "without a word"
    return ConnectError(f"{url}: the {peer} ended the connection during the handshake ({how})")


async def _prove_to_listener(
    link: _ClientLink, token: Secret, role: Role, info: Mapping[str, object]
) -> tuple[Mapping[str, object], float]:
    certificate = link.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    side = handshake.Dialer(
        kid=token.kid,
        token=token.material(),
        role=role,
        nonce=secrets.token_bytes(handshake.NONCE_BYTES),
        certificate=hashlib.sha256(certificate).digest(),
    )
    answer = side.receive_hello(await link.recv(decode=False))
    asked = link.loop.time()
    await link.send(answer)
    side.receive_proof(await link.recv(decode=False))
    rtt = link.loop.time() - asked
    await link.send(side.seal_info(info))
    return side.open_info(await link.recv(decode=False)), rtt


# --- listening -------------------------------------------------------------------------------------------------------

OnConnection = Callable[[Connection], Awaitable[None]]


class Listening:
    """An open port. `url` is what the other side dials."""

    def __init__(self, server: Server, url: WorkerURL) -> None:
        self._server = server
        self.port = url.port
        self.url = str(url)

    async def close(self) -> None:
        """Stop listening, and close what was accepted."""
        self._server.close()
        # The library waits for every handler; a callback of the user's may never return. Whoever is still inside TLS
        # is out after HOP_TIMEOUT.
        with suppress(TimeoutError):
            async with asyncio.timeout(HOP_TIMEOUT + CLOSE_TIMEOUT + 1):
                await self._server.wait_closed()


class _Host:
    """Takes strangers in: HTTP checks, proof, INFO."""

    def __init__(
        self,
        token: Secret,
        role: Role,
        certificate: bytes,
        info: Callable[[], Mapping[str, object]],
        on_connection: OnConnection,
        on_refused: Callable[[str], None],
    ) -> None:
        self._token = token
        self._role = role
        self._certificate = certificate
        self._info = info
        self._on_connection = on_connection
        self._on_refused = on_refused
        self._door = _Door()
        # From info() to the first step of on_connection nobody else is let in, or two pools could both be told "free".
        self._turn = asyncio.Lock()

    def make_link(self, *args: Any, **kwargs: Any) -> _ServerLink:
        link = _ServerLink(*args, **kwargs)
        link.door = self._door
        return link

    def check_request(self, link: ServerConnection, request: Request) -> Response | None:
        """Before the library's own checks. Nothing but the one path exists; a page in a browser gets nothing."""
        if "Origin" in request.headers:
            self._on_refused(f"{_peer(link)}: a web page tried to connect; refused")
            return link.respond(HTTPStatus.FORBIDDEN, "")
        return None if request.path == PATH else link.respond(HTTPStatus.NOT_FOUND, "")

    async def welcome(self, link: ServerConnection) -> None:
        """The whole life of an accepted connection."""
        assert isinstance(link, _ServerLink)
        peer = _peer(link)
        channel = WebSocketChannel(link, peer)
        code, sentence = CLOSE_REFUSED, ""
        try:
            async with asyncio.timeout(HOP_TIMEOUT):
                side, theirs, rtt = await self._prove(link)
            async with self._turn:
                ours = self._info()
                await link.send(side.seal_info(ours))
            problem = refusal(ours, theirs)
            if problem is None:
                await self._on_connection(Connection(channel, theirs, rtt))
                await link.wait_closed()
                return
            sentence = f"{peer}: {problem}"
            if not ours.get("refused"):
                # The other side finds it out by itself and hangs up; ours is the word if it does not.
                with suppress(TimeoutError, ConnectionClosed):
                    async with asyncio.timeout(CLOSE_TIMEOUT):
                        await link.recv(decode=False)
        except AuthenticationError as error:
            code, sentence = CLOSE_TOKEN, f"{peer}: wrong token, refused: {error}"
        except (ProtocolError, VersionMismatch) as error:
            code, sentence = CLOSE_PROTOCOL, f"{peer}: refused: {error}"
        except TimeoutError:
            sentence = f"{peer}: refused: no proof of the token within {HOP_TIMEOUT:g} s"
        except ConnectionClosed as error:
            sentence = f"{peer}: left during the handshake{_why_left(error)}"
        self._on_refused(sentence)
        await channel.close(code)

    async def _prove(self, link: _ServerLink) -> tuple[handshake.Listener, Mapping[str, object], float]:
        side = handshake.Listener(
            kid=self._token.kid,
            token=self._token.material(),
            role=self._role,
            nonce=secrets.token_bytes(handshake.NONCE_BYTES),
            certificate=self._certificate,
        )
        asked = link.loop.time()
        await link.send(side.hello())
        answer = await link.recv(decode=False)
        rtt = link.loop.time() - asked
        proof = side.receive(answer)
        self._door.leave(link)
        await link.send(proof)
        return side, side.open_info(await link.recv(decode=False)), rtt


def _why_left(error: ConnectionClosed) -> str:
    if error.rcvd is not None and error.rcvd.code == CLOSE_TOKEN:
        return ": it doubts this side's token, or something stands in between"
    if error.rcvd is not None and error.rcvd.code in (CLOSE_PROTOCOL, CLOSE_REFUSED):
        return ": it speaks another version of the protocol"
    return ""


def _peer(link: ServerConnection) -> str:
    address = link.remote_address
    if not address:
        return "somebody"
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


async def listen(
    host: str,
    port: int,
    *,
    token: Secret,
    role: Role,
    info: Callable[[], Mapping[str, object]],
    on_connection: OnConnection,
    on_refused: Callable[[str], None] = lambda sentence: None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
) -> Listening:
    """Open a port; each connection that proves the token is given to `on_connection`.

    Args:
        host: Address to listen on; "0.0.0.0" and "::" mean every interface.
        port: 0 picks a free one.
        token: What the other side must hold too.
        role: What this side is.
        info: What this side says of itself, asked afresh for each proved connection. With a "refused" in it the
            other side is told so, and `on_connection` is not called.
        on_connection: May return early: the connection lives until its channel is closed. Nothing else is let in
            between `info()` and its first await, so "busy" can be decided there.
        on_refused: Gets one sentence for each connection that was turned away.
        tls_cert: Certificate to show (PEM); without one, one is made.
        tls_key: Its key, if not in the same file.
    """
    context, certificate = server_context(tls_cert, tls_key)
    hall = _Host(token, role, certificate, info, on_connection, on_refused)
    url = WorkerURL(host, port)
    try:
        # One address: with port 0 each further one would get a port of its own.
        found = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        server = await serve(
            hall.welcome,
            str(found[0][4][0]),
            port,
            **_OPTIONS,
            ssl=context,
            open_timeout=HOP_TIMEOUT,
            origins=[None],
            process_request=hall.check_request,
            server_header=None,
            create_connection=hall.make_link,  # type: ignore[arg-type]
        )
    except socket.gaierror as error:
        raise ConnectError(f"{url}: the host name {host} does not resolve ({error.strerror})") from error
    except OSError as error:
        raise ConnectError(f"{url}: cannot listen there: {error.strerror or error}") from error
    chosen = server.sockets[0].getsockname()[1]
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    return Listening(server, WorkerURL(shown, chosen))
