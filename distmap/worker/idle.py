"""A worker that has had no work for long: it leaves its pool, and is called back.

Owns when that happens, and how a worker waits for the call. Heartbeats through the proxy of a JupyterHub count as
activity of its user, so a worker that stays attached keeps the user's server alive for ever. Such a worker leaves, and
waits over a connection without any traffic (`transport/waiting.py`), which counts as nothing. What ends that connection
(a proxy that cuts silent ones, a server that was stopped) makes the worker dial again, ever more rarely. On the
supervisor's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from distmap.core.limits import Limits
from distmap.transport.channel import Connection
from distmap.transport.waiting import called
from distmap.worker.serving import PoolSession

log = logging.getLogger("distmap.worker")


async def leave_when_idle(session: PoolSession, seconds: float) -> None:
    """Leave the pool once it has given no work for so long. Ends with the session."""
    idle = asyncio.ensure_future(_idle_for(session, seconds))
    over = asyncio.ensure_future(session.over.wait())
    try:
        await asyncio.wait({idle, over}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        idle.cancel()
        over.cancel()
        await asyncio.gather(idle, over, return_exceptions=True)
    if session.over.is_set():
        return
    session.rests = True
    # Work that is on its way goes back to the pool, or is finished.
    session.drain()
    await session.flushed()
    await session.idle.wait()
    await session.flushed()
    await session.leave(f"no work for {shown(seconds)}")


async def _idle_for(session: PoolSession, seconds: float) -> None:
    """Wait until no slot has had an attempt for so long."""
    clock = asyncio.get_running_loop().time
    while (left := session.idle_since + seconds - clock()) > 0 or not session.idle.is_set():
        await asyncio.sleep(max(0.0, left))
        await session.idle.wait()


async def wait_for_call(dial: Callable[[], Awaitable[Connection]], limits: Limits) -> None:
    """Wait until the pool calls.

    Args:
        dial: Makes a connection to wait at.
        limits: Pauses.

    Raises:
        DistmapError, OSError: What `dial` raises: the pool is not there.
    """
    clock = asyncio.get_running_loop().time
    held, pause = limits.call_held, limits.call_redial
    while True:
        connection, began = await dial(), clock()
        if await called(connection, held):
            return
        if clock() - began >= held:
            held = min(2 * held, limits.call_most)
        else:
            log.info("the connection for calls ended; dialling again in %s", shown(pause))
            await asyncio.sleep(pause)
            pause = min(2 * pause, limits.call_most)


def shown(seconds: float) -> str:
    """The time in words: "10 min"."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
