"""The handle of one map: iterate, result, cancel, progress, failures.

Owns the consumer's side of a job: reading its input, unpickling and folding its results, and what the user may ask
of it. User code (iterables, reducers, callbacks, unpickling) runs here, in the calling thread or in the job's own
thread, never on the loop. Knows the driver and the views, and nothing below them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from types import TracebackType
from typing import Any, NamedTuple

from distmap.calls.checks import WAIT, checked
from distmap.calls.inputs import Input
from distmap.calls.interrupts import Interrupts
from distmap.calls.results import SKIP, Consumer, Given, exception_of, failure_of, results_of
from distmap.calls.traces import clean, gate
from distmap.core.events import Consumed, PauseRequested, ResumeRequested
from distmap.core.progress import JobState, ProgressOption, Snapshot
from distmap.driver.driver import Driver
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Finished, Incident, JobMessage, Landed, Lost, Printed, ReadRequest, empty_snapshot
from distmap.driver.portal import Portal
from distmap.errors import CrashLoopError, JobCancelled, PayloadError
from distmap.tasks.extras import warn_of_versions
from distmap.tasks.failures import HIDDEN, SET_UP, Failure, headline, revive, shorten, throw
from distmap.tasks.items import dump_items, load_results
from distmap.views.base import Issue, TextSink, write_text
from distmap.views.callbacks import call_showing_errors
from distmap.views.display import JobDisplay
from distmap.views.kernel import in_kernel

log = logging.getLogger("distmap")

#: How long an interrupted call waits for the remote work to stop before it gives the prompt back.
INTERRUPT_WAIT = 2.0
#: A thread that waits gives a user's `progress=` callable a snapshot so often.
LOOK_EVERY = 0.1
#: An awaiting cell wakes up so often, or the kernel's interrupt would not reach it (ipykernel#881).
AWAIT_EVERY = 0.2


class Seat(NamedTuple):
    """Where a job works: the pool's loop and driver."""

    portal: Portal
    driver: Driver


class JobControls:
    """What may be done to a job from any thread, the threads of buttons too; when the job is over nothing happens."""

    def __init__(self, seat: Seat, job: int) -> None:
        self._seat = seat
        self._job = job
        self.paused = False

    def pause(self) -> None:
        """Start no further items."""
        self.paused = True
        self._seat.portal.call(self._seat.driver.notify, PauseRequested(self._job))

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        self._seat.portal.call(self._seat.driver.notify, ResumeRequested(self._job))

    def cancel(self) -> None:
        """Stop what runs, drop what waits."""
        self._seat.portal.call(self._seat.driver.cancel, self._job)


