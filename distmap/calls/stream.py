"""Lazy maps: an iterator that reads its input only as far as it is consumed.

Owns `StreamJob`, and `StreamServing` with its reader thread. Two queues keep reading and decoding apart: reading goes
on up to the window, even if the consumer is slow, and an input that blocks never stops results. Only the iterating
threads read the mailbox of results, one at a time. `join` and `shutdown` have no consumer: the loop then counts results
as consumed when they arrive. Knows the driver and nothing below it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

from distmap.calls.awaiting import await_interruptible
from distmap.calls.checks import WAIT, checked
from distmap.calls.inputs import Input
from distmap.calls.interrupts import Interrupts
from distmap.calls.job import JobHandle
from distmap.calls.outcome import Completion, end_of, state_of, worded
from distmap.calls.reader import JobContext, Mailbox
from distmap.calls.results import SKIP, Recalled, Stream, decode
from distmap.calls.runs import FREE, NOTHING, BlockSize, Run
from distmap.calls.serving import Serving
from distmap.calls.shortfalls import left_out
from distmap.calls.traces import clean
from distmap.core.events import Consumed
from distmap.core.limits import LIMITS
from distmap.core.progress import ProgressOption, Snapshot
from distmap.driver.jobs import JobEntry, ignore
from distmap.driver.messages import Finished, JobMessage, Landed, Lost, ReadRequest
from distmap.tasks.failures import HIDDEN


class StreamServing(Serving):
    """Serves a stream, without a reference to its handle, which may be dropped anywhere.

    `route`, `_owe` and `_pay` run on the loop; the methods for messages in the reader thread; the results in `box` are
    decoded by whoever iterates.
    """

    def __init__(
        self, context: JobContext, record: JobEntry, source: Input, results: Stream, *, call: str, function: str
    ) -> None:
        super().__init__(context, record, source, results, call=call, function=function)
        #: Whether its input may have no end: it does not tell its length.
        self.endless = source.size is None
        self.box = Mailbox()
        self._reads: queue.SimpleQueue[JobMessage] = queue.SimpleQueue()
        #: The last message, set by the loop: a stream is over when its work is, not when it is consumed.
        self._last: Finished | None = None
        #: Items and bytes that were delivered and not yet reported as consumed.
        self._owed = FREE
        self._runs_on = False
        record.sink = self.route

    def run_aside(self, progress: ProgressOption) -> None:
        """Begin; returns at once."""
        self._open(progress)
        self._spawn("read", self._read_aside)

    def progress(self, timeout: float = 10.0) -> Snapshot | None:
        """How far it is; once its work is over, how far that went."""
        if self._last is not None and self.display.final is None:
            return self._last.snapshot
        return super().progress(timeout)

    @property
    def state(self) -> str:
        """As that of any job: over when its work is, not when it is consumed."""
        last = self._last
        return super().state if last is None else state_of(end_of(last, self.results.first_failure), self.display)

    # --- on the loop ------------------------------------------------------------------------------------------------

    def route(self, message: JobMessage | Recalled) -> None:
        """The job's sink: results for whoever iterates, everything else for the reader thread."""
        match message:
            case Landed():
                self._owe(message.hi - message.lo, message.report.nbytes)
                self.box.put(message)
            case Lost():
                self._owe(1, 0)
                self.box.put(message)
            case Recalled():
                self.box.put(message)
            case Finished():
                self._last = message
                self.record.sink = ignore  # it referred to this object
                self.over.set()
                self._reads.put(message)
                self.box.put(message)
            case _:
                self._reads.put(message)

    def _owe(self, count: int, nbytes: int) -> None:
        self._owed = (self._owed[0] + count, self._owed[1] + nbytes)
        if self._runs_on:
            self._pay(*self._owed)

    def _pay(self, count: int, nbytes: int) -> None:
        """So much was consumed: the window moves on. What was paid for by `run_on` is not paid for twice."""
        count, nbytes = min(count, self._owed[0]), min(nbytes, self._owed[1])
        if count:
            self._owed = (self._owed[0] - count, self._owed[1] - nbytes)
            self.context.driver.notify(Consumed(self.record.id, count, nbytes))

    def _run_on(self) -> None:
        self._runs_on = True
        self._pay(*self._owed)
        if self.checkpoint is not None:
            self.checkpoint.open_wide()

    # --- in any thread ----------------------------------------------------------------------------------------------

    def consumed(self, count: int, nbytes: int) -> None:
        """Report that so many items were taken from the iterator."""
        if (checkpoint := self.checkpoint) is not None:
            checkpoint.consumed(count, known=False)
        self.context.portal.call(self._pay, count, nbytes)

    def consumed_known(self, count: int) -> None:
        """The same of items whose results were in the checkpoint."""
        if (checkpoint := self.checkpoint) is not None:
            checkpoint.consumed(count, known=True)

    def forward(self, message: JobMessage | Recalled) -> None:
        self.context.portal.call(self.route, message)

    def ask_again(self, message: ReadRequest) -> None:
        self._reads.put(message)

    def finish(self) -> None:
        """End without a consumer: run to the end and keep the results, or cancel if there may be no end."""
        if self.endless:
            self.controls.cancel()
        else:
            self.context.portal.call(self._run_on)

    # --- in the reader thread ---------------------------------------------------------------------------------------

    def _read_aside(self) -> None:
        """Serve reads, whoever looks and what is printed until the job is over."""
        reports = self.display.has_callbacks
        message: JobMessage | None = None
        while not isinstance(message, Finished):
            try:
                message = self._reads.get(timeout=LIMITS.progress_every) if reports else self._reads.get()
            except queue.Empty:
                message = None
            try:
                if message is not None:
                    self.handle(message)
                if reports and not isinstance(message, Finished):
                    self.display.call_callbacks()
            except BaseException as error:  # of the input or the view: the iteration raises it
                reports = False
                if not isinstance(message, Finished):
                    self.context.portal.call(self.context.driver.cancel, self.record.id, error)
        self._source = self.checkpoint = None

    def finished(self, message: Finished) -> None:
        """Show the last of the output, and the card."""
        self.printed(last=True)
        self.display.close(message.snapshot, state_of(end_of(message, None), self.display))


