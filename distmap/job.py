"""The handle of one map: iterate, result, cancel, progress, failures.

Owns the consumer's side of a job: reading its input, unpickling and folding its results, and what the user may ask
of it. User code (iterables, reducers, callbacks, unpickling) runs here, in the calling thread or in the job's own
thread, never on the loop. Knows the driver and the views, and nothing below them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, NamedTuple

from distmap.consume import SKIP, Consumer, exception_of, results_of
from distmap.core.progress import Snapshot
from distmap.driver import Driver, Finished, JobMessage, Landed, Lost, Printed, ReadRequest, Record
from distmap.errors import CrashLoopError, JobCancelled, PayloadError
from distmap.failures import Failure, revive
from distmap.inputs import Input
from distmap.payload import dump_items, load_results
from distmap.portal import Portal
from distmap.views.base import View

log = logging.getLogger("distmap")

#: How long an interrupted call waits for the remote work to stop before it gives the prompt back.
INTERRUPT_WAIT = 2.0
#: A thread that waits looks after the job's view so often.
LOOK_EVERY = 0.1
#: Failed items that a view is told one by one.
MOST_NOTES = 100
#: An awaiting cell wakes up so often, or the kernel's interrupt would not reach it (ipykernel#881).
AWAIT_EVERY = 0.2


class Seat(NamedTuple):
    """Where a job works: the pool's loop and driver."""

    portal: Portal
    driver: Driver


