"""The future of one submitted item.

Owns `TaskFuture`, which keeps its result pickled: the thread that asks for the result unpickles it, never the loop.
Must not know how items become chunks; `submissions.py` does that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable, Generator
from typing import Any, Protocol

from distmap.calls.awaiting import await_interruptible
from distmap.calls.checks import WAIT, checked
from distmap.calls.lazy_future import LazyFuture
from distmap.calls.outcome import end_of
from distmap.calls.results import exception_of, results_of
from distmap.calls.traces import gate
from distmap.driver.messages import Finished, Landed, Lost
from distmap.driver.output import OutputRouter
from distmap.errors import PoolClosed
from distmap.tasks.failures import HIDDEN, throw
from distmap.tasks.items import DumpedItem
from distmap.views.callbacks import call_showing_errors


class SharedReport:
    """A report's results, decoded by the first thread that asks. Each is taken out: who keeps one keeps no other."""

    __slots__ = ("_failed", "_first", "_landed", "_values", "lock")

    def __init__(self, landed: Landed) -> None:
        self._landed: Landed | None = landed
        self._first = landed.start + landed.lo
        self.lock = threading.Lock()
        self._values: list[Any] = []
        self._failed: dict[int, BaseException] = {}

    def take(self, at: int) -> tuple[Any, BaseException | None]:
        """Under the lock."""
        if self._landed is not None:
            self._values, self._failed = results_of(self._landed)
            self._landed = None
        value, self._values[at] = self._values[at], None
        return value, self._failed.pop(self._first + at, None)


class RawResult:
    """Stands for a result until somebody asks for it, in any thread."""

    __slots__ = ("_at", "_found", "_landing")

    def __init__(self, landing: SharedReport, at: int) -> None:
        self._landing: SharedReport | None = landing
        self._at = at
        self._found: tuple[Any, BaseException | None] = (None, None)

    def get(self) -> tuple[Any, BaseException | None]:
        """The value and None, or anything and the error."""
        landing = self._landing
        if landing is not None:
            with landing.lock:
                if self._landing is not None:
                    self._found, self._landing = landing.take(self._at), None
        return self._found


class Push(Protocol):
    """Who sends submitted items."""

    @property
    def router(self) -> OutputRouter:
        """Writes what they print."""

    def call_back(self, fn: Callable[[Any], object], submission: Submission, future: Any) -> None:
        """Call a callback of the future, where it may take its time."""

    def hurry(self) -> None:
        """Somebody waits for one of them."""


class Submission:
    """A submitted item on its way, and what is done when its future is resolved.

    Made in the thread that submits; afterwards `future` and `item` are the loop's. Any thread may set `hooked`.
    """

    __slots__ = ("before", "context", "future", "hooked", "item", "keep", "push")

    def __init__(
        self, item: DumpedItem, before: Callable[[Any, BaseException | None], object] | None, keep: object
    ) -> None:
        self.item: DumpedItem | None = item
        #: Called with (value, error) before anybody who waits is told.
        self.before = before
        #: The future is to be resolved in the thread that may run user code, not on the loop.
        self.hooked = before is not None
        #: Lives until the item is done: the pool, which must not end for want of a name.
        self.keep: object = keep
        #: Of the cell that submitted it: what it prints belongs there.
        self.context = contextvars.copy_context()
        #: Set before anybody has the future.
        self.push: Push
        #: None once it is resolved: future and submission refer to each other until then.
        self.future: TaskFuture | None = TaskFuture(self)

    def begin(self) -> bool:
        """Its item is to be run; False if nobody waits for it any more: it was cancelled, or its owner resolved it."""
        future = self.future
        try:
            if future is not None and (not future.done() or future.cancelled()):
                if future.set_running_or_notify_cancel():
                    return True
        except RuntimeError:  # it was resolved just now
            pass
        self.let_go()
        return False

    def let_go(self) -> None:
        """Its item is done, or not run."""
        self.keep = self.future = self.item = None


