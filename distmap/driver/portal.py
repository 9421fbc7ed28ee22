"""The event loop in its own daemon thread: any thread may call into it.

Owns the one loop of a pool and the thread it runs in. Must not know what runs there. Calls from other threads go
through a queue with at most one wake-up for each batch: 0.1 us instead of 4 us a call (measured). The wake-up is a byte
on a socket pair that the loop reads: asyncio's own, with a handle and a context for each, costs a lone call 10 us more.

Threads: any thread may call `call`, `ask`, `run`, `stop` and `join`; `_woken`, `_drain`, `_handle` and `_main` run in
the loop's thread. The queue has no lock of ours: `deque.append` and `popleft` are atomic, and `_armed` is cleared
before the queue is emptied, so a call that comes meanwhile wakes the loop again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from distmap.errors import PoolClosed

if TYPE_CHECKING:
    import asyncio
    import socket

T = TypeVar("T")


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop that can watch the sockets of task processes. (The default loop of Windows cannot.)"""
    import asyncio

    return asyncio.SelectorEventLoop() if sys.platform == "win32" else asyncio.new_event_loop()


class Portal:
    """Runs an asyncio loop in a daemon thread.

    Args:
        first: called in the thread before asyncio is imported. Task processes that it starts boot while the loop is
            made, and belong to a thread that lives as long as the pool (PDEATHSIG follows the thread that spawned).
        crashed: called in the thread with any exception that a posted call raised. Such an exception is a bug, and
            must end whatever waits for an answer.
    """

    def __init__(
        self,
        *,
        first: Callable[[], None] | None = None,
        crashed: Callable[[BaseException], None] | None = None,
        name: str = "distmap",
    ) -> None:
        self._first = first
        self._crashed = crashed
        self._box: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._armed = False
        #: Held while calls run that came after the loop had ended, each in the thread that made it.
        self._leftover = threading.RLock()
        self._ready = threading.Event()
        #: `join` waits for this: an interrupted Thread.join takes a thread that runs for one that ended (3.11, 3.12).
        self._ended = threading.Event()
        #: Tasks of `run` whose answer is not given yet; the loop's thread only.
        self._unanswered: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The two ends of what wakes the loop; made before it is there, closed after it.
        self._bell: socket.socket
        self._rung: socket.socket
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop; waits until it runs."""
        if self._loop is None or not self._ready.is_set():
            self._ready.wait()
            if self._failure is not None:
                raise self._failure
        assert self._loop is not None
        return self._loop

    def inside(self) -> bool:
        """True in the loop's own thread."""
        return threading.current_thread() is self._thread

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Run `function(*args)` on the loop, soon, in the order of the calls. Does not wait.

        After the loop has ended it runs here and now, under a lock: no other thread uses the loop's objects then.
        """
        self._box.append((function, args))
        if not self._armed:
            try:
                self._armed = True
                if not self._wake():
                    self._armed = False
                    with self._leftover:
                        self._drain()
            except BaseException:  # an interrupt: the next call must wake the loop in our stead
                self._armed = False
                raise

    def _wake(self) -> bool:
        """Have the loop look at the queue; False if it has ended."""
        _ = self.loop  # waits for it
        try:
            self._bell.send(b"\0")
        except OSError:  # closed
            return False
        return True

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):  # there is a byte, but who knows each system
            self._rung.recv(64)
        self._drain()

    def _drain(self) -> None:
        self._armed = False  # clear first, then empty: nothing is lost
        while True:
            try:
                function, args = self._box.popleft()
            except IndexError:  # asked of the queue itself, whose lock orders this where threads really run at once
                return
            try:
                function(*args)
            except BaseException as error:
                if self._crashed is None:
                    raise
                self._crashed(error)

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback of the loop (a socket's reader, a timer) is a bug like that of a posted call."""
        error = context.get("exception")
        if self._crashed is not None and error is not None and "handle" in context:
            self._crashed(error)
        else:
            loop.default_exception_handler(context)

    def ask(self, function: Callable[..., T], *args: Any, timeout: float = 10.0) -> T:
        """Run `function(*args)` on the loop and wait for what it returns.

        Raises:
            TimeoutError: the loop did not answer in time (it is blocked).
        """
        if self.inside():
            return function(*args)
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                answer.set_result(function(*args))
            except BaseException as error:
                answer.set_exception(error)

        self.call(run)
        try:
            return answer.result(timeout)
        except TimeoutError:
            if answer.done():
                raise
            why = "it is held up, perhaps by an item that runs inline"
            raise TimeoutError(f"the loop of the pool did not answer within {timeout:g} s: {why}") from None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine on the loop, in its turn among the calls; gives PoolClosed if the loop ends first."""
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()
        closed = PoolClosed("Pool not running: it was closed meanwhile; make a new one")

        def begin() -> None:
            try:
                task = self.loop.create_task(coroutine)
            except RuntimeError:
                coroutine.close()
                answer.set_exception(closed)
            else:
                self._unanswered.add(task)
                task.add_done_callback(end)

        def end(task: asyncio.Task[T]) -> None:
            self._unanswered.discard(task)
            error = closed if task.cancelled() else task.exception()
            if error is None:
                answer.set_result(task.result())
            else:
                answer.set_exception(error)

        self.call(begin)
        return answer

    def close(self, timeout: float = 5.0) -> None:
        """Stop the loop and wait for the thread."""
        self.stop()
        self.join(timeout)

    def stop(self) -> None:
        """Stop the loop, soon. Tasks still running are cancelled first."""
        if not self._ended.is_set():
            with contextlib.suppress(RuntimeError):  # it has ended just now
                self.loop.call_soon_threadsafe(self.loop.stop)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of the loop; gives whether it has ended."""
        ended = self._ended.wait(0 if self.inside() else timeout)
        if ended and not self.inside():
            self._thread.join(timeout)
        return ended

    def _main(self) -> None:
        try:
            self._run()
        finally:
            self._ended.set()

    def _run(self) -> None:
        try:
            if self._first is not None:
                self._first()
            import asyncio
            import socket

            self._rung, self._bell = socket.socketpair()
            self._rung.setblocking(False)
            self._loop = loop = new_loop()
            loop.add_reader(self._rung, self._woken)
        except BaseException as error:
            self._failure = error
            self._ready.set()
            return
        asyncio.set_event_loop(loop)
        if self._crashed is not None:
            loop.set_exception_handler(self._handle)
        loop.call_soon(self._ready.set)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            # A call that comes just now may begin one; one that is done may not have given its answer yet.
            while tasks := asyncio.all_tasks(loop) | self._unanswered:
                for task in tasks:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()
            self._bell.close()
            self._rung.close()
            with self._leftover:
                self._drain()  # what came too late for the loop
