"""A relay of a test's own, in its loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from distmap.relay.relay import Allowed, Relay
from distmap.wire import relaying

ROOM, OTHER_ROOM = "a" * 32, "b" * 32
POOL, OTHER_POOL = "c" * 32, "d" * 32


@contextlib.asynccontextmanager
async def relaying_at(context: ssl.SSLContext | None = None, **allowed: Any) -> AsyncIterator[str]:
    """The address of a relay that allows so much; with a context it ends TLS itself."""
    relay = Relay(Allowed(**allowed))
    port = await relay.open("127.0.0.1", 0, context)
    try:
        yield f"{'ws' if context is None else 'wss'}://127.0.0.1:{port}"
    finally:
        await relay.close()


class Guest:
    """Who dials a relay and keeps to its texts."""

    def __init__(self, link: ClientConnection) -> None:
        self.link = link

    @classmethod
    async def at(cls, url: str, path: str = relaying.PATH, **options: Any) -> Guest:
        return cls(
            await connect(
                url + path,
                subprotocols=[relaying.SUBPROTOCOL],  # type: ignore[list-item]
                compression=None,
                ping_interval=None,
                proxy=None,
                **options,
            )
        )

    @classmethod
    async def pool(cls, url: str, room: str = ROOM, pool: str = POOL) -> Guest:
        guest = await cls.at(url)
        await guest.link.send(relaying.write_join(relaying.Join(room, "pool", pool)))
        return guest

    @classmethod
    async def worker(cls, url: str, room: str = ROOM, **options: Any) -> Guest:
        guest = await cls.at(url, **options)
        await guest.link.send(relaying.write_join(relaying.Join(room, "worker")))
        return guest

    async def notice(self) -> relaying.Notice:
        """What the relay says next."""
        async with asyncio.timeout(10):
            return relaying.read_notice(await self.link.recv())

    async def closed(self) -> tuple[int | None, str | None]:
        """How the relay ended it."""
        async with asyncio.timeout(10):
            await self.link.wait_closed()
        return self.link.close_code, self.link.close_reason