class Job:
    """One map call: its results, its progress, and the means to stop it.

    What `map_async` and `starmap_async` return, and what `pool.last` and `pool.jobs` hold. It has the
    methods of `multiprocessing.pool.AsyncResult`; in a notebook cell it can be awaited, and iterated with `for` or
    `async for` in input order while it runs.

    Example:
        >>> from distmap import Pool
        >>> with Pool(2) as pool:
        ...     job = pool.map_async(abs, [-1, 2, -3])
        ...     job.result()
        [1, 2, 3]
    """

    def __init__(
        self,
        seat: Seat,
        record: Record,
        source: Input | None,
        consumer: Consumer,
        *,
        view: Callable[[], View | None],
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        keep: Any = None,
    ) -> None:
        self._seat = seat
        self._record = record
        self._source = source
        self._consumer = consumer
        self._make_view = view
        self._callback = callback
        self._error_callback = error_callback
        self._keep = keep
        self._box = Mailbox()
        self._view: View | None = None
        self._noted = 0
        self._over = threading.Event()
        self._news = threading.Condition()
        self._error: BaseException | None = None
        self._finished: Finished | None = None
        self._paused = False
        #: The thread that serves it, if it is not the caller's.
        self.thread: threading.Thread | None = None
        self._when_done: list[Callable[[], object]] = []
        record.sink = self._box.put
        # Here, not on the loop: a cancel may be on its way before the loop has heard of the job.
        record.id = seat.driver.new_id()

    # --- asking -----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The title: `desc=` or the function's name."""
        return self._record.spec.name

    def ready(self) -> bool:
        """True once the job is over, however it ended."""
        return self._over.is_set()

    done = ready

    def successful(self) -> bool:
        """True if it ended without an error.

        Raises:
            ValueError: it is not over yet.
        """
        if not self.ready():
            raise ValueError(f"{self!r} is not ready yet; wait() for it first")
        return self._error is None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over, at most `timeout` seconds; returns whether it is."""
        return self._over.wait(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it.

        Args:
            timeout: seconds to wait; None (default) waits as long as it takes.
        Raises:
            multiprocessing.TimeoutError: it was not over in time; it goes on.
            JobCancelled: it was cancelled.
            KeyboardInterrupt: the wait was interrupted; the job is then cancelled.
            Exception: the first item's own exception, as `map` raises it.
        """
        __tracebackhide__ = True
        try:
            over = self._over.wait(timeout)
        except KeyboardInterrupt:
            # Whoever interrupts the wait for a result wants the work to stop; `wait` is the way to look only.
            self.cancel()
            self._over.wait(INTERRUPT_WAIT)
            raise
        if not over:
            from multiprocessing import TimeoutError as Late

            raise Late(f"{self!r} was not over within {timeout} s; it goes on")
        if self._error is not None:
            raise self._error
        return self._consumer.result()

    get = result

    @property
    def partial(self) -> list[tuple[int, Any]]:
        """What has been finished so far: (index, value) pairs in input order. Kept after a cancel or an error."""
        return self._consumer.partial()

    @property
    def failures(self) -> list[tuple[int, BaseException]]:
        """The items that failed for good: (index, exception) pairs in input order."""
        return sorted(self._consumer.failures.items())

    @property
    def progress(self) -> Snapshot | None:
        """How far it is, at this moment."""
        if self._finished is not None:
            return self._finished.snapshot
        seat = self._seat
        now = seat.portal.ask(seat.driver.snapshot, self._record.id)
        return now or self._record.latest

    @property
    def stats(self) -> dict[str, Any]:
        """The counts of the job: done, failed, retried, requeued, duplicates, deaths, losses, elapsed, rate."""
        snapshot = self.progress
        names = ("total", "done", "failed", "retried", "requeued", "duplicates", "deaths", "losses", "elapsed", "rate")
        if snapshot is None:
            return dict.fromkeys(names, 0)
        return {name: getattr(snapshot, name) for name in names} | {
            "chunks": sum(lane.chunks for lane in snapshot.lanes),
        }

    @property
    def state(self) -> str:
        """ "running", "paused", "done", "failed" or "cancelled"."""
        if self._finished is not None and self.ready():
            return "cancelled" if isinstance(self._error, JobCancelled) else "failed" if self._error else "done"
        return "paused" if self._paused else "running"

    def __repr__(self) -> str:
        snapshot = self._finished.snapshot if self._finished is not None else self._record.latest
        if snapshot is None:
            return f"<Job {self.name}: {self.state}>"
        of = f" of {snapshot.total}" if snapshot.total is not None else ""
        failed = f", {snapshot.failed} failed" if snapshot.failed else ""
        return f"<Job {self.name}: {self.state}, {snapshot.done}{of} items{failed}>"

    # --- steering ---------------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Stop it: what waits is dropped, what runs is interrupted. Returns False if it was over already.

        `result()` then raises `JobCancelled`; what had been finished stays in `partial`; the pool stays usable.
        """
        if self.ready():
            return False
        self._seat.portal.call(self._seat.driver.cancel, self._record.id)
        return True

    def pause(self) -> None:
        """Start no further items; those that run go on to their end."""
        self._paused = True
        self._seat.portal.call(self._seat.driver.pause, self._record.id)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False
        self._seat.portal.call(self._seat.driver.resume, self._record.id)

    def add_done_callback(self, function: Callable[[], object]) -> None:
        """Call `function()` once the job is over, in the thread that finds out."""
        with self._news:
            if not self.ready():
                self._when_done.append(function)
                return
        function()

    # --- iterating and awaiting -------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Results in input order, each as soon as it and all before it are there."""
        index = 0
        while True:
            with self._news:
                while (run := self._consumer.run_at(index)) is None and not self.ready():
                    self._news.wait()
            if run is None:
                if self._error is not None:
                    raise self._error
                return
            count, values = run
            failures = self._consumer.failures
            if failures and self._record.spec.stop_on_failure:
                failed = next((at for at in range(index, index + count) if at in failures), None)
                if failed is not None:
                    yield from values[: failed - index]
                    raise failures[failed]
            yield from values
            index += count

    async def __aiter__(self) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        source = iter(self)
        end = object()
        while (value := await tick(loop.run_in_executor(None, next, source, end), self.cancel)) is not end:
            yield value

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait_for_it().__await__()

    async def _wait_for_it(self) -> Any:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the awaiting loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_finish, over)

        self.add_done_callback(tell)
        await tick(over, self.cancel)
        return self.result()

    # --- running ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Hand it to the driver."""
        seat = self._seat
        seat.portal.call(seat.driver.open, self._record)

    def run_here(self) -> Any:
        """Serve it in the calling thread until it is over; returns its result, or raises.

        KeyboardInterrupt (and any error of a reducer) stops the remote work first, for at most INTERRUPT_WAIT
        seconds; a second interrupt returns at once.
        """
        __tracebackhide__ = True
        try:
            self.start()
            self._serve()
        except BaseException as error:
            self._abort(error)
            raise
        return self.result()

    def run_aside(self) -> Job:
        """Serve it in a thread of its own; returns at once."""
        if self._record.watched:
            self._make_it_seen()  # in the caller's thread, whose cell it belongs to
        self.start()
        self.thread = threading.Thread(target=self._serve_aside, name=f"distmap-job-{self.name}", daemon=True)
        self.thread.start()
        return self

    def _serve_aside(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self._abort(error)

    def _serve(self) -> None:
        box, record = self._box, self._record
        looked = time.monotonic()
        watching = record.watched
        while True:
            try:
                message = box.first(LOOK_EVERY if watching else None)
            except queue.Empty:
                message = None
            if watching and (now := time.monotonic()) - looked >= LOOK_EVERY:
                looked = now
                self._look(record.latest)
            if isinstance(message, Finished):
                break
            if message is not None:
                self._take(message)
        self._end(message)

    def _make_it_seen(self) -> View | None:
        self._view = self._make_view()
        if self._record.outlet is not None:
            self._record.outlet.through(self._view)
        return self._view

    def _show_printed(self, *, last: bool = False) -> None:
        """Write what tasks printed, in this thread."""
        if self._record.outlet is not None:
            self._record.outlet.show(last=last)

    def _look(self, snapshot: Snapshot | None, *, last: bool = False) -> None:
        """Show how far it is, in this thread; failed items as lines that stay."""
        view = self._view or self._make_it_seen()
        if view is None or snapshot is None:
            return
        failures = self._consumer.failures
        for index in list(failures)[self._noted : MOST_NOTES]:
            view.note(f"item {index} failed: {type(failures[index]).__name__}: {failures[index]}")
            self._noted += 1
        if last:
            view.close(snapshot)
        else:
            view.update(snapshot)

    def _take(self, message: JobMessage) -> None:
        """Handle the first message of the box, then take it off: an interrupt in between loses nothing."""
        seat, record, box = self._seat, self._record, self._box
        if isinstance(message, ReadRequest):
            answer_read(seat, record.id, self._source, message)
            box.drop()
            return
        if isinstance(message, Printed):
            self._show_printed()
            box.drop()
            return
        if isinstance(message, Landed):
            values, failures = results_of(message)
            self._consumer.take(message.start + message.lo, message.hi - message.lo, values, failures)
            count, nbytes = message.hi - message.lo, message.report.nbytes
        else:
            assert isinstance(message, Lost)
            error = exception_of(message)
            self._consumer.take(message.item, 1, [SKIP], {message.item: error})
            count, nbytes = 1, 0
        box.drop()
        seat.portal.call(seat.driver.consumed, record.id, count, nbytes)
        with self._news:
            self._news.notify_all()

    def _end(self, finished: Finished) -> None:
        self._show_printed(last=True)  # first: whoever waits for the result finds it written
        self._finished = finished
        error = end_of(finished, self._consumer.first_failure)
        if error is None and self._record.spec.stop_on_failure:
            # The scheduler took it for a result; that it does not unpickle shows only here.
            error = self._consumer.first_failure
        self._settle(error)
        if self._record.watched:
            self._look(finished.snapshot, last=True)
        self._let_go()

    def _settle(self, error: BaseException | None) -> None:
        # Callbacks first, as in multiprocessing: whoever waited for the result finds what they did.
        if error is None and self._callback is not None:
            quietly(self._callback, self._consumer.result())
        elif error is not None and self._error_callback is not None:
            quietly(self._error_callback, error)
        with self._news:
            self._error = error
            self._over.set()
            told, self._when_done = self._when_done, []
            self._news.notify_all()
        for function in told:
            quietly(function)

    def _let_go(self) -> None:
        """Over and told: `pool.last` keeps results and figures, not the pool, the input or what functions captured."""
        self._keep = self._source = self._view = self._callback = self._error_callback = None
        self._make_view = lambda: None
        self._consumer.let_go()

    def _abort(self, error: BaseException) -> None:
        """Something raised in this thread: stop the remote work, keep what landed, settle with the error."""
        seat, box, record = self._seat, self._box, self._record
        interrupted = isinstance(error, KeyboardInterrupt)
        snapshot = record.latest
        try:
            seat.portal.call(seat.driver.cancel, record.id)
            deadline = time.monotonic() + INTERRUPT_WAIT
            with contextlib.suppress(queue.Empty):
                while (left := deadline - time.monotonic()) > 0:
                    message = box.first(left)
                    if isinstance(message, Finished):
                        self._finished, snapshot = message, message.snapshot
                        break
                    if isinstance(message, Printed) or (isinstance(message, Landed | Lost) and interrupted):
                        self._take(message)
                    else:
                        box.drop()
            self._show_printed(last=True)
        finally:
            self._settle(JobCancelled(f"{self.name} was interrupted") if interrupted else error)
            if record.watched and snapshot is not None:
                self._look(snapshot._replace(state="cancelled" if interrupted else "failed"), last=True)
            self._let_go()


class Mailbox:
    """Messages from the loop to one reader, who takes each off after it was handled."""

    def __init__(self) -> None:
        self._messages: deque[JobMessage] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, message: JobMessage) -> None:
        """Add a message; from any thread."""
        self._messages.append(message)
        self._bell.put(None)

    def first(self, timeout: float | None = None) -> JobMessage:
        """The first message, which stays. Raises queue.Empty after `timeout` seconds without one."""
        while not self._messages:
            self._bell.get(timeout=timeout)
        return self._messages[0]

    def drop(self) -> None:
        """Take the first message off."""
        self._messages.popleft()


