"""`submit`: single items as `concurrent.futures.Future`s, coalesced into chunks while they wait.

Owns the futures and the pushed jobs behind them, one for each function in use. Function and items are pickled by the
caller and their arrays copied, so a later change of them does not matter; results are unpickled by whoever asks for
them, never on the loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import pickle
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from distmap.calls.checks import WAIT, checked
from distmap.calls.job import Seat, end_of, tick
from distmap.calls.results import exception_of, results_of
from distmap.calls.traces import gate
from distmap.core.events import InputClosed, ItemsAdded, JobSpec
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Finished, JobMessage, Landed, Lost, Printed, ReadRequest
from distmap.driver.output import OutputRouter
from distmap.errors import PoolClosed
from distmap.tasks.code import Code
from distmap.tasks.extras import warn_of_versions
from distmap.tasks.failures import HIDDEN, Failure, throw
from distmap.tasks.items import DumpedItem, dump_item, join_items
from distmap.views.callbacks import call_showing_errors

#: A function nobody submitted for so long is forgotten by the workers, in seconds.
LINGER = 2.0


#: Stands for an item that was cancelled before it was sent: a Failure is not run, only reported back.
_NOTHING = DumpedItem(pickle.dumps(Failure("CancelledError", "", "", None, "")))


class _Landing:
    """A report's results, decoded by the first that asks. Each is taken out: who keeps one keeps no other."""

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


class _Raw:
    """Stands for a result until somebody asks for it."""

    __slots__ = ("_at", "_found", "_landing")

    def __init__(self, landing: _Landing, at: int) -> None:
        self._landing: _Landing | None = landing
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


class TaskFuture(concurrent.futures.Future[Any]):
    """What `pool.submit` and `pool.apply_async` return: a `concurrent.futures.Future`.

    It also has the methods of `multiprocessing.pool.AsyncResult` (get, wait, ready, successful) and can be awaited.
    A future that runs cannot be cancelled, as in `concurrent.futures`.
    """

    def __init__(self, owner: Submissions | None = None, keep: object = None) -> None:
        super().__init__()
        self._owner = owner
        #: Lives until the item is done: the pool, which must not end for want of a name.
        self.keep = keep
        #: It is to be resolved in the thread that may run user code, not on the loop.
        self.hooked = False
        #: Called with (value, error) before anybody who waits is told.
        self.before: Callable[[Any, BaseException | None], object] | None = None
        #: Of the cell that submitted it: what it prints belongs there.
        self.context = contextvars.copy_context()
        self.router: OutputRouter | None = None

    @gate
    def result(self, timeout: float | None = None) -> Any:
        """The function's result, or its own exception raised."""
        timeout = checked("timeout", timeout, WAIT)
        error: BaseException | None = None
        try:
            value = super().result(timeout)
            if type(value) is _Raw:
                value, error = value.get()
            elif value is None:
                error = super().exception(0)  # concurrent.futures raises only what is true
        except Exception as raised:
            error = raised
        finally:
            # What it printed came before its result.
            if (router := self.router) is not None and self.done():
                self.router = None
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
            if type(value) is _Raw:
                error = value.get()[1]
        return error

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """Call `fn(future)` when it is done, in a thread of the pool; at once if it is done already."""
        self.hooked = True
        super().add_done_callback(fn if self._owner is None else partial(self._owner.call_back, fn))

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
        return self._wait_for_it().__await__()

    async def _wait_for_it(self) -> Any:
        __tracebackhide__ = HIDDEN
        # It is resolved as for any callback, and in ticks: a cell that awaits it can be interrupted.
        return await tick(asyncio.wrap_future(self), lambda interrupted: self.cancel())


