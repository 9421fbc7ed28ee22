"""A room of a relay, seen by those who meet there.

Owns the address of a relay, the way into a room, the wait in it, and the sentences for what fails there. It must not
know what the two sides say to each other afterwards: the relay hears all of it, and is trusted with none of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from weakref import WeakSet

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from distmap.core.relay_limits import RELAY
from distmap.errors import ConnectError, ProtocolError
from distmap.transport.hop_errors import first_line, is_refused
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL, parse_url
from distmap.wire import relaying
from distmap.wire.handshake import sanitized

log = logging.getLogger("distmap.relay")


def parse_relay(text: str) -> WorkerURL:
    """The address of `wss://host/path?room=NAME`: port 443 (80 without TLS) if none is named.

    Raises ConnectError with one sentence.
    """
    text = text.strip()
    # `https` means the same, and has that port.
    url = parse_url(re.sub(r"^ws(?=s?:)", "http", text))
    for name in url.options:
        if name != "room":
            raise ConnectError(f"a relay's address takes ?room=NAME and nothing else; got {name!r} in {text!r}")
    name = url.options.get("room", "")
    if re.search(r"[?&]room=(&|$)", text) or not re.fullmatch(rf"[\w.-]{{0,{RELAY.room_chars}}}", name):
        raise ConnectError(
            f"the name of a room is 1 to {RELAY.room_chars} letters, digits, dots and dashes; got {name!r}"
        )
    return replace(url, relay=True)


def shown(url: WorkerURL) -> str:
    """The address as `parse_relay` takes it."""
    name = room_name(url)
    return f"{url}?room={name}" if name else f"{url}"


def room_name(url: WorkerURL) -> str:
    """The name of the room at this relay; empty: the one without a name."""
    return url.options.get("room", "")


def worker_room(token: Secret, relay: WorkerURL, retry: float | None) -> Room:
    """The way of a worker into the room of its pool; `retry`: seconds after which it gives up, None: never."""

    def tell(again: bool) -> None:
        if not again:
            log.info("waiting at %s for a pool", shown(relay))

    patience = RELAY.wait if retry is None else min(RELAY.wait, retry)
    return Room(token, relay, "worker", patience=patience, on_waiting=tell)


class Room:
    """One side's way into the room that both derive from the token.

    Args:
        token: Of both sides.
        url: The address of the relay, which may name the room.
        side: Which side this is.
        patience: Seconds to wait for the other side.
        on_waiting: Called when this side waits there, with whether nobody came when it waited last.
    """

    def __init__(
        self,
        token: Secret,
        url: WorkerURL,
        side: relaying.Side,
        *,
        patience: float = RELAY.wait,
        on_waiting: Callable[[bool], None] = lambda again: None,
    ) -> None:
        pool = secrets.token_hex(16) if side == "pool" else ""
        self._join = relaying.Join(token.room(room_name(url)), side, pool)
        self._url = url
        self._other = "pool" if side == "worker" else "worker"
        self.patience = patience
        self._on_waiting = on_waiting
        self._in_vain = False
        #: Connections to the relay that have not reached the other side: more of them would not reach it sooner.
        self.underway: WeakSet[Connection] = WeakSet()

    def __repr__(self) -> str:
        return f"<room {self._join.room[:8]} at {self._url}>"

    def connected(self, link: Connection) -> None:
        """There is a TCP connection on the way to the room, until it is lost or `arrived`."""
        self.underway.add(link)
        link.connection_lost_waiter.add_done_callback(lambda _: self.arrived(link))

    def arrived(self, link: Connection) -> None:
        """The connection has reached the other side, or never will."""
        self.underway.discard(link)

    async def enter(self, link: Connection, patience: float | None = None) -> relaying.Notice:
        """Wait in the room until the other side is there; from then on the link leads to it.

        Args:
            link: A fresh connection to the relay; it is broken if this fails.
            patience: Instead of that of the room.

        Raises:
            ConnectError: Nobody came, or the relay refused this side, or is none.
        """
        try:
            return await self._enter(link, self.patience if patience is None else patience)
        except BaseException:
            link.transport.abort()
            raise

    async def _enter(self, link: Connection, patience: float) -> relaying.Notice:
        clock = asyncio.get_running_loop().time
        heard, waits = clock(), False
        end = heard + patience
        try:
            await link.send(relaying.write_join(self._join))
            while True:
                # Before its first answer nobody knows who is there.
                limit = min(end, heard + RELAY.silence) if waits else heard + RELAY.join
                async with asyncio.timeout_at(limit):
                    notice = relaying.read_notice(await link.recv())
                heard = clock()
                if notice.kind == "paired":
                    self._in_vain = False
                    return notice
                if notice.kind == "refused":
                    raise ConnectError(f"{self._url}: {_refusal(notice.reason)}")
                if not waits:
                    waits = True
                    self._on_waiting(self._in_vain)
                    self._in_vain = True
                await link.send(relaying.WAITING)
        except TimeoutError:
            raise ConnectError(f"{self._url}: {self._nobody(patience, clock() >= end, waits)}") from None
        except ProtocolError as error:
            raise ConnectError(f"{self._url}: {error}") from error
        except ConnectionClosed as closed:
            raise ConnectError(f"{self._url}: {_ended(closed, waits)}") from None

    def _nobody(self, patience: float, over: bool, waits: bool) -> str:
        if not waits:
            return "a WebSocket server answers there, but it says nothing; is it distmap-relay?"
        if not over:
            return f"the relay has been silent for {RELAY.silence:g} s"
        rooms = f" in the room {name!r}" if (name := room_name(self._url)) else ""
        return f"no {self._other} with this token came to the relay{rooms} for {patience:g} s"

    def why_not(self, url: WorkerURL, error: Exception) -> str | None:
        """Why the upgrade failed, where it is about the relay; None: whatever else may fail on the way anywhere."""
        if isinstance(error, InvalidStatus):
            status, said = error.response.status_code, first_line(error.response)
            told = f"HTTP {status}" + (f": {said}" if said else "")
            if status in (502, 503, 504):
                return f"the relay does not take connections now ({told}); see that distmap-relay runs there"
            if status == HTTPStatus.NOT_FOUND:
                return f"no distmap-relay answers there ({told}); check the path of the address"
        if is_refused(error):
            return f"nothing listens on port {url.port} of {url.host} (connection refused); start distmap-relay there"
        return None


def _refusal(reason: str) -> str:
    return relaying.REFUSALS.get(reason) or f"the relay refused this side: {sanitized(reason)}"


def _ended(closed: ConnectionClosed, waits: bool) -> str:
    said = sanitized(closed.rcvd.reason) if closed.rcvd is not None else ""
    if not waits and not said:
        return "the connection ended before a relay answered; see that distmap-relay runs there"
    return "the relay ended the connection" + (f": {said}" if said else "")


#: For one who waits as long as it takes.
FOR_EVER = math.inf
