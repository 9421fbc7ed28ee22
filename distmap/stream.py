"""Lazy maps: an iterator that reads its input only as far as it is consumed.

Owns `StreamJob` and its reader thread. Two queues keep reading and taking apart: a slow consumer never stops the
reading of what the window allows, and a blocking input never stops results. Knows the driver and nothing below it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from distmap.consume import SKIP, Stream, exception_of, results_of
from distmap.core.progress import Snapshot
from distmap.driver import Finished, JobMessage, Landed, Lost, Printed, ReadRequest, Record, Setback
from distmap.errors import JobCancelled
from distmap.failures import HIDDEN, throw
from distmap.inputs import Input
from distmap.job import LOOK_EVERY, Job, Mailbox, Seat, answer_read, end_of, state_of, tell, tell_failures, tick
from distmap.traces import clean
from distmap.views.story import Story


class StreamJob(Job):
    """What `imap` and `imap_unordered` return: an iterator that reads its input only as far as it is consumed.

    `next(it)`, `it.next(timeout)`, `for` and `async for`. An item that failed raises at its place; the iteration may
    go on behind it. `close()` or leaving the iterator behind cancels the job.
    """

    def __init__(self, seat: Seat, record: Record, source: Input, consumer: Stream, **options: Any) -> None:
        super().__init__(seat, record, source, consumer, **options)
        self._stream = consumer
        #: Whether its input may have no end: it does not tell its length.
        self.endless = source.size is None
        self._reads: queue.SimpleQueue[JobMessage] = queue.SimpleQueue()
        #: The run that is being given away: its values by index, and what it costs.
        self._values: Iterator[tuple[int, Any]] = iter(())
        self._failed: dict[int, BaseException] = {}
        self._unpaid: tuple[int, int] = (0, 0)
        self._exhausted = False
        #: The last message, noted by the loop: a stream is over when its work is, not when it is consumed.
        self._ending: list[Finished] = []
        record.sink = _router(self._box, self._reads, self._ending, self._over)
        # The iterator may be dropped anywhere; the reader thread and the driver hold no reference to it.
        weakref.finalize(self, _cancel_quietly, seat, record)

    def run_aside(self) -> Job:
        source, self._source = self._source, None
        assert source is not None
        self.start()
        self._show()
        self.thread = threading.Thread(
            target=_read_aside,
            args=(self._seat, self._record, source, self._reads, self._story),
            name=f"distmap-read-{self.name}",
            daemon=True,
        )
        self.thread.start()
        return self

    @property
    def progress(self) -> Snapshot | None:
        """How far it is, at this moment."""
        return self._ending[0].snapshot if self._ending and self._story.last is None else super().progress

    @property
    def state(self) -> str:
        """As that of any job: over when its work is, not when it is consumed."""
        if not self._ending:
            return super().state
        return state_of(end_of(self._ending[0], self._consumer.first_failure), self._story)

    def result(self, timeout: float | None = None) -> Any:
        """Not for a stream: iterate over it."""
        raise TypeError("the results of an imap are taken by iterating over it: list(it), for, async for or next(it)")

    get = result

    def __await__(self) -> Any:
        raise TypeError("an imap is not awaited but iterated: async for value in it")

    def close(self) -> None:
        """Take no more of it: the job is cancelled, as when a generator is closed."""
        self.cancel()
        self._exhausted = True
        self._values = iter(())

    def drain(self) -> None:
        """Pay for everything that is still to come, so that the job can end; it waits here to be iterated over."""
        seat, record, box = self._seat, self._record, self._box
        paid: deque[JobMessage] = deque()
        while not paid or not isinstance(paid[-1], Finished):
            message = box.first()
            if isinstance(message, Landed):
                results_of(message)
                seat.portal.call(seat.driver.consumed, record.id, message.hi - message.lo, message.report.nbytes)
            paid.append(message)
            box.drop()
        for message in paid:
            box.put(message)
        self._paid = True

    #: Nothing more is to be paid for: the job is over.
    _paid = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        __tracebackhide__ = HIDDEN
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises:
            multiprocessing.TimeoutError: none came within `timeout` seconds.
            StopIteration: that was all.
        """
        __tracebackhide__ = HIDDEN
        try:
            while True:
                for index, value in self._values:
                    if value is SKIP:
                        value = self._stream.place(self._failed[index])
                        if value is SKIP:
                            continue
                    return value
                self._fetch(timeout)
        except StopIteration:
            raise
        except BaseException as error:
            raise clean(error)  # noqa: B904  (it is the one that was caught)

    def _fetch(self, timeout: float | None) -> None:
        """Wait for the next run of results; pay for the last one, which is consumed now."""
        seat, record, box = self._seat, self._record, self._box
        count, nbytes = self._unpaid
        if count and not self._paid:
            self._unpaid = (0, 0)
            seat.portal.call(seat.driver.consumed, record.id, count, nbytes)
        if self._exhausted:
            raise StopIteration
        try:
            message = box.first(timeout)
        except queue.Empty:
            from multiprocessing import TimeoutError as Late

            raise Late(f"{self!r} had no result within {timeout} s") from None
        except KeyboardInterrupt:
            self._interrupt()
            raise KeyboardInterrupt from None
        # Off the box only when it was unpickled: an interrupt in between loses nothing.
        if isinstance(message, Finished):
            self._show_printed(last=True)
            self._exhausted = True
            box.drop()
            error = end_of(message, self._consumer.first_failure)
            if isinstance(error, JobCancelled) and self._story.interrupted:
                error = JobCancelled(f"{self.name} was interrupted")
            self._conclude(error)
            if error is not None:
                throw(error, self._frames)
        elif isinstance(message, Landed):
            values, failed = results_of(message)
            self._show_printed()  # what they printed came before them
            tell_failures(self._story, message, failed)
            self._take_run(message.start + message.lo, values, failed, (message.hi - message.lo, message.report.nbytes))
        elif isinstance(message, Lost):
            error = exception_of(message)
            tell_failures(self._story, message, {message.item: error})
            self._take_run(message.item, [SKIP], {message.item: error}, (1, 0))

    def _take_run(self, index: int, values: list[Any], failed: dict[int, BaseException], cost: tuple[int, int]) -> None:
        self._stream.fail(failed)
        self._failed, self._unpaid = failed, cost
        self._values = zip(itertools.count(index), values, strict=False)
        self._box.drop()

    async def __aiter__(self) -> AsyncIterator[Any]:
        __tracebackhide__ = HIDDEN
        loop = asyncio.get_running_loop()
        end = object()
        while (value := await tick(loop.run_in_executor(None, next, self, end), self._interrupt)) is not end:
            yield value