class Submissions:
    """All pushed jobs of a pool."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        # It may be taken twice: a pool that ends just now refuses a new job from within.
        self.lock = threading.RLock()
        self._pushes: dict[bytes, _Push] = {}
        self._settler: queue.SimpleQueue[_Call | None] | None = None
        self._thread: threading.Thread | None = None
        self._settled = threading.Event()

    def submit(
        self,
        code: Code,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        before: Callable[[Any, BaseException | None], object] | None = None,
        *,
        keep: object = None,
    ) -> TaskFuture:
        item = dump_item((args, kwargs))
        future = TaskFuture(self, keep)
        if before is not None:
            future.before, future.hooked = before, True
        with self.lock:
            push = self._pushes.get(code.digest)
            if push is None or not push.take(future, item):
                push = self._pushes[code.digest] = _Push(self, self._seat, code.own(), name)
                if not push.take(future, item):
                    raise PoolClosed("Pool not running: it was closed meanwhile; make a new one")
        return future

    @property
    def outstanding(self) -> int:
        """Submitted items that are not done."""
        return sum(push.outstanding for push in self._open())

    def _open(self) -> list[_Push]:
        with self.lock:
            return list(self._pushes.values())

    def settle(self, future: TaskFuture, outcome: Any) -> None:
        """Resolve a future that has callbacks, in a thread where they may take their time."""
        self.aside(_resolve, future, outcome)

    def call_back(self, fn: Callable[[Any], object], future: TaskFuture) -> None:
        """Call a future's callback; aside if the loop, which had not seen it yet, resolved the future."""
        call = partial(call_showing_errors, fn, future, what="add_done_callback of a future", context=future.context)
        if self._seat.portal.inside():
            self.aside(call)
        else:
            call()

    def aside(self, function: Callable[..., object], *args: Any) -> None:
        """Call what may block in that thread, after what it was given before."""
        with self.lock:
            if self._settler is None:
                self._settler = queue.SimpleQueue()
                self._thread = threading.Thread(
                    target=_settle, args=(self._settler, self._settled), name="distmap-callbacks", daemon=True
                )
                self._thread.start()
        self._settler.put((function, args))

    def released(self, digest: bytes) -> None:
        """A broadcast was released: functions that nobody runs just now need not be kept for its sake."""
        # On the loop: whoever releases it may be the garbage collector, in the middle of a submit.
        self._seat.portal.call(self._released, digest)

    def _released(self, digest: bytes) -> None:
        for push in self._open():
            if digest in push.values:
                push.rest()

    def forget(self, push: _Push) -> None:
        """Give it no more items."""
        with self.lock:
            push.closed = True
            if self._pushes.get(push.digest) is push:
                del self._pushes[push.digest]

    def close(self) -> None:
        """No more items: the jobs end when what was submitted is done."""
        for push in self._open():
            self._seat.portal.call(push.finish)

    def stop(self) -> None:
        """The pool is gone: let the callback thread leave."""
        if self._settler is not None:
            self._settler.put(None)

    def join(self) -> None:
        """Wait for callbacks of results that are there, after `stop`."""
        if self._thread is not None and threading.current_thread() is not self._thread:
            # Its own event: an interrupted Thread.join takes a thread that runs for one that has ended (3.11, 3.12).
            if self._settled.wait(30.0):
                self._thread.join()

    def cancel_if_alone(self, future: TaskFuture) -> None:
        """Interrupt the item of `apply` if nothing else is under way for the same function."""
        for push in self._open():
            self._seat.portal.call(push.cancel_if_alone, future)


_Call = tuple[Callable[..., object], tuple[Any, ...]]


def _settle(box: queue.SimpleQueue[_Call | None], settled: threading.Event) -> None:
    while (call := box.get()) is not None:
        call_showing_errors(call[0], *call[1], what="the thread of a pool's callbacks")
        call = None  # not kept until the next one comes
    settled.set()


def _begin(future: TaskFuture) -> bool:
    """Its item is to be run; False if nobody waits for it any more: it was cancelled, or its owner resolved it."""
    try:
        return (not future.done() or future.cancelled()) and future.set_running_or_notify_cancel()
    except RuntimeError:  # it was resolved just now
        return False


def _resolve(future: TaskFuture, outcome: Any) -> None:
    try:
        if isinstance(outcome, Lost):
            outcome = exception_of(outcome)
        if isinstance(outcome, Finished):
            ended = end_of(outcome, None)
            outcome = PoolClosed("the pool was closed before the item ran") if ended is None else ended
        if type(outcome) is _Raw and future.hooked:
            value, error = outcome.get()
            outcome = value if error is None else error
            failed = error is not None
        else:
            failed = isinstance(outcome, BaseException)
        if future.before is not None:
            call_showing_errors(
                future.before,
                *((None, outcome) if failed else (outcome, None)),
                what=f"{'error_' * failed}callback= of apply_async",
                context=future.context,
            )
        if failed:
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except concurrent.futures.InvalidStateError:
        pass  # it was cancelled by its owner meanwhile
    finally:
        future.keep = None