class TaskFuture(LazyFuture):
    """What `pool.submit` and `pool.apply_async` return: a `concurrent.futures.Future`.

    It also has the methods of `multiprocessing.pool.AsyncResult` (get, wait, ready, successful) and can be awaited.
    A future that runs cannot be cancelled, as in `concurrent.futures`.
    """

    __slots__ = ("_submission",)

    def __init__(self, submission: Submission) -> None:
        super().__init__()
        self._submission = submission

    def needed(self) -> None:
        """See LazyFuture."""
        self._submission.push.hurry()

    @gate
    def result(self, timeout: float | None = None) -> Any:
        """The function's result, or its own exception raised."""
        timeout = checked("timeout", timeout, WAIT)
        error: BaseException | None = None
        try:
            value = super().result(timeout)
            if type(value) is RawResult:
                value, error = value.get()
            elif value is None:
                error = super().exception(0)  # concurrent.futures raises only what is true
        except Exception as raised:
            error = raised
        finally:
            # What it printed came before its result.
            if (router := self._submission.push.router).waiting and self.done():
                router.show()
        if error is not None:
            throw(error)
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The function's exception, None if it had none."""
        timeout = checked("timeout", timeout, WAIT)
        error = super().exception(timeout)
        if error is None:
            value = super().result(0)
            if type(value) is RawResult:
                error = value.get()[1]
        return error

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """Call `fn(future)` when it is done, in a thread of the pool; at once if it is done already."""
        submission = self._submission
        submission.hooked = True
        super().add_done_callback(lambda future: submission.push.call_back(fn, submission, future))

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """Whether it is done, whether it was cancelled, result, exception: what asyncio asks for since Python 3.14."""
        if not self.done() or self.cancelled():
            return self.done(), self.cancelled(), None, None
        error = self.exception(0)
        return True, False, None if error is not None else self.result(0), error

    def get(self, timeout: float | None = None) -> Any:
        """As `result`; raises `multiprocessing.TimeoutError` when it takes longer."""
        __tracebackhide__ = HIDDEN
        try:
            return self.result(timeout)
        except TimeoutError:
            if self.done():
                raise
            from multiprocessing import TimeoutError as Late

            raise Late(f"no result within {timeout} s; the item goes on") from None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is done, at most `timeout` seconds."""
        timeout = checked("timeout", timeout, WAIT)
        concurrent.futures.wait([self], timeout)

    def ready(self) -> bool:
        """True once it is done."""
        return self.done()

    def successful(self) -> bool:
        """True if it raised nothing.

        Raises:
            ValueError: it is not done yet.
        """
        if not self.done():
            raise ValueError("the result is not ready yet; wait() for it first")
        return self.exception() is None

    def __await__(self) -> Generator[Any, None, Any]:
        __tracebackhide__ = HIDDEN
        return self._await_result().__await__()

    async def _await_result(self) -> Any:
        __tracebackhide__ = HIDDEN
        # It is resolved as for any callback, and in ticks: a cell that awaits it can be interrupted.
        return await await_interruptible(asyncio.wrap_future(self), lambda interrupted: self.cancel())


def resolve(submission: Submission, outcome: Any) -> None:
    """Resolve a future: on the loop, or in the thread of callbacks if it is hooked."""
    future, before = submission.future, submission.before
    if future is None:
        return
    try:
        if type(outcome) is RawResult and not submission.hooked:
            future.set_result(outcome)
            return
        if isinstance(outcome, Lost):
            outcome = exception_of(outcome)
        if isinstance(outcome, Finished):
            ended = end_of(outcome, None)
            outcome = PoolClosed("the pool was closed before the item ran") if ended is None else ended
        if type(outcome) is RawResult:
            value, error = outcome.get()
            outcome = value if error is None else error
            failed = error is not None
        else:
            failed = isinstance(outcome, BaseException)
        if before is not None:
            call_showing_errors(
                before,
                *((None, outcome) if failed else (outcome, None)),
                what=f"{'error_' * failed}callback= of apply_async",
                context=submission.context,
            )
        if failed:
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except concurrent.futures.InvalidStateError:
        pass  # it was cancelled by its owner meanwhile
    finally:
        submission.let_go()