class Job:
    """One map call: its results, its progress, and the means to stop it.

    What `map_async` and `starmap_async` return, and what `pool.last` and `pool.jobs` hold. It has the
    methods of `multiprocessing.pool.AsyncResult`; in a notebook cell it can be awaited, and iterated with `for` or
    `async for` in input order while it runs.

    Examples:
        >>> from distmap import Pool
        >>> with Pool(2) as pool:
        ...     job = pool.map_async(abs, [-1, 2, -3])
        ...     job.result()
        [1, 2, 3]
    """

    def __init__(
        self,
        seat: Seat,
        record: JobEntry,
        source: Input | None,
        consumer: Consumer,
        *,
        progress: ProgressOption = False,
        call: str = "map",
        function: str | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        keep: Any = None,
    ) -> None:
        self._seat = seat
        self._record = record
        self._source = source
        self._consumer = consumer
        self._progress = progress
        #: Name of the call that made it, such as "map".
        self.call = call
        self._callback = callback
        self._error_callback = error_callback
        self._keep = keep
        #: Called once, when the results have been given away.
        self.on_given: Callable[[Job], object] | None = None
        self._box = Mailbox()
        self._interrupts = Interrupts(self._box.ring)
        self._over = threading.Event()
        self._news = threading.Condition()
        self._error: BaseException | None = None
        #: Where it was raised, if that was in this process: raising it again and again must not add to that.
        self._frames: TracebackType | None = None
        #: What had come when the job was broken off and was not taken apart yet; `partial` does that.
        self._left: deque[Landed | Lost] = deque()
        #: Items that were taken apart.
        self._absorbed = 0
        self._lock = threading.Lock()
        #: The thread that serves it, if it is not the caller's.
        self.thread: threading.Thread | None = None
        self._when_done: list[Callable[[Job], object]] = []
        #: Of the cell that made it: what its callbacks raise is shown there, by way of the view that draws there.
        self._home = contextvars.copy_context()
        self._write = write_text
        record.sink = self._box.put
        # Here, not on the loop: a cancel may be on its way before the loop has heard of the job.
        record.id = seat.driver.new_id()
        self._controls = JobControls(seat, record.id)
        name = record.spec.name
        titled = function is not None and function != name
        self._display = JobDisplay(
            name, "" if titled else call, self._controls, lambda: record.latest, (function or name, call)
        )

    # --- asking -----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The title: `desc=` or the function's name."""
        return self._record.spec.name

    @property
    def id(self) -> int:
        """Its number in its pool, from 1."""
        return self._record.id

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
        return self._over.wait(checked("timeout", timeout, WAIT))

    @gate
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
        timeout = checked("timeout", timeout, WAIT)
        try:
            over = self._wait_or_stop(timeout)
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):  # a second one: no waiting
                self._over.wait(INTERRUPT_WAIT)
            raise KeyboardInterrupt from None
        if not over:
            from multiprocessing import TimeoutError as Late

            raise Late(f"{self!r} was not over within {timeout} s; it goes on")
        if self._error is not None:
            throw(self._error, self._frames)
        value = self._consumer.result()
        self._tell_given()
        return value

    get = result

    def _wait_or_stop(self, timeout: float | None) -> bool:
        """As `wait`, but whoever interrupts it wants the work to stop; `wait` is the way to look only."""
        if self._over.is_set():
            return True
        with Interrupts():
            try:
                return self._over.wait(timeout)
            except KeyboardInterrupt:
                self._interrupt()
                raise

    def hand_over(self) -> Any:
        """Its result, which then belongs to the caller alone: here only figures, failures and the card are kept."""
        self.on_given = None
        value = self.result()
        self._consumer = Given(self._consumer, self.name)
        return value

    def weakly(self) -> Callable[[], Job]:
        """This job for as long as somebody else holds it, then what is left of it without its results."""
        ref, rest = weakref.ref(self), copy.copy(self)
        rest._consumer = Given(self._consumer, self.name)
        rest._let_go()
        return lambda: ref() or rest

    def _tell_given(self) -> None:
        """The results were given away once; who wants them again holds the job."""
        told, self.on_given = self.on_given, None
        if told is not None:
            told(self)

    @property
    def partial(self) -> list[tuple[int, Any]]:
        """What has been finished so far: (index, value) pairs in input order. Kept after a cancel or an error.

        Raises:
            ValueError: all was finished and given to the caller of `map`, who alone keeps it.
        """
        self._catch_up()
        return self._consumer.partial()

    @property
    def failures(self) -> list[tuple[int, BaseException]]:
        """The items that failed for good: (index, exception) pairs in input order."""
        self._catch_up()
        return sorted(self._consumer.failures.copy().items())

    @property
    def progress(self) -> Snapshot | None:
        """How far it is, at this moment."""
        if self._display.final is not None:
            return self._display.final
        seat = self._seat
        now = seat.portal.ask(seat.driver.snapshots.find, self._record.id)
        return now or self._record.latest

    def glance(self) -> Snapshot | None:
        """As `progress`, for whoever must not wait: None if the pool does not answer at once."""
        try:
            return self._display.final or self._seat.portal.ask(
                self._seat.driver.snapshots.find, self._record.id, timeout=0.5
            )
        except TimeoutError:
            return None

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
        """ "running", "paused", "done", "failed", "cancelled" or "interrupted" (cancelled by the user's interrupt)."""
        if self._display.final is not None:
            return self._display.final.state
        return "paused" if self._controls.paused else "running"

    def __repr__(self) -> str:
        snapshot = self._display.latest
        if snapshot is None:
            return f"<Job {self.name}: {self.state}>"
        of = f" of {snapshot.total}" if snapshot.total is not None else ""
        failed = f", {snapshot.failed} failed" if snapshot.failed else ""
        return f"<Job {self.name}: {self.state}, {snapshot.done}{of} items{failed}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """Its card, as it is at this moment."""
        return {"text/plain": repr(self), "text/html": self._display.html(self.glance())}

    def _ipython_display_(self) -> None:
        """Its panel, live, in this cell too; its card once it is over."""
        if not in_kernel():
            raise NotImplementedError  # IPython then takes the repr
        if self._display.is_in_this_cell:
            return  # the call that made it is the last line of the cell
        self._seat.portal.call(self._seat.driver.snapshots.watch, self._record.id, True)
        self._display.show(True, apart=True)

    # --- steering ---------------------------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Stop it: what waits is dropped, what runs is interrupted. Returns False if it was over already.

        `result()` then raises `JobCancelled`; what had been finished stays in `partial`; the pool stays usable.
        """
        if self.ready():
            return False
        self._controls.cancel()
        return True

    def _interrupt(self, interrupted: bool = True) -> None:
        """Whoever waits for it was interrupted by the user, or cancelled otherwise."""
        if not self.ready():
            self._display.interrupted = interrupted
            self._controls.cancel()

    def pause(self) -> None:
        """Start no further items; those that run go on to their end."""
        self._controls.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._controls.resume()

    def add_done_callback(self, function: Callable[[Job], object]) -> None:
        """Call `function(job)` once the job is over, in the thread that finds out; at once if it is over already.

        What it raises is shown and changes nothing, as in `concurrent.futures`.
        """
        with self._news:
            if not self.ready():
                self._when_done.append(function)
                return
        self._call_back("add_done_callback", function, self)

    def _call_back(self, what: str, function: Callable[..., object], *args: Any) -> None:
        """Call a function that the user hooked on."""
        call_showing_errors(function, *args, what=f"{what} of {self.name}", context=self._home, write=self._write)

    # --- iterating and awaiting -------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Results in input order, each as soon as it and all before it are there."""
        __tracebackhide__ = HIDDEN
        index = 0
        try:
            while True:
                with self._news:
                    while (run := self._consumer.run_at(index)) is None and not self.ready():
                        try:
                            self._news.wait()
                        except KeyboardInterrupt:
                            self._interrupt()
                            raise KeyboardInterrupt from None
                if run is None:
                    if self._error is not None:
                        throw(self._error, self._frames)
                    self._tell_given()
                    return
                count, values = run
                failures = self._consumer.failures
                if failures and self._record.spec.stop_on_failure:
                    failed = next((at for at in range(index, index + count) if at in failures), None)
                    if failed is not None:
                        yield from values[: failed - index]
                        throw(failures[failed])
                yield from values
                index += count
        except (Exception, KeyboardInterrupt) as error:  # not the end of a generator
            raise clean(error)  # noqa: B904  (it is the one that was caught)

    async def __aiter__(self) -> AsyncIterator[Any]:
        __tracebackhide__ = HIDDEN
        loop = asyncio.get_running_loop()
        source = iter(self)
        end = object()
        while (value := await tick(loop.run_in_executor(None, next, source, end), self._interrupt)) is not end:
            yield value

    def __await__(self) -> Generator[Any, None, Any]:
        __tracebackhide__ = HIDDEN
        return self._wait_for_it().__await__()

    async def _wait_for_it(self) -> Any:
        __tracebackhide__ = HIDDEN
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def tell(_: Job) -> None:
            with contextlib.suppress(RuntimeError):  # the awaiting loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_finish, over)

        self.add_done_callback(tell)
        await tick(over, self._interrupt)
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
        with self._interrupts:  # a second one waits for nobody, and cuts nothing short
            try:
                self.start()
                self._show()
                self._serve()
            except BaseException as error:
                self._abort(error)
                raise
        return self.hand_over()

    def run_aside(self) -> Job:
        """Serve it in a thread of its own; returns at once."""
        self.start()
        self._show()
        self.thread = threading.Thread(target=self._serve_aside, name=f"distmap-job-{self.name}", daemon=True)
        self.thread.start()
        return self

    def _serve_aside(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self._abort(error)

    def _serve(self) -> None:
        box, display = self._box, self._display
        looked = time.monotonic()
        reports = display.has_callbacks
        while True:
            try:
                message = box.first(LOOK_EVERY if reports else None)
            except queue.Empty:
                message = None
            if reports and (now := time.monotonic()) - looked >= LOOK_EVERY:
                looked = now
                display.call_callbacks()
            if isinstance(message, Finished):
                break
            if message is not None:
                self._take(message)
            self._interrupts.raised = False  # the user's code may have caught one
        self._end(message)

    def _show(self) -> None:
        """Show it in the calling thread, whose cell it belongs to; what tasks print goes by way of that view."""
        view = self._display.show(self._progress)
        if isinstance(view, TextSink):
            self._write = view.write
        if self._record.router is not None:
            self._record.router.write_by(view)

    def _show_printed(self, *, last: bool = False) -> None:
        """Write what tasks printed, in this thread."""
        if self._record.router is not None:
            self._record.router.show(last=last)

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
        if isinstance(message, Incident):
            report_incident(self._display, message)
            box.drop()
            return
        assert isinstance(message, Landed | Lost)
        count, nbytes = self._absorb(message)
        box.drop()
        if record.spec.gather != "list":  # a list keeps all that lands: nothing is consumed, no window waits for it
            seat.portal.call(seat.driver.notify, Consumed(record.id, count, nbytes))
        with self._news:
            self._news.notify_all()

    def _absorb(self, message: Landed | Lost) -> tuple[int, int]:
        """Give the consumer what came; how many items and bytes that were."""
        if isinstance(message, Landed):
            values, failures = results_of(message)
            self._consumer.take(message.start + message.lo, message.hi - message.lo, values, failures)
            report_failures(self._display, message, failures)
            self._absorbed += message.hi - message.lo
            return message.hi - message.lo, message.report.nbytes
        error = exception_of(message)
        self._consumer.take(message.item, 1, [SKIP], {message.item: error})
        report_failures(self._display, message, {message.item: error})
        self._absorbed += 1
        return 1, 0

    def _catch_up(self) -> None:
        """Take apart what had come when the job was broken off."""
        with self._lock:
            while self._left:
                self._absorb(self._left[0])
                self._left.popleft()

    def _end(self, finished: Finished) -> None:
        self._show_printed(last=True)  # first: whoever waits for the result finds it written
        error = end_of(finished, self._consumer.first_failure)
        if error is None and self._record.spec.stop_on_failure:
            # The scheduler took it for a result; that it does not unpickle shows only here.
            error = self._consumer.first_failure
        self._settle(error, finished.snapshot)

    def _settle(self, error: BaseException | None, snapshot: Snapshot) -> None:
        if isinstance(error, JobCancelled) and self._display.interrupted:
            error = JobCancelled(f"{self.name} was interrupted")
        try:
            # Callbacks first, as in multiprocessing: whoever waited for the result finds what they did. The card too:
            # a notebook that is run without a browser takes no output of a cell that has ended.
            if error is None and self._callback is not None:
                self._call_back("callback=", self._callback, self._consumer.result())
            elif error is not None and self._error_callback is not None:
                self._call_back("error_callback=", self._error_callback, error)
            self._display.close(snapshot, state_of(error, self._display))
        finally:
            self._conclude(error)

    def _conclude(self, error: BaseException | None) -> None:
        with self._news:
            self._error = error
            self._frames = None if error is None else shorten(error).__traceback__
            self._over.set()
            told, self._when_done = self._when_done, []
            self._news.notify_all()
        try:
            for function in told:
                self._call_back("add_done_callback", function, self)
        finally:
            notices, self._record.notices = self._record.notices, {}
        self._let_go()
        warn_of_versions(notices)

    def _let_go(self) -> None:
        """Over and told: its handle keeps results and figures, not the pool, the input or what functions captured."""
        self._keep = self._source = self._callback = self._error_callback = None
        self._progress = False  # a callable of the user's
        self._write = write_text
        self._consumer.let_go()

    def _abort(self, error: BaseException) -> None:
        """Something raised in this thread: stop the remote work, keep what landed, settle with the error.

        What had landed is kept as it came: to unpickle or fold it is the user's code, which an interrupt is to end.
        """
        interrupted = isinstance(error, KeyboardInterrupt)
        snapshot: Snapshot | None = None
        self._display.interrupted = self._display.interrupted or interrupted
        try:
            self._controls.cancel()
            snapshot = self._last_words()
            self._show_printed(last=True)
        except KeyboardInterrupt:  # a third one
            pass
        finally:
            # Nobody waits for the loop's last word; what is known here is the least that there is.
            snapshot = snapshot or self._record.latest or empty_snapshot(self._record.spec, self._known())
            self._settle(JobCancelled(f"{self.name} was interrupted") if interrupted else error, snapshot)

    def _last_words(self) -> Snapshot | None:
        """Keep what lands until the job is over; None if that takes too long, or a second interrupt comes."""
        deadline = time.monotonic() + INTERRUPT_WAIT
        while not self._interrupts.came and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._box.wait(left)
            message = self._box.peek()
            if isinstance(message, Finished):
                return message.snapshot
            if isinstance(message, Printed):
                self._show_printed()
            elif isinstance(message, Landed | Lost) and self._consumer.keeps:
                self._left.append(message)
            if message is not None:
                self._box.drop()
        return None

    def _known(self) -> int:
        """How many items are there, whether they were taken apart yet or not."""
        waiting = (message.hi - message.lo if isinstance(message, Landed) else 1 for message in self._left)
        return self._absorbed + sum(waiting)


class Mailbox:
    """Messages from the loop to whoever reads them, who takes each off after it was handled.

    The bell rings once a message. To whoever is awake that costs nothing (ringing once a batch was not measurably
    quicker), and of several readers none sleeps while a message waits.
    """

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

    # For several readers, who take turns: each waits, then looks.

    def wait(self, timeout: float | None = None) -> None:
        """Wait until there may be a message. Raises queue.Empty after `timeout` seconds."""
        if not self._messages:
            self._bell.get(timeout=timeout)

    def peek(self) -> JobMessage | None:
        """The first message, which stays; None if there is none."""
        return self._messages[0] if self._messages else None

    def ring(self) -> None:
        """Wake one who waits: nothing more will come."""
        self._bell.put(None)


def answer_read(seat: Seat, job: int, source: Input | None, request: ReadRequest) -> None:
    """Read and pickle the next items of an input, and tell the driver. KeyboardInterrupt passes through."""
    driver = seat.driver
    assert source is not None
    try:
        (payload, blobs), count, last = source.read(request.most, dump_items)
    except Exception as error:
        seat.portal.call(driver.input_failed, job, request.chunk, error)
        return
    seat.portal.call(driver.chunk_read, job, request.chunk, payload, blobs, count, last)


def report_incident(display: JobDisplay, incident: Incident) -> None:
    """Show an incident. May unpickle what an item raised, so never on the loop."""
    if display.is_full:
        display.count_dropped()
        return
    text = incident.text
    if incident.report is not None:
        try:
            text = failure_of(incident.report, incident.at)
        except Exception as error:  # a neighbour's result does not unpickle
            log.info("! an item is run again, but not why: %r", error)
    display.add_issue(Issue(incident.kind, incident.item, incident.worker, incident.attempt, text))


def report_failures(display: JobDisplay, message: Landed | Lost, failures: dict[int, BaseException]) -> None:
    """Note the items that failed for good."""
    for index, error in failures.items():
        if display.is_full:
            display.count_dropped()
        elif isinstance(message, Landed):
            report = message.report
            attempt = report.attempts.get(index - message.start, 1)
            display.add_issue(Issue("failed", index, report.worker, attempt, headline(error)))
        else:
            display.add_issue(Issue("failed", index, "", len(message.deaths), headline(error)))


def state_of(error: BaseException | None, display: JobDisplay) -> JobState:
    """What a job that ended with this error is called."""
    if error is None:
        return "done"
    if isinstance(error, JobCancelled):
        return "interrupted" if display.interrupted else "cancelled"
    return "failed"


def refusal_of(failure: Failure, worker: str) -> BaseException:
    """The error of a job whose function could not be loaded on a worker, or could not be handed to it."""
    error = revive(failure, index=0, worker=worker, attempt=1)
    notes = getattr(error, "__notes__", [])[:-1]  # the last one names an item
    what = "the function could not be loaded on" if failure.sent else "the executor raised this:"
    if any(note.startswith(SET_UP) for note in notes):
        what = "on"
    error.__notes__ = [*notes, f"{what} worker {worker}; no item was run there"]
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
        return PayloadError(f"{finished.snapshot.name} failed") if first_failure is None else first_failure
    return None


def _finish(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def _cell_was_cancelled() -> bool:
    """Whether the task that is being cancelled is a notebook's cell, which the kernel does when it is interrupted."""
    task = asyncio.current_task()
    return task is not None and getattr(task.get_coro(), "__name__", "") == "run_cell_async" and in_kernel()


async def tick(waited: asyncio.Future[Any], stop: Callable[[bool], object]) -> Any:
    """Await a future in ticks, so that a notebook's interrupt gets through.

    A cancellation calls `stop(interrupted)`: whether it was the user who interrupted the cell.
    """
    __tracebackhide__ = HIDDEN
    try:
        while not waited.done():
            await asyncio.wait([waited], timeout=AWAIT_EVERY)
        if (error := waited.exception()) is not None:
            throw(error)
        return waited.result()
    except BaseException as raised:
        if isinstance(raised, asyncio.CancelledError) and not waited.done():
            stop(_cell_was_cancelled())
            waited.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else asks for it
        raise clean(raised)  # noqa: B904  (it is the one that was caught)