class _Push:
    """The job of one submitted function: items in, futures resolved.

    All but `take` runs on the loop. What `take` changes is its own, under the owner's lock: the queue's end, `closed`,
    the counts of what was given. What the loop changes is the loop's: the counts of what was told and is done.
    """

    def __init__(self, owner: Submissions, seat: Seat, code: Code, name: str) -> None:
        self.digest = code.digest
        #: Broadcast values that the function mentions.
        self.values = frozenset(blob.digest for blob in code.blobs)
        self._owner = owner
        self._seat = seat
        self._pending: deque[tuple[TaskFuture, DumpedItem]] = deque()
        self._chunks: dict[int, list[TaskFuture | None]] = {}
        self._armed = False
        #: Items, and their bytes, that were submitted, and those of them that the driver was told of.
        self._given = self._given_bytes = self._told = self._told_bytes = 0
        self._done = 0
        self.closed = False
        self._linger: asyncio.TimerHandle | None = None
        spec = JobSpec(size=None, gather="list", pushed=True, stop_on_failure=False, name=name)
        self._router = OutputRouter(context=self._context_of)
        self._record = JobEntry(spec, code, self._sink, id=seat.driver.new_id(), router=self._router)
        seat.portal.call(seat.driver.open, self._record)

    def take(self, future: TaskFuture, item: DumpedItem) -> bool:
        """Queue an item, from any thread (under the owner's lock); False if this job is closed already."""
        if self.closed:
            return False
        future.router = self._router
        self._pending.append((future, item))
        self._given_bytes += item.nbytes
        self._given += 1
        if not self._armed:
            self._armed = True
            self._seat.portal.call(self._announce)
        return True

    @property
    def outstanding(self) -> int:
        """Items that are not done."""
        return self._given - self._done

    def _announce(self) -> None:
        with self._owner.lock:
            self._armed = False
            given, nbytes = self._given, self._given_bytes
        new, new_bytes = given - self._told, nbytes - self._told_bytes
        if new:
            self._told, self._told_bytes = given, nbytes
            self._seat.driver.notify(ItemsAdded(self._record.id, new, new_bytes))

    def _sink(self, message: JobMessage) -> None:
        if isinstance(message, ReadRequest):
            self._read(message)
        elif isinstance(message, Landed):
            landing = _Landing(message)
            futures = self._chunks.get(message.chunk, [])  # gone: all of it was settled or cancelled
            for at in range(message.lo, min(message.hi, len(futures))):
                future = futures[at]
                if future is not None and at in message.report.failed:
                    future.hooked = True  # so that `wait(..., FIRST_EXCEPTION)` sees an exception
                self._give(message.chunk, futures, at, _Raw(landing, at - message.lo))
        elif isinstance(message, Lost):
            if message.chunk in self._chunks:
                self._give(message.chunk, self._chunks[message.chunk], message.at, message)
        elif isinstance(message, Printed):
            self._owner.aside(self._router.show)
        elif isinstance(message, Finished):
            self._over(message)
        if self.outstanding == 0 and self._linger is None and not self.closed:
            self._linger = self._seat.portal.loop.call_later(LINGER, self.rest)

    def _context_of(self, chunk: int, at: int) -> contextvars.Context | None:
        futures = self._chunks.get(chunk, [])
        future = futures[at] if at < len(futures) else None
        return None if future is None else future.context

    def _read(self, request: ReadRequest) -> None:
        futures: list[TaskFuture | None] = []
        items: list[DumpedItem] = []
        for _ in range(request.most):
            future, item = self._pending.popleft()
            if _begin(future):
                futures.append(future)
                items.append(item)
            else:
                # It was announced, so it has a place in the count; what travels there runs nothing.
                future.keep = None
                futures.append(None)
                items.append(_NOTHING)
                self._done += 1
        payload, blobs = join_items(items)
        self._chunks[request.chunk] = futures
        self._seat.driver.chunk_taken(self._record.id, request.chunk, payload, blobs, len(items))

    def _give(self, chunk: int, futures: list[TaskFuture | None], at: int, outcome: Any) -> None:
        future, futures[at] = futures[at], None
        if at == len(futures) - 1 and not any(futures):
            del self._chunks[chunk]
        if future is None:
            return
        self._done += 1
        if future.hooked or type(outcome) is not _Raw:
            self._owner.settle(future, outcome)
        else:
            _resolve(future, outcome)

    def rest(self) -> None:
        """Nobody submitted for a while, or will again: end the job, so that the workers forget the function."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self.outstanding == 0 and not self._pending:
            self.finish()

    def finish(self) -> None:
        """Take no more; the job ends when what is there is done."""
        if not self.closed:
            self._owner.forget(self)
            self._announce()
            self._seat.driver.notify(InputClosed(self._record.id))

    def cancel_if_alone(self, future: TaskFuture) -> None:
        if self.outstanding == 1 and any(future in futures for futures in self._chunks.values()):
            self._owner.forget(self)
            self._seat.driver.cancel(self._record.id)

    def _over(self, finished: Finished) -> None:
        self._owner.forget(self)
        if self._record.notices:
            self._owner.aside(warn_of_versions, self._record.notices)
        if self._router.has_unreported or self._router.waiting:
            self._owner.aside(lambda: self._router.show(last=True))
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        left = [future for futures in self._chunks.values() for future in futures if future is not None]
        for future, _ in self._pending:
            future.keep = None
            left += [future] if _begin(future) else []
        self._chunks.clear()
        self._pending.clear()
        for future in left:
            self._owner.settle(future, finished)
