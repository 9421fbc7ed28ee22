"""Awaiting results in a notebook's own event loop.

Owns `await_interruptible`: an interrupt of a cell must stop a coroutine that waits for another thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distmap.calls.traces import clean
from distmap.core.limits import LIMITS
from distmap.tasks.failures import HIDDEN, throw
from distmap.views.kernel import in_kernel


async def await_interruptible(waited: asyncio.Future[Any], stop: Callable[[bool], object]) -> Any:
    """Await a future and wake up every LIMITS.await_every seconds, so that a notebook's interrupt gets through.

    A cancellation calls `stop(interrupted)`: True if the user interrupted the cell.
    """
    __tracebackhide__ = HIDDEN
    try:
        while not waited.done():
            await asyncio.wait([waited], timeout=LIMITS.await_every)
        if (error := waited.exception()) is not None:
            throw(error)
        return waited.result()
    except BaseException as raised:
        # A cancellation may come after the result, before this coroutine runs again: then too the job must stop.
        if isinstance(raised, asyncio.CancelledError) and not waited.cancelled():
            stop(_cell_was_cancelled())
            waited.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else looks at it
        raise clean(raised)  # noqa: B904  (it is the one that was caught)


def _cell_was_cancelled() -> bool:
    """Whether the task being cancelled is a notebook's cell, which the kernel cancels when it is interrupted."""
    task = asyncio.current_task()
    return task is not None and getattr(task.get_coro(), "__name__", "") == "run_cell_async" and in_kernel()
