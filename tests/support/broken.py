"""Servers on this machine that fail at one hop of the way to a worker."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

from support.certificates import Certificate
from websockets.asyncio.server import serve

from distmap.transport.url import WorkerURL
from distmap.transport.websocket import SUBPROTOCOL


def shows(certificate: Certificate) -> ssl.SSLContext:
    """TLS of a server that shows it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


@contextlib.asynccontextmanager
async def says(greeting: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[WorkerURL]:
    """A TCP (or TLS) server that says this, reads what comes, and hangs up; b"": it waits in silence."""
    done = asyncio.Event()
    accepted: set[asyncio.Task[Any] | None] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.add(asyncio.current_task())
        with contextlib.suppress(OSError):
            if greeting:
                await reader.read(65536)
                writer.write(greeting)
                await writer.drain()
            else:
                await done.wait()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        done.set()
        server.close()
        await server.wait_closed()
        await asyncio.gather(*filter(None, accepted))


@contextlib.asynccontextmanager
async def upgrades(
    handle: Any, context: ssl.SSLContext, subprotocol: str | None = SUBPROTOCOL
) -> AsyncIterator[WorkerURL]:
    """A WebSocket server; `handle` is given each connection. `subprotocol`: the one that it chooses, asked or not."""

    def select(link: Any, offered: Any) -> Any:
        return subprotocol

    async with serve(handle, "127.0.0.1", 0, ssl=context, compression=None, select_subprotocol=select) as server:
        yield WorkerURL("127.0.0.1", server.sockets[0].getsockname()[1])


@contextlib.contextmanager
def drops() -> Iterator[WorkerURL]:
    """A port whose packets are dropped: as many connections wait there as fit, and nobody takes them."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield WorkerURL("127.0.0.1", server.getsockname()[1])
