"""Lazy maps: an iterator that reads its input only as far as it is consumed.

Owns `StreamJob` and its reader thread. Two queues keep reading and taking apart: a slow consumer never stops the
reading of what the window allows, and a blocking input never stops results. The queue of results is read by whoever
iterates, several threads in turn, and by nobody else: who wants the job to end without a consumer (`join`,
`shutdown`) lets the loop pay for what lands. Knows the driver and nothing below it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from distmap.calls.checks import WAIT, checked
from distmap.calls.inputs import Input
from distmap.calls.interrupts import Interrupts
from distmap.calls.job import (
    LOOK_EVERY,
    Job,
    Mailbox,
    Seat,
    answer_read,
    end_of,
    report_failures,
    report_incident,
    state_of,
    tick,
)
from distmap.calls.results import SKIP, Stream, exception_of, results_of
from distmap.calls.traces import clean
from distmap.core.events import Consumed
from distmap.core.progress import Snapshot
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Finished, Incident, JobMessage, Landed, Lost, Printed, ReadRequest
from distmap.errors import JobCancelled
from distmap.tasks.failures import HIDDEN, throw
from distmap.views.display import JobDisplay

#: No value is there yet.
NOTHING = object()
#: Items and bytes of nothing.
FREE = (0, 0)


class StreamJob(Job):
    """What `imap` and `imap_unordered` return: an iterator that reads its input only as far as it is consumed.

    `next(it)`, `it.next(timeout)`, `for` and `async for`. An item that failed raises at its place; the iteration may
    go on behind it. `close()` or leaving the iterator behind cancels the job.
    """

    def __init__(self, seat: Seat, record: JobEntry, source: Input, consumer: Stream, **options: Any) -> None:
        super().__init__(seat, record, source, consumer, **options)
        self._stream = consumer
        #: Whether its input may have no end: it does not tell its length.
        self.endless = source.size is None
        self._reads: queue.SimpleQueue[JobMessage] = queue.SimpleQueue()
        #: Held while a value is taken, never while one is waited for. An unpickled value may come back here.
        self._taking = threading.RLock()
        self._run = _Run()
        self._exhausted = False
        #: The last message, noted by the loop: a stream is over when its work is, not when it is consumed.
        self._ending: list[Finished] = []
        self._inlet = _Inlet(seat, record.id, self._box, self._reads, self._ending, self._over)
        record.sink = self._inlet.take
        #: The iterator may be dropped anywhere; the reader thread and the driver hold no reference to it.
        self._when_dropped = weakref.finalize(self, seat.portal.call, seat.driver.cancel, record.id)

    def run_aside(self) -> Job:
        source, self._source = self._source, None
        assert source is not None
        self.start()
        self._show()
        self.thread = threading.Thread(
            target=_read_aside,
            args=(self._seat, self._record, source, self._reads, self._display),
            name=f"distmap-read-{self.name}",
            daemon=True,
        )
        self.thread.start()
        return self

    @property
    def progress(self) -> Snapshot | None:
        """How far it is, at this moment."""
        return self._ending[0].snapshot if self._ending and self._display.final is None else super().progress

    @property
    def state(self) -> str:
        """As that of any job: over when its work is, not when it is consumed."""
        if not self._ending:
            return super().state
        return state_of(end_of(self._ending[0], self._consumer.first_failure), self._display)

    def result(self, timeout: float | None = None) -> Any:
        """Not for a stream: iterate over it."""
        raise TypeError("the results of an imap are taken by iterating over it: list(it), for, async for or next(it)")

    get = result

    def __await__(self) -> Any:
        raise TypeError("an imap is not awaited but iterated: async for value in it")

    def close(self) -> None:
        """Take no more of it: the job is cancelled, as when a generator is closed."""
        self.cancel()
        with self._taking:
            self._exhausted, self._run = True, _Run()
        self._box.ring()

    def _interrupt(self, interrupted: bool = True) -> None:
        super()._interrupt(interrupted)
        self._when_dropped.detach()  # it is dropped now: a second interrupt, right behind, would be lost in there

    def _let_go(self) -> None:
        super()._let_go()
        self._when_dropped.detach()

    def run_on(self) -> None:
        """From now on wait for nobody who iterates: it runs to its end, and what is found is kept. Returns at once."""
        self._seat.portal.call(self._inlet.run_on)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        __tracebackhide__ = HIDDEN
        value = self._run.take()  # the short way: nothing else is to be done for most of them
        return value if value is not NOTHING and type(value) is not _Failed else self._next(value)

    def next(self, timeout: float | None = None) -> Any:
        """The next result. Several threads may take from one iterator; each result goes to one of them.

        Raises:
            multiprocessing.TimeoutError: none came within `timeout` seconds.
            StopIteration: that was all.
        """
        __tracebackhide__ = HIDDEN
        if timeout is not None:
            timeout = checked("timeout", timeout, WAIT)
        return self._next(self._run.take(), timeout)

    def _next(self, found: Any, timeout: float | None = None) -> Any:
        """Give what was taken from the run; if that is NOTHING, what comes next."""
        __tracebackhide__ = HIDDEN
        deadline = None if timeout is None else time.monotonic() + timeout
        waited = False
        try:
            while True:
                if found is NOTHING:
                    with self._taking:
                        found = self._take_one()
                if type(found) is _Failed:
                    found = self._stream.place(found.error)
                if type(found) is Finished:
                    self._box.ring()
                    self._finish(found)
                elif found is SKIP:
                    found = NOTHING
                    continue
                elif found is not NOTHING:
                    return found
                if self._exhausted:
                    if waited:
                        self._box.ring()  # for the next one who waits
                    raise StopIteration
                self._wait(timeout, deadline)
                waited = True
        except StopIteration:
            raise
        except BaseException as error:
            raise clean(error)  # noqa: B904  (it is the one that was caught)

    def _wait(self, timeout: float | None, deadline: float | None) -> None:
        """Wait for a message, without the lock. It may be another thread that gets it."""
        with Interrupts():
            try:
                self._box.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                from multiprocessing import TimeoutError as Late

                raise Late(f"{self!r} had no result within {timeout} s") from None
            except KeyboardInterrupt:
                self._interrupt()
                raise KeyboardInterrupt from None

    def _take_one(self) -> Any:
        """The next value, the last message, or NOTHING if there is neither yet. Under the lock; does not wait."""
        while (found := self._run.take()) is NOTHING:
            run = self._run
            if run.cost != FREE:  # it is consumed
                cost, run.cost = run.cost, FREE
                self._seat.portal.call(self._inlet.pay, *cost)
            message = self._box.peek()
            if message is None or self._exhausted:
                break
            if message is run.message:  # it was taken, and then came an interrupt
                self._drop(run)
            elif isinstance(message, Finished):
                self._show_printed(last=True)
                self._exhausted = True
                self._box.drop()
                return message
            else:
                self._take_run(message)
        return found

    def _take_run(self, message: JobMessage) -> None:
        # Off the box only when it was unpickled: an interrupt in between loses nothing, and gives nothing twice.
        assert isinstance(message, Landed | Lost)
        if isinstance(message, Landed):
            values, failed = results_of(message)
            index, cost = message.start + message.lo, (message.hi - message.lo, message.report.nbytes)
            self._show_printed()  # what they printed came before them
        else:
            values, failed, index, cost = [SKIP], {message.item: exception_of(message)}, message.item, (1, 0)
        report_failures(self._display, message, failed)
        self._stream.fail(failed)
        given = values[::-1]
        for at, error in failed.items():
            given[index - 1 - at] = _Failed(error)
        self._run = run = _Run(message, given, cost)
        self._drop(run)

    def _drop(self, run: _Run) -> None:
        self._box.drop()
        run.message = None

    def _finish(self, message: Finished) -> None:
        """Tell that all was taken; raises what ended the job."""
        error = end_of(message, self._consumer.first_failure)
        if isinstance(error, JobCancelled) and self._display.interrupted:
            error = JobCancelled(f"{self.name} was interrupted")
        self._conclude(error)
        if error is not None:
            throw(error, self._frames)

    async def __aiter__(self) -> AsyncIterator[Any]:
        __tracebackhide__ = HIDDEN
        loop = asyncio.get_running_loop()
        end = object()
        while (value := await tick(loop.run_in_executor(None, next, self, end), self._interrupt)) is not end:
            yield value


class _Failed:
    """In the place of an item that failed."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Run:
    """Results that are being given away, the last one first: who has taken one is the only one who has it."""

    __slots__ = ("cost", "message", "values")

    def __init__(
        self, message: JobMessage | None = None, values: Sequence[Any] = (), cost: tuple[int, int] = FREE
    ) -> None:
        #: Where they come from, until it is off the box.
        self.message = message
        self.values = list(values)
        #: Items and bytes to be paid for when all are taken.
        self.cost = cost

    def take(self) -> Any:
        """The next value, by any thread; NOTHING if all are taken."""
        try:
            return self.values.pop()
        except IndexError:
            return NOTHING


