"""An open port: accepts and authenticates incoming connections.

Owns the side of a connection that listens: HTTP checks, proof, INFO, and how many connections may wait for the proof.
It must not know what is sent after the handshake.

A port for what comes from a proxy on this machine has no TLS of its own (`ws://`): it takes nothing but TLS inside the
messages, which every port takes. See `dial.py`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from websockets.asyncio import server as library
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from distmap.core.limits import LIMITS
from distmap.errors import AuthenticationError, ConnectError, DistmapError, ProtocolError, VersionMismatch
from distmap.transport import measure
from distmap.transport.channel import (
    CLOSE_BROKEN,
    CLOSE_PROTOCOL,
    CLOSE_REFUSED,
    CLOSE_TOKEN,
    CLOSE_UNWANTED,
    Channel,
    ChannelClosed,
    Connection,
)
from distmap.transport.identity import checker, is_check, refusal
from distmap.transport.inner_tls import FIRST_BYTE, InnerTLS
from distmap.transport.tls import server_context
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL
from distmap.transport.websocket import OPTIONS, PATH, Link, WebSocketChannel
from distmap.wire import handshake

logger = logging.getLogger(__name__)

OnConnection = Callable[[Connection], Awaitable[None]]


class _ServerLink(Link, ServerConnection):
    """Counts as unauthenticated until its proof. The limit is set by the Acceptor that makes it."""

    limit: UnauthenticatedLimit | None = None
    address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.limit is not None:
            self.address = _network_of(transport.get_extra_info("peername"))
            if not self.limit.enter(self):
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.limit is not None:
            self.limit.leave(self)
        super().connection_lost(exc)


class UnauthenticatedLimit:
    """The connections without proof, which are limited in all and, unless they all come from a proxy, by address."""

    def __init__(self, by_proxy: bool) -> None:
        self._most_per_address = LIMITS.unauthenticated if by_proxy else LIMITS.unauthenticated_per_address
        self._links: set[_ServerLink] = set()
        self._by_address: Counter[str] = Counter()

    def enter(self, link: _ServerLink) -> bool:
        """Count the link; False if there are too many already."""
        if len(self._links) >= LIMITS.unauthenticated or self._by_address[link.address] >= self._most_per_address:
            return False
        self._links.add(link)
        self._by_address[link.address] += 1
        return True

    def leave(self, link: _ServerLink) -> None:
        """The link has proved the token, or is gone. Leaving twice is fine."""
        if link in self._links:
            self._links.remove(link)
            self._by_address[link.address] -= 1
            # A Counter keeps zeros.
            self._by_address += Counter()


class Acceptor:
    """Accepts and authenticates incoming connections: HTTP checks, proof, INFO."""

    def __init__(
        self,
        token: Secret,
        role: handshake.Role,
        tls: tuple[ssl.SSLContext, bytes],
        by_proxy: bool,
        info: Callable[[Mapping[str, object]], Mapping[str, object]],
        on_connection: OnConnection,
        on_refused: Callable[[str], None],
    ) -> None:
        self._token = token
        self._role = role
        self._context, self._certificate = tls
        self._info = info
        self._on_connection = on_connection
        self._on_refused = on_refused
        self._limit = UnauthenticatedLimit(by_proxy)
        # Held while our INFO is sent: connections get it one after the other.
        self._info_lock = asyncio.Lock()

    def make_link(self, *args: Any, **kwargs: Any) -> _ServerLink:
        """Called by the library for each TCP connection, before TLS."""
        link = _ServerLink(*args, **kwargs)
        link.limit = self._limit
        return link

    def check_request(self, link: ServerConnection, request: Request) -> Response | None:
        """Called by the library before its own checks. Only one path exists; a page in a browser is refused."""
        if "Origin" in request.headers:
            self._on_refused(f"{_peer_of(link)}: a web page tried to connect; refused")
            return link.respond(HTTPStatus.FORBIDDEN, "")
        # A proxy may leave its own path in front.
        return None if request.path.endswith(PATH) else link.respond(HTTPStatus.NOT_FOUND, "")

    async def accept(self, link: ServerConnection) -> None:
        """Called by the library after the upgrade; the connection lives until this returns."""
        assert isinstance(link, _ServerLink)
        if await self.admit(link, _peer_of(link)):
            await link.wait_closed()

    async def admit(self, link: Link, peer: str) -> bool:
        """Let the other end prove itself; whether it was given to `on_connection`. If not, the link is closed.

        Args:
            link: A connection that was taken at the port, or one that this side has dialled: to a relay, which has led
                it to the other end.
            peer: Who is there, for people.
        """
        channel: Channel = (outer := WebSocketChannel(link, peer))
        code, sentence = CLOSE_REFUSED, ""
        try:
            async with asyncio.timeout(LIMITS.hop_timeout):
                channel, side, answer, rtt = await self._hear(outer)
                theirs = await self._prove(channel, side, answer, link)
            connection = Connection(
                channel, theirs, rtt, side.session_id, link.remote_address, through_hop=channel is not outer
            )
            # No await between info() and the first step of on_connection but this send, and that under the lock: two
            # pools must not both be accepted by a worker that is free.
            async with self._info_lock:
                ours = self._info(theirs)
                try:
                    async with asyncio.timeout(LIMITS.hop_timeout):
                        await channel.send([side.seal_info(ours)])
                except TimeoutError:  # a hop holds it up, and would hold up everybody else with it
                    raise ChannelClosed(CLOSE_BROKEN, "nothing sent is taken") from None
            if is_check(theirs):
                logger.info("checked by %s (%s)", checker(theirs), peer)
                await measure.answer(channel)
                await channel.close()
                return False
            problem = refusal(ours, theirs)
            if problem is None:
                await self._on_connection(connection)
                return True
            sentence = f"{peer}: {problem}"
            if not ours.get("refused"):
                # The other side comes to the same result and hangs up; if it does not, this side does.
                with suppress(TimeoutError, ChannelClosed):
                    async with asyncio.timeout(LIMITS.close_timeout):
                        await channel.recv()
        except AuthenticationError as error:
            code, sentence = _code_of(error), f"{peer}: wrong token, refused: {error}"
        except (ProtocolError, VersionMismatch) as error:
            code, sentence = _code_of(error), f"{peer}: refused: {error}"
        except TimeoutError:
            sentence = f"{peer}: refused: no proof of the token within {LIMITS.hop_timeout:g} s"
        except ChannelClosed as error:
            # Unwanted: it tried a second connection, and its first one works after all.
            if error.code != CLOSE_UNWANTED:
                sentence = f"{peer}: left during the handshake{_why_left(error)}"
        if sentence:
            self._on_refused(sentence)
        await channel.close(code)
        return False

    async def _hear(self, outer: Channel) -> tuple[Channel, handshake.Listener, bytes, float]:
        """Say HELLO, over TLS inside the messages if that is how the other side answers.

        Returns:
            The channel that it went over, this side of the handshake, the answer, and the round trip in seconds.
        """
        clock, channel = asyncio.get_running_loop().time, outer
        while True:
            side = handshake.Listener(
                kid=self._token.kid,
                token=self._token.material(),
                role=self._role,
                nonce=secrets.token_bytes(handshake.NONCE_BYTES),
                certificate=self._certificate,
            )
            began = clock()
            await channel.send([side.hello()])
            answer = bytes(await channel.recv())
            if channel is not outer or answer[:1] != bytes([FIRST_BYTE]):
                return channel, side, answer, clock() - began
            # TLS ends on the way: begin again, inside.
            channel = inner = InnerTLS(outer, self._context, server_side=True)
            await inner.handshake(answer)

    async def _prove(
        self, channel: Channel, side: handshake.Listener, answer: bytes, link: Link
    ) -> Mapping[str, object]:
        """The rest of the listener's half of the handshake; returns the INFO of the other side."""
        taken = isinstance(link, _ServerLink)
        encrypted = isinstance(channel, InnerTLS) or (taken and link.transport.get_extra_info("ssl_object"))
        if not encrypted:
            raise ProtocolError("this port is for connections through a proxy; it takes TLS inside the messages only")
        proof = side.receive(answer)
        if isinstance(link, _ServerLink):
            self._limit.leave(link)
        await channel.send([proof])
        return side.open_info(bytes(await channel.recv()))


