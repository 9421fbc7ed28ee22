"""Tests of distmap/transport/waiting.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from support.waiting import eventually

from distmap.transport.channel import Connection
from distmap.transport.memory import pair
from distmap.transport.waiting import WAITS, Waiting, called, waits


def test_who_waits() -> None:
    """A worker says in its INFO that it dials in order to wait."""
    assert waits({WAITS: True})
    assert not waits({WAITS: "yes"})
    assert not waits({})


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test

    asyncio.run(bounded())


def test_a_worker_is_called_once() -> None:
    """A call reaches every worker that waits; the connection is over then."""

    async def main() -> None:
        worker_end, pool_end = pair()
        waiting = Waiting()
        held = asyncio.ensure_future(waiting.hold(Connection(pool_end, {}), called=False))
        comes = asyncio.ensure_future(called(Connection(worker_end, {}), 10))
        await eventually(lambda: len(waiting) == 1)
        waiting.call()
        assert await comes
        await held
        assert len(waiting) == 0

    run(main())


def test_who_comes_to_wait_while_there_is_work() -> None:
    """It is called at once."""

    async def main() -> None:
        worker_end, pool_end = pair()
        held = asyncio.ensure_future(Waiting().hold(Connection(pool_end, {}), called=True))
        assert await called(Connection(worker_end, {}), 10)
        await held

    run(main())


def test_a_connection_that_ends_is_no_call() -> None:
    """A pool that closes, a hop that cuts, and time that is up do not call the worker."""

    async def main() -> None:
        worker_end, pool_end = pair()
        waiting = Waiting()
        held = asyncio.ensure_future(waiting.hold(Connection(pool_end, {}), called=False))
        comes = asyncio.ensure_future(called(Connection(worker_end, {}), 10))
        await eventually(lambda: len(waiting) == 1)
        await waiting.close()
        assert not await comes
        await held
        worker_end, pool_end = pair()
        assert not await called(Connection(worker_end, {}), 0.01)

    run(main())


def test_anything_else_is_no_call() -> None:
    """Only the one frame calls."""

    async def main() -> None:
        worker_end, pool_end = pair()
        comes = asyncio.ensure_future(called(Connection(worker_end, {}), 10))
        await pool_end.send([b"go"])
        assert not await comes

    run(main())
