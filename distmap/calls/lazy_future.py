"""A future that has a lock of its own only once somebody needs it.

Owns `LazyFuture`: a `concurrent.futures.Future` without the Condition that each of those has (a lock, a deque and five
methods, more than 1 KB). Most of many futures are done before anybody asks for their results; for such the Condition is
never made. Nor is it for one thread that waits for the result, the most frequent wait: it has a bell. Must not know
what a future stands for.

Threads: whoever needs the Condition (to cancel, to add a callback, `concurrent.futures.wait`, a second thread that
waits) makes it under `_making`, one lock for all; so is the bell hung up, and taken down by whoever rings it. A future
without a Condition changes its state under that lock too: so nobody can begin to wait meanwhile. With one it is changed
under the Condition, by the methods of the standard library.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any

#: Held for a few assignments at a time.
_making = threading.Lock()


class LazyFuture(concurrent.futures.Future[Any]):
    """A future of the standard library, for any of its functions, in less memory."""

    # Also what the base class keeps: so an instance needs no dictionary.
    __slots__ = ("_bell", "_done_callbacks", "_exception", "_made", "_result", "_state", "_waiters")

    def __init__(self) -> None:
        # Not that of the base class, which makes a Condition.
        self._made: threading.Condition | None = None
        #: A lock that is held until it is done: whoever waits acquires it a second time.
        self._bell: threading.Lock | None = None
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._waiters: Sequence[Any] = ()  # type: ignore[assignment]
        self._done_callbacks: Sequence[Callable[[Any], object]] = ()

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        condition = self._made
        if condition is None:
            with _making:
                if (condition := self._made) is None:
                    self._waiters, self._done_callbacks = [], []
                    condition = self._made = threading.Condition()
            self.needed()
        return condition

    def needed(self) -> None:
        """Somebody begins to wait for it, or to do something else that needs the Condition; called in that thread."""

    # --- any thread: a look needs no lock, as in each state everything that belongs to it is set before --------------

    def cancelled(self) -> bool:
        """True if it was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """True if it cannot be cancelled any more, and is not done."""
        return self._state == RUNNING

    def done(self) -> bool:
        """True if it has a result or an exception, or was cancelled."""
        return self._state in (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)

    def result(self, timeout: float | None = None) -> Any:
        """The result, or the exception raised; waits for it, at most `timeout` seconds."""
        if self._state != FINISHED and (timeout is None or timeout > 0) and self._wait(timeout):
            timeout = 0
        if self._state == FINISHED and self._exception is None:
            return self._result
        try:
            return super().result(timeout)
        finally:
            del self  # it would be in a circle with the exception, whose traceback has this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception, None if it has none; waits for it, at most `timeout` seconds."""
        return self._exception if self._state == FINISHED else super().exception(timeout)

    def cancel(self) -> bool:
        """Cancel it if it does not run yet; False if it does, or is done."""
        cancelled = super().cancel()
        if cancelled:
            self._ring()
        return cancelled

    def _wait(self, timeout: float | None) -> bool:
        """Wait for the bell; False if somebody else has it, or needs the Condition, which then serves both."""
        with _making:
            if self._made is not None or self._bell is not None or self.done():
                return False
            bell = self._bell = threading.Lock()
            bell.acquire()
        try:
            self.needed()
            bell.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        finally:
            with _making:
                if self._bell is bell:  # it was not rung in time
                    self._bell = None
        return True

    def _ring(self) -> None:
        with _making:
            bell, self._bell = self._bell, None
        if bell is not None:
            bell.release()

    # --- its owner ---------------------------------------------------------------------------------------------------

    def set_running_or_notify_cancel(self) -> bool:
        """It cannot be cancelled from now on; False if it was cancelled before."""
        with _making:
            if self._made is None and self._state == PENDING:
                self._state = RUNNING
                return True
        return super().set_running_or_notify_cancel()

    def set_result(self, result: Any) -> None:
        """It is done."""
        with _making:
            alone = self._made is None and self._state in (PENDING, RUNNING)
            if alone:
                self._result = result
                self._state = FINISHED
        if not alone:
            super().set_result(result)
        if self._bell is not None:
            self._ring()

    def set_exception(self, exception: BaseException | None) -> None:
        """It is done, without a result."""
        super().set_exception(exception)
        self._ring()
