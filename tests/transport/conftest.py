"""A worker's open port, a pool that dials it, and a loop that notices what is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from distmap.transport.channel import Connection
from distmap.transport.dial import dial
from distmap.transport.listen import Server, listen
from distmap.transport.token import Secret
from distmap.transport.url import WorkerURL, parse_url

TOKEN = Secret(b"t" * 32)


class ListeningWorker:
    """An open port, the connections that it accepted, and the sentences of those that it refused."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Connection] = asyncio.Queue()
        self.refused: asyncio.Queue[str] = asyncio.Queue()
        self.info: Mapping[str, object] = {"name": "gpu1", "slots": 2, "python": "3.13"}
        self.server: Server
        self.token = TOKEN

    @property
    def url(self) -> WorkerURL:
        return parse_url(self.server.url)

    async def accept(self, connection: Connection) -> None:
        self.accepted.put_nowait(connection)

    async def refusal(self) -> str:
        async with asyncio.timeout(10):
            return await self.refused.get()


@contextlib.asynccontextmanager
async def _open_port(**options: Any) -> AsyncIterator[ListeningWorker]:
    worker = ListeningWorker()
    address = parse_url(options.pop("address", "wss://127.0.0.1:0"), listening=True)
    options = {
        "token": TOKEN,
        "role": "worker",
        "info": lambda theirs: worker.info,
        "on_connection": worker.accept,
        **options,
    }
    worker.server = await listen(address, on_refused=worker.refused.put_nowait, **options)
    try:
        yield worker
    finally:
        await worker.server.close()


@pytest.fixture
def open_port() -> Callable[..., contextlib.AbstractAsyncContextManager[ListeningWorker]]:
    """Opens a worker's port on this machine for the time of an `async with`; takes the options of `listen`."""
    return _open_port


@pytest.fixture
def dial_pool() -> Callable[..., Awaitable[Connection]]:
    """Dials a URL as a pool; takes the options of `dial`."""

    async def dial_pool(url: WorkerURL, **options: Any) -> Connection:
        info = {"name": "nb", "python": "3.13"}
        return await dial(url, **{"token": TOKEN, "role": "pool", "info": info, "timeout": 10, **options})

    return dial_pool


@pytest.fixture
def run() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine in a loop of its own, and fails if it leaves a task behind."""

    async def watched(main: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.timeout(15):
            await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    return lambda main: asyncio.run(watched(main))
