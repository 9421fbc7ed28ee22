"""The relay: pairs two connections that were dialled to it, and forwards their messages.

Owns rooms, who waits in them and who is paired, and what one connection may take: of time, memory and bytes a second.
It must not know the token or what is forwarded: the two ends speak TLS inside the messages, and prove the token to each
other there. It keeps nothing on disk, and pings nobody: beats of the two ends pass through. All of it runs on one loop.

A pool keeps some connections waiting in its room. A worker is paired with the one that came last, which is the least
likely to be dead. A message is read from one side when the other one has room for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from websockets.asyncio import server as library
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from distmap.core.limits import LIMITS
from distmap.core.relay_limits import RELAY
from distmap.errors import ProtocolError
from distmap.tasks._typing import NamedTuple
from distmap.wire import relaying

log = logging.getLogger("distmap.relay")

# The library's own logger would format every message at DEBUG, and tells of each port scan.
_logger = logging.getLogger("distmap.relay.websockets")
_logger.setLevel(logging.CRITICAL)

# Close codes of RFC 6455 and its registry: 1008 where a guest did not keep the rules; 1006 is none that can be sent.
_AWAY, _BROKEN, _AGAINST_RULES, _STOPPING = 1001, 1006, 1008, 1012


class Allowed(NamedTuple):
    """How much a relay takes."""

    rooms: int = RELAY.rooms
    connections: int = RELAY.connections
    room_connections: int = RELAY.room_connections
    #: Bytes a second from one connection; 0: as many as come.
    rate: float = RELAY.rate


class Guest(ServerConnection):
    """One connection."""

    room: _Room | None = None
    side: relaying.Side = "worker"
    pool = ""
    #: Who is at the other end.
    peer: Guest | None = None
    #: Loop time of its last message, and until when it has used its rate; bytes that it sent to the other end.
    heard = 0.0
    busy_until = 0.0
    sent = 0
    #: All connections of the relay, set by the relay.
    links: set[Guest]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.links.add(self)
        sock = transport.get_extra_info("socket")
        options = (("TCP_NOTSENT_LOWAT", LIMITS.unsent_bytes), ("TCP_USER_TIMEOUT", round(1000 * RELAY.silence)))
        for name, value in options:
            if (option := getattr(socket, name, None)) is not None and sock is not None:
                with suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The library answers pings at once, whether the answers are taken or not.
        if self.paused and self.transport.get_write_buffer_size() > LIMITS.untaken_bytes:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.links.discard(self)
        super().connection_lost(exc)

    async def end(self, code: int, reason: str = "") -> None:
        """Close it politely, for a bounded time, or else not."""
        if code == _BROKEN:
            self.transport.abort()
            return
        try:
            # The library bounds the closing handshake, but not the wait for room before it.
            async with asyncio.timeout(LIMITS.close_timeout + 0.5):
                await self.close(code, reason)
        except TimeoutError:
            self.transport.abort()


class _Room:
    """Who is in one room. The order of a dict is that of arrival."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: For the log: not enough of it to enter.
        self.shown = f"room {name[:8]}"
        #: The pool that the room belongs to, and when it was heard last.
        self.pool = ""
        self.heard = 0.0
        self.spares: dict[Guest, None] = {}
        self.workers: dict[Guest, None] = {}
        self.guests: set[Guest] = set()

    @property
    def held(self) -> bool:
        """Whether its pool has a connection to the relay, also a dead one that nothing has told of."""
        return any(guest.side == "pool" and guest.pool == self.pool for guest in self.guests)