def quietly(function: Callable[..., object], *args: Any) -> None:
    """Call a user's callback; what it raises is logged and changes nothing else."""
    try:
        function(*args)
    except BaseException:
        log.exception("! a callback raised")


def answer_read(seat: Seat, job: int, source: Input | None, request: ReadRequest) -> None:
    """Read and pickle the next items of an input, and tell the driver. KeyboardInterrupt passes through."""
    driver = seat.driver
    assert source is not None
    try:
        items, last = source.read(request.most)
        payload, blobs = dump_items(items)
    except Exception as error:
        seat.portal.call(driver.input_failed, job, request.chunk, error)
        return
    seat.portal.call(driver.chunk_read, job, request.chunk, payload, blobs, len(items), last)


def refusal_of(failure: Failure, worker: str) -> BaseException:
    """The error of a job whose function could not be loaded on a worker."""
    error = revive(failure, index=0, worker=worker, attempt=1)
    error.__notes__ = [f"the function could not be loaded on worker {worker}; no item was run there"]
    return error


def end_of(finished: Finished, first_failure: BaseException | None) -> BaseException | None:
    """The error that a finished job raises; None if it was done."""
    if finished.refusal is not None:
        parts, worker = finished.refusal
        (failure,) = load_results(parts, 0, 1)
        return refusal_of(failure, worker)
    if finished.error is not None:
        return finished.error
    if finished.outcome == "cancelled":
        return JobCancelled(f"{finished.snapshot.name} was cancelled")
    if finished.outcome == "failed":
        if finished.crashed:
            return CrashLoopError(
                f"{finished.snapshot.name} was stopped: {finished.snapshot.deaths} task processes died and no item "
                "was finished; run the function by itself, or with Pool(1), to see why"
            )
        return first_failure or PayloadError(f"{finished.snapshot.name} failed")
    return None


def _finish(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


async def tick(waited: asyncio.Future[Any], stop: Callable[[], object]) -> Any:
    """Await a future in ticks, so that a notebook's interrupt gets through; a cancellation stops the job."""
    try:
        while not waited.done():
            await asyncio.wait([waited], timeout=AWAIT_EVERY)
    except asyncio.CancelledError:
        stop()
        raise
    return waited.result()