def _router(
    results: Mailbox, reads: queue.SimpleQueue[JobMessage], ending: list[Finished], over: threading.Event
) -> Callable[[JobMessage], None]:
    def sink(message: JobMessage) -> None:
        if isinstance(message, ReadRequest | Printed | Setback):
            reads.put(message)
            return
        if isinstance(message, Finished):
            ending.append(message)
            over.set()
            reads.put(message)
        results.put(message)

    return sink


def _read_aside(seat: Seat, record: Record, source: Input, reads: queue.SimpleQueue[JobMessage], story: Story) -> None:
    """The reader thread of a stream: serves reads, whoever looks and what is printed until the job is over."""
    outlet = record.outlet
    reports = story.has_reader
    while True:
        try:
            message = reads.get(timeout=LOOK_EVERY) if reports else reads.get()
        except queue.Empty:
            message = None
        try:
            if outlet is not None and isinstance(message, Printed | Finished):
                outlet.show(last=isinstance(message, Finished))
            if isinstance(message, Finished):
                story.end(message.snapshot, state_of(end_of(message, None), story))
                return
            if reports:
                story.report()
            if isinstance(message, ReadRequest):
                answer_read(seat, record.id, source, message)
            elif isinstance(message, Setback):
                tell(story, message)
        except BaseException as error:  # of the input or the view: the iteration raises it
            reports = False
            if isinstance(message, Finished):
                return
            seat.portal.call(seat.driver.cancel, record.id, error)


def _cancel_quietly(seat: Seat, record: Record) -> None:
    with contextlib.suppress(Exception):  # at interpreter exit the loop may be gone, and with it the job
        seat.portal.call(seat.driver.cancel, record.id)