class _Inlet:
    """The loop's end of a stream: gives each message to whoever it is for, and settles what is paid for.

    All on the loop, so nobody else has to read what waits for the consumer. Holds no reference to the stream.
    """

    def __init__(
        self,
        seat: Seat,
        job: int,
        results: Mailbox,
        reads: queue.SimpleQueue[JobMessage],
        ending: list[Finished],
        over: threading.Event,
    ) -> None:
        self._driver = seat.driver
        self._job = job
        self._results = results
        self._reads = reads
        self._ending = ending
        self._over = over
        self._owed = FREE
        self._runs_on = False

    def take(self, message: JobMessage) -> None:
        """The job's sink."""
        if isinstance(message, ReadRequest | Printed | Incident):
            self._reads.put(message)
            return
        if isinstance(message, Finished):
            self._ending.append(message)
            self._over.set()
            self._reads.put(message)
        elif isinstance(message, Landed):
            self._owe(message.hi - message.lo, message.report.nbytes)
        else:
            self._owe(1, 0)
        self._results.put(message)

    def _owe(self, count: int, nbytes: int) -> None:
        self._owed = (self._owed[0] + count, self._owed[1] + nbytes)
        if self._runs_on:
            self.pay(*self._owed)

    def pay(self, count: int, nbytes: int) -> None:
        """That much was consumed: the window moves on. What was paid for by `run_on` is not paid for twice."""
        count, nbytes = min(count, self._owed[0]), min(nbytes, self._owed[1])
        if count:
            self._owed = (self._owed[0] - count, self._owed[1] - nbytes)
            self._driver.notify(Consumed(self._job, count, nbytes))

    def run_on(self) -> None:
        """Pay for everything, now and as it comes."""
        self._runs_on = True
        self.pay(*self._owed)


def _read_aside(
    seat: Seat, record: JobEntry, source: Input, reads: queue.SimpleQueue[JobMessage], display: JobDisplay
) -> None:
    """The reader thread of a stream: serves reads, whoever looks and what is printed until the job is over."""
    router = record.router
    reports = display.has_callbacks
    while True:
        try:
            message = reads.get(timeout=LOOK_EVERY) if reports else reads.get()
        except queue.Empty:
            message = None
        try:
            if router is not None and isinstance(message, Printed | Finished):
                router.show(last=isinstance(message, Finished))
            if isinstance(message, Finished):
                display.close(message.snapshot, state_of(end_of(message, None), display))
                return
            if reports:
                display.call_callbacks()
            if isinstance(message, ReadRequest):
                answer_read(seat, record.id, source, message)
            elif isinstance(message, Incident):
                report_incident(display, message)
        except BaseException as error:  # of the input or the view: the iteration raises it
            reports = False
            if isinstance(message, Finished):
                return
            seat.portal.call(seat.driver.cancel, record.id, error)