class Server:
    """An open port. `url` is what the other side dials."""

    def __init__(self, server: library.Server, url: WorkerURL) -> None:
        self._server = server
        self.port = url.port
        self.url = str(url)

    async def close(self) -> None:
        """Stop listening, and close what was accepted."""
        self._server.close()
        # The library waits for every handler, and a callback of the user's may never return. A connection that is
        # still inside TLS ends after hop_timeout.
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMITS.hop_timeout + LIMITS.close_timeout + 1):
                await self._server.wait_closed()


async def listen(
    address: WorkerURL,
    *,
    token: Secret,
    role: handshake.Role,
    info: Callable[[Mapping[str, object]], Mapping[str, object]],
    on_connection: OnConnection,
    on_refused: Callable[[str], None] = lambda sentence: None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
) -> Server:
    """Open a port; each connection that proves the token is given to `on_connection`.

    Args:
        address: Where to listen; hosts "0.0.0.0" and "::" mean every interface, port 0 picks a free one. `ws://`: the
            port has no TLS of its own, so a proxy can lead there. A path is where such a proxy is reached. `unix:`:
            no port, but a Unix socket, which must be where no other user comes.
        token: What the other side must hold too.
        role: Role of this side.
        info: Called per authenticated connection with the INFO of the other side; returns ours. If it has "refused"
            in it, it is sent all the same, and `on_connection` is not called. Nor is it for a side that only checks the
            way (`is_check`), which gets what it wants here.
        on_connection: May return early: the connection lives until its channel is closed. No other connection is
            accepted between `info()` and its first await, so "busy" can be decided there.
        on_refused: Called with one sentence for each connection that was refused.
        tls_cert: Certificate to show (PEM); without one, one is made.
        tls_key: Its key, if not in the same file.
    """
    host, port = address.host, address.port
    tls = server_context(tls_cert, tls_key)
    led_here = address.scheme != "wss" or bool(address.shown)  # by a proxy or ssh: all come from one address
    acceptor = Acceptor(token, role, tls, led_here, info, on_connection, on_refused)
    serve: Callable[..., Any] = library.unix_serve
    place: dict[str, Any] = {"path": address.path}
    try:
        if address.scheme != "unix":
            # One address: with port 0 each further one would get a port of its own.
            found = await asyncio.get_running_loop().getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            serve, place = library.serve, {"host": str(found[0][4][0]), "port": port}
        server = await serve(
            acceptor.accept,
            **place,
            **OPTIONS,
            ssl=None if address.scheme == "ws" else tls[0],
            open_timeout=LIMITS.hop_timeout,
            origins=[None],
            process_request=acceptor.check_request,
            server_header=None,
            create_connection=acceptor.make_link,
        )
    except socket.gaierror as error:
        raise ConnectError(f"{address}: the host name {host} does not resolve ({error.strerror})") from error
    except OSError as error:
        raise ConnectError(f"{address}: cannot listen there: {error.strerror or error}") from error
    return Server(server, address if address.scheme == "unix" else _chosen(address, server))


def _chosen(address: WorkerURL, server: library.Server) -> WorkerURL:
    """What the other side dials: every interface is shown by the host's name, and port 0 is a free one."""
    host = socket.gethostname() if address.host in ("", "0.0.0.0", "::") else address.host
    return replace(address, host=host, port=server.sockets[0].getsockname()[1])


def _code_of(error: DistmapError) -> int:
    return CLOSE_TOKEN if isinstance(error, AuthenticationError) else CLOSE_PROTOCOL


def _why_left(error: ChannelClosed) -> str:
    if error.code == CLOSE_TOKEN:
        return ": it doubts this side's token, or something stands in between"
    if error.code in (CLOSE_PROTOCOL, CLOSE_REFUSED):
        return ": it speaks another version of the protocol"
    return ""


def _peer_of(link: ServerConnection) -> str:
    address = link.remote_address
    if not address:
        return "an unknown address"
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def _network_of(peername: tuple[Any, ...] | None) -> str:
    """The address that connections are counted by; of IPv6 its /64."""
    address = ip_address(peername[0].partition("%")[0]) if peername else None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return address.exploded[:19]
    return str(address)
