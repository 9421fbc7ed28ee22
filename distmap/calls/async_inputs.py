"""Items of an async iterable, for a thread that reads.

Owns `Bridge`, the way between the reading thread and the event loop on which the iterable runs: the loop that was
running where the call was made, else one of its own, in a thread of its own. It is asked for the next item only when
that is wanted, so it is read as lazily as any other input. Imported with the first such input: it needs asyncio.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

#: Seconds between two looks whether the loop is still there while an item is waited for.
LOOK_EVERY = 1.0

_END = object()


class Bridge:
    """An iterator over the items, for one thread at a time."""

    def __init__(self, items: AsyncIterable[Any]) -> None:
        # The loop that runs where the call is made; None: none does.
        self._caller = asyncio._get_running_loop()
        self._loop = self._caller
        self._items = items
        self._iterator: AsyncIterator[Any] | None = None
        # What the iterable finds in context variables is what the caller of the call has there.
        self._context = contextvars.copy_context()
        self._pending: concurrent.futures.Future[Any] | None = None
        # The task that waits for an item; on the loop.
        self._task: asyncio.Task[Any] | None = None
        # Guards the beginning of a wait against `close`.
        self._lock = threading.Lock()
        self._closed = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._lock:
            if self._closed:
                raise StopIteration
            loop = self._loop = self._loop or _own_loop()
            item = self._advance()
            try:
                self._pending = self._context.run(asyncio.run_coroutine_threadsafe, item, loop)
            except RuntimeError:  # it is closed
                item.close()
                raise _loop_ended() from None
        try:
            value = self._wait(self._pending, loop)
        except BaseException:
            self.close()
            raise
        if value is _END:
            self.close()
            raise StopIteration
        return value

    def _wait(self, pending: concurrent.futures.Future[Any], loop: asyncio.AbstractEventLoop) -> Any:
        while True:
            try:
                return pending.result(LOOK_EVERY)
            except TimeoutError:
                if pending.done():
                    raise  # the iterable's own
                if loop.is_closed():
                    raise _loop_ended() from None
            except concurrent.futures.CancelledError:
                if self._closed:
                    raise StopIteration from None
                raise _loop_ended() from None

    def check_wait(self, what: str) -> None:
        """Raise RuntimeError if this thread must not wait for `what`: it would stop the loop of the iterable."""
        if self._caller is not None and asyncio._get_running_loop() is self._caller:
            raise RuntimeError(
                f"{what} would wait for ever: its input ({type(self._items).__name__}) runs on the event loop of this "
                "thread, which waits; use `await pool.map_async(...)` or `async for result in pool.imap(...)`"
            )

    def close(self) -> None:
        """Nothing more is read: let the iterable end. From any thread; does not wait."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._loop is None:
            return  # it has not begun
        if self._pending is not None:
            self._pending.cancel()
        # Not a coroutine, which would never be awaited if the loop is stopped for good before this.
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended its generators
            self._context.copy().run(self._loop.call_soon_threadsafe, self._begin_end)

    # --- on the loop ------------------------------------------------------------------------------------------------

    async def _advance(self) -> Any:
        self._task = asyncio.current_task()
        if self._iterator is None:
            self._iterator = aiter(self._items)
        return await anext(self._iterator, _END)

    def _begin_end(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self._end())
        self._ending.add_done_callback(lambda end: end.cancelled() or end.exception())  # nobody waits for it

    async def _end(self) -> None:
        try:
            if self._task is not None and not self._task.done():
                await asyncio.wait([self._task])
            aclose = getattr(self._iterator, "aclose", None)
            if aclose is not None:
                await aclose()
        finally:
            if self._caller is None:
                asyncio.get_running_loop().stop()


def _loop_ended() -> RuntimeError:
    return RuntimeError("the event loop on which the input runs has ended before the input; keep it running")


def _own_loop() -> asyncio.AbstractEventLoop:
    """A loop for one input, where the caller has none: it ends with the input."""
    loop = asyncio.new_event_loop()

    def run() -> None:
        try:
            loop.run_forever()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    threading.Thread(target=run, name="distmap-input", daemon=True).start()
    return loop
