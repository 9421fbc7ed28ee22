"""A hop that ends TLS between two ends of distmap, and does to their messages what an attacker there could do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Literal

from support.certificates import Certificate
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from distmap.transport.channel import ChannelClosed
from distmap.transport.tls import client_context
from distmap.transport.url import WorkerURL
from distmap.transport.websocket import OPTIONS, PATH

#: "up": from who dialled to who listens.
Direction = Literal["up", "down"]
#: What the hop passes on for a message, by its direction and its number there.
Tamper = Callable[[Direction, int, bytes], Sequence[bytes]]


def honest(direction: Direction, number: int, message: bytes) -> Sequence[bytes]:
    return [message]


class Hop:
    """What it saw, by direction. `url` is what the ends dial instead."""

    def __init__(self) -> None:
        self.url: WorkerURL
        self.seen: dict[Direction, list[bytes]] = {"up": [], "down": []}
        #: The headers of each request.
        self.requests: list[dict[str, str]] = []
        self.handle: Callable[[Any, Any], Awaitable[None]]


class RawChannel:
    """A `Channel` over a connection of the library, for a hop that takes part itself."""

    peer = "hop"
    last_heard = 0.0

    def __init__(self, link: Any) -> None:
        self.link = link

    async def send(self, frame: Sequence[Any]) -> None:
        try:
            await self.link.send(b"".join(frame))
        except ConnectionClosed as error:
            raise ChannelClosed(1006) from error

    async def recv(self) -> bytes:
        try:
            return bytes(await self.link.recv(decode=False))
        except ConnectionClosed as error:
            raise ChannelClosed(1006) from error

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.link.close(code, reason)

    def abort(self) -> None:
        self.link.transport.abort()


@contextlib.asynccontextmanager
async def hop(
    target: WorkerURL, certificate: Certificate, tamper: Tamper = honest, handle: Any = None, keeps_codes: bool = True
) -> AsyncIterator[Hop]:
    """A hop before the target.

    Args:
        target: A port of distmap.
        certificate: What the hop shows.
        tamper: What becomes of each message.
        keeps_codes: False: it passes no end on with its code, as the proxy of a Jupyter server does not.
        handle: Given both connections of the library instead, when the hop takes part itself.
    """
    state = Hop()

    async def pump(direction: Direction, source: Any, sink: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            number = 0
            while True:
                message = await source.recv(decode=False)
                state.seen[direction].append(message)
                for passed in tamper(direction, number, message):
                    await sink.send(passed)
                number += 1
        if source.close_code in (None, 1006) or not keeps_codes:
            sink.transport.abort()
        else:
            await sink.close(source.close_code, source.close_reason)

    async def accept(link: Any) -> None:
        outer = {"ssl": client_context()} if target.scheme == "wss" else {}
        async with connect(f"{target}{PATH}", **OPTIONS, **outer, proxy=None) as back:
            if handle is not None:
                await handle(link, back)
            else:
                await asyncio.gather(pump("up", link, back), pump("down", back, link))

    def note(link: Any, request: Any) -> None:
        state.requests.append(dict(request.headers.raw_items()))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    async with serve(accept, "127.0.0.1", 0, ssl=context, process_request=note, **OPTIONS) as server:
        state.url = WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1], path="/behind")
        yield state