class Relay:
    """A relay. Call `open` once, then `close`."""

    def __init__(self, allowed: Allowed = Allowed()) -> None:  # noqa: B008 - frozen
        self._allowed = allowed
        self._rooms: dict[str, _Room] = {}
        self._links: set[Guest] = set()
        self._server: library.Server | None = None
        self._clock: asyncio.Task[None] | None = None

    async def open(self, host: str, port: int, context: ssl.SSLContext | None = None) -> int:
        """Listen; returns the port. Without a context a proxy has to end TLS. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self._server = await library.serve(
            self._serve,
            str(found[0][4][0]),  # one address: with port 0 each further one would get a port of its own
            port,
            ssl=context,
            subprotocols=[Subprotocol(relaying.SUBPROTOCOL)],
            compression=None,
            ping_interval=None,
            close_timeout=LIMITS.close_timeout,
            open_timeout=RELAY.join,
            max_size=LIMITS.websocket_bytes,
            max_queue=RELAY.messages,
            origins=[None],
            process_request=self._check_request,
            server_header=None,
            logger=_logger,
            backlog=1024,  # after a restart all come at once
            create_connection=self._make_guest,  # type: ignore[arg-type]
        )
        self._clock = loop.create_task(self._signs_of_life())
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, and tell everybody: both ends dial again until a relay is there, and lose nothing."""
        if self._server is None or self._clock is None:
            return
        self._clock.cancel()
        self._server.close(close_connections=False)
        await asyncio.gather(*(guest.end(_STOPPING, "the relay is stopping") for guest in self._links))
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(self._clock, return_exceptions=True)

    # --- one connection ----------------------------------------------------------------------------------------------

    def _make_guest(self, *args: Any, **kwargs: Any) -> Guest:
        """Called by the library for each TCP connection, before TLS."""
        guest = Guest(*args, **kwargs)
        guest.links = self._links
        return guest

    def _check_request(self, link: ServerConnection, request: Request) -> Response | None:
        """Called by the library before its own checks."""
        if not request.path.partition("?")[0].endswith(relaying.PATH):
            return link.respond(HTTPStatus.NOT_FOUND, "This is distmap-relay: pools and workers connect here.\n")
        if len(self._links) > self._allowed.connections:
            return link.respond(HTTPStatus.SERVICE_UNAVAILABLE, "distmap-relay has all the connections it allows.\n")
        return None

    async def _serve(self, link: ServerConnection) -> None:
        """Called by the library after the upgrade; the connection lives until this returns."""
        assert isinstance(link, Guest)
        guest, code, reason = link, _AWAY, ""
        try:
            async with asyncio.timeout(RELAY.join):
                join = relaying.read_join(await guest.recv())
            if (refusal := self._enter(guest, join)) is not None:
                log.info("x room %s: a %s was refused (%s)", join.room[:8], join.side, refusal)
                await guest.send(relaying.write_refused(refusal))
                return
            await self._match(guest)
            await self._forward(guest)
        except ConnectionClosed as closed:
            # The two ends have codes of their own, which mean something to the other one. What broke, breaks for both.
            if closed.rcvd is None:
                code = _BROKEN
            elif closed.rcvd.code == 1000 or closed.rcvd.code >= 4000:
                code, reason = closed.rcvd.code, closed.rcvd.reason
        except TimeoutError:
            code, reason = _AGAINST_RULES, "too slow"
        except ProtocolError as error:
            log.info("x %s was refused: %s", _address_of(guest), error)
            with suppress(ConnectionClosed):
                await guest.send(relaying.write_refused("join"))
            code = _AGAINST_RULES
        except Exception:
            # A bug: the library would log it where nobody looks.
            log.exception("! the connection of %s failed", _address_of(guest))
        finally:
            self._leave(guest)
        ends = [guest.end(code, reason)]
        if guest.peer is not None:
            ends.append(guest.peer.end(code, reason or "the other side's connection to the relay ended"))
        await asyncio.gather(*ends)

    def _enter(self, guest: Guest, join: relaying.Join) -> str | None:
        """Put the guest into its room; why not, if it cannot go there."""
        room = self._rooms.get(join.room)
        if room is None:
            if len(self._rooms) >= self._allowed.rooms:
                return "rooms"
            room = _Room(join.room)
        if len(room.guests) >= self._allowed.room_connections:
            return "full"
        now = guest.loop.time()
        if join.side == "pool":
            if join.pool != room.pool and room.held:
                if now - room.heard < RELAY.silence:
                    return "taken"
                # Its process or network is gone, and nothing has told the relay.
                for stale in [*room.spares]:
                    stale.transport.abort()
                room.spares.clear()
            if join.pool != room.pool:
                log.info("= %s: a pool has come (%s)", room.shown, _address_of(guest))
            room.pool, room.heard = join.pool, now
        self._rooms[join.room] = room
        guest.room, guest.side, guest.pool, guest.heard = room, join.side, join.pool, now
        room.guests.add(guest)
        return None

    def _leave(self, guest: Guest) -> None:
        room = guest.room
        if room is None:
            return
        room.guests.discard(guest)
        room.spares.pop(guest, None)
        room.workers.pop(guest, None)
        if guest.side == "worker":
            both = guest.sent + (0 if guest.peer is None else guest.peer.sent)
            log.info("= %s: a worker has left (%s), %.1f MB", room.shown, _address_of(guest), both / 1e6)
        elif guest.pool == room.pool and not room.held:
            log.info("= %s: its pool has left", room.shown)
            room.pool = ""
        if not room.guests:
            del self._rooms[room.name]

    async def _match(self, guest: Guest) -> None:
        """Pair the guest with one that waits; if there is none, it waits."""
        room = guest.room
        assert room is not None
        waiting = room.workers if guest.side == "pool" else room.spares
        while waiting and guest.peer is None:
            other = next(iter(waiting)) if guest.side == "pool" else next(reversed(waiting))
            del waiting[other]
            pool, worker = (guest, other) if guest.side == "pool" else (other, guest)
            try:
                # The worker first: the pool speaks as soon as it is told.
                await worker.send(relaying.write_paired(0))
            except ConnectionClosed:
                if worker is other:
                    continue
                waiting[other] = None
                raise
            pool.peer, worker.peer = worker, pool
            log.info("= %s: a worker is paired (%s)", room.shown, _address_of(worker))
            await pool.send(relaying.write_paired(len(room.workers)))
        if guest.peer is None:
            (room.spares if guest.side == "pool" else room.workers)[guest] = None
            await guest.send(relaying.WAITING)

    async def _forward(self, guest: Guest) -> None:
        """Pass on what the guest sends, until its connection ends."""
        clock, rate = guest.loop.time, self._allowed.rate
        while True:
            message = await guest.recv()
            now = guest.heard = clock()
            if guest.room is not None and guest.side == "pool" and guest.pool == guest.room.pool:
                guest.room.heard = now
            if isinstance(message, str):
                if len(message) > RELAY.text:  # it counts for no rate
                    raise ProtocolError("a short text was expected")
                continue  # a sign of life, which may be on its way when the guest is paired
            if guest.peer is None:
                raise ProtocolError("it sent data with nobody there")
            async with asyncio.timeout(RELAY.stall):
                await guest.peer.send(message)
            guest.sent += len(message)
            if rate:
                guest.busy_until = max(now, guest.busy_until) + len(message) / rate
                if guest.busy_until - now > RELAY.burst:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(guest.busy_until - now):
                            await guest.wait_closed()

    # --- the clock ---------------------------------------------------------------------------------------------------

    async def _signs_of_life(self) -> None:
        """Tell those who wait that the relay is there, and end those that are silent."""
        while True:
            await asyncio.sleep(RELAY.beat)
            now = asyncio.get_running_loop().time()
            for room in [*self._rooms.values()]:
                for guest in [*room.guests]:
                    silent = now - guest.heard
                    # The few texts for one that waits fill no buffer, unless it takes none: `send` would wait for it.
                    stuck = guest.peer is None and guest.transport.get_write_buffer_size() > 0
                    if stuck or silent > (RELAY.silence if guest.peer is None else RELAY.stall):
                        guest.transport.abort()
                    elif guest.peer is None:
                        with suppress(ConnectionClosed):
                            await guest.send(relaying.WAITING)


def _address_of(guest: Guest) -> str:
    address: Any = guest.remote_address
    return f"{address[0]} port {address[1]}" if address else "an unknown address"