class StreamJob(JobHandle):
    """What `imap` and `imap_unordered` return: an iterator that reads its input only as far as it is consumed.

    `next(it)`, `it.next(timeout)`, `for` and `async for`. An item that failed raises at its place; the iteration may
    go on behind it. `close()` or leaving the iterator behind cancels the job.
    """

    def __init__(self, serving: StreamServing, results: Stream, keep: object) -> None:
        super().__init__(serving, Completion(serving.over), results)
        self._stream = serving
        self._place = results.place
        self._fail = results.fail
        #: The pool, which must not end while somebody iterates.
        self._keep: object = keep
        #: Held while a value is taken, never while one is waited for. An unpickled value may come back here.
        self._taking = threading.RLock()
        self._run = Run()
        self._block = BlockSize()
        self._exhausted = False
        # The iterator may be dropped anywhere; the reader thread and the driver hold no reference to it.
        self._when_dropped = weakref.finalize(self, serving.controls.cancel)

    def result(self, timeout: float | None = None) -> Any:
        """Not for a stream: iterate over it."""
        raise TypeError("the results of an imap are taken by iterating over it: list(it), for, async for or next(it)")

    get = result

    def close(self) -> None:
        """Take no more of it: the job is cancelled, as when a generator is closed."""
        self.cancel()
        with self._taking:
            self._exhausted, self._run = True, Run()
        self._stream.box.ring()

    def _interrupt(self, interrupted: bool = True) -> None:
        self._stream.interrupt(interrupted)
        self._when_dropped.detach()  # it is dropped now: a second interrupt, right behind, would be lost in there

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
        box = self._stream.box
        try:
            while True:
                if found is NOTHING:
                    with self._taking:
                        found = self._take_one()
                if type(found) is _Failed:
                    found = self._place(found.error)
                if type(found) is Finished:
                    box.ring()
                    self._finish(found)
                elif found is SKIP:
                    found = NOTHING
                    continue
                elif found is not NOTHING:
                    return found
                if self._exhausted:
                    if waited:
                        box.ring()  # for the next one who waits
                    raise StopIteration
                self._wait(timeout, deadline)
                waited = True
        except StopIteration:
            raise
        except BaseException as error:
            raise clean(error)  # noqa: B904  (it is the one that was caught)

    def _wait(self, timeout: float | None, deadline: float | None) -> None:
        """Wait for a message, without the lock. It may be another thread that gets it."""
        if deadline is None:
            self._stream.check_wait()
        with Interrupts():
            try:
                self._stream.box.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                from multiprocessing import TimeoutError as Late

                raise Late(f"{self!r} had no result within {timeout} s") from None
            except KeyboardInterrupt:
                self._interrupt()
                raise KeyboardInterrupt from None

    def _take_one(self) -> Any:
        """The next value, the last message, or NOTHING if there is neither yet. Under the lock; does not wait."""
        box = self._stream.box
        while (found := self._run.take()) is NOTHING:
            run = self._run
            if run.cost != FREE:  # it is consumed
                cost, run.cost = run.cost, FREE
                if run.known:
                    self._stream.consumed_known(cost[0])
                else:
                    self._stream.consumed(*cost)
                self._block.taken(cost[0], time.monotonic(), more=run.left > 0)
            if run.left:
                self._give(run.rest(self._block.begin(time.monotonic())))
                continue
            message = box.peek()
            if message is None or self._exhausted:
                break
            if message is run.message:  # it was taken, and then came an interrupt
                self._drop(run)
            elif isinstance(message, Finished):
                self._stream.printed(last=True)
                self._exhausted = True
                box.drop()
                return message
            else:
                self._take_run(message)
        return found

    def _take_run(self, message: JobMessage | Recalled) -> None:
        # Off the box only when it was unpickled: an interrupt in between loses nothing, and gives nothing twice.
        assert isinstance(message, Landed | Lost | Recalled)
        index, count, values, failed, nbytes = decode(message)
        self._stream.printed()  # what they printed came before them
        self._stream.show_failures(message, failed)
        self._fail(failed)
        given = values[::-1]
        for at, error in failed.items():
            given[index - 1 - at] = _Failed(error)
        run = Run(message, given, (count, nbytes), known=isinstance(message, Recalled))
        self._give(run := run.rest(self._block.begin(time.monotonic())))
        self._drop(run)

    def _give(self, run: Run) -> None:
        self._run = run
        run.trim()  # only now: an interrupt in between loses nothing

    def _drop(self, run: Run) -> None:
        self._stream.box.drop()
        run.message = None

    def _finish(self, message: Finished) -> None:
        """All was taken; raises what ended the job."""
        serving = self._stream
        error = worded(end_of(message, self._results.first_failure), serving.display)
        self._completion.conclude(error)
        serving.sentences += left_out(serving.display.title, message)
        serving.tell_notices()
        self._keep = None
        self._when_dropped.detach()
        self._completion.raise_error()

    async def __aiter__(self) -> AsyncIterator[Any]:
        __tracebackhide__ = HIDDEN
        loop, interrupt, end = asyncio.get_running_loop(), self._interrupt, object()
        while (value := await await_interruptible(loop.run_in_executor(None, next, self, end), interrupt)) is not end:
            yield value


def run_to_end(stream: StreamJob) -> None:
    """Let a stream run to its end without a consumer, and wait for that; not if its input may have no end."""
    serving = stream._stream
    if not serving.endless:
        serving.finish()
        stream.wait()


class _Failed:
    """In the place of an item that failed."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error
