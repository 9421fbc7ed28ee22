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
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from distmap.consume import SKIP, Stream, exception_of, results_of
from distmap.core.progress import Snapshot
from distmap.driver import Finished, JobMessage, Landed, Lost, ReadRequest, Record
from distmap.inputs import Input
from distmap.job import LOOK_EVERY, Job, Seat, answer_read, tick
from distmap.views.base import View


class StreamJob(Job):
    """What `imap` and `imap_unordered` return: an iterator that reads its input only as far as it is consumed.

    `next(it)`, `it.next(timeout)`, `for` and `async for`. An item that failed raises at its place; the iteration may
    go on behind it. Leaving the iterator behind cancels the job.
    """

    def __init__(self, seat: Seat, record: Record, source: Input, consumer: Stream, **options: Any) -> None:
        super().__init__(seat, record, source, consumer, **options)
        self._stream = consumer
        self._reads: queue.SimpleQueue[JobMessage] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[JobMessage] = queue.SimpleQueue()
        self._values: Iterator[tuple[int, Any]] = iter(())
        self._failed: dict[int, BaseException] = {}
        self._unpaid: tuple[int, int] = (0, 0)
        record.sink = _router(self._results, self._reads)
        # The iterator may be dropped anywhere; the reader thread and the driver hold no reference to it.
        weakref.finalize(self, _cancel_quietly, seat, record)

    def run_aside(self) -> Job:
        view = self._make_view() if self._record.watched else None
        self.start()
        threading.Thread(
            target=_read_aside,
            args=(self._seat, self._record, self._source, self._reads, view),
            name=f"distmap-read-{self.name}",
            daemon=True,
        ).start()
        return self

    def _look(self, snapshot: Snapshot | None, *, last: bool = False) -> None:
        """Nothing: the reader thread looks after the view."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result.

        Raises:
            multiprocessing.TimeoutError: none came within `timeout` seconds.
            StopIteration: that was all.
        """
        while True:
            for index, value in self._values:
                if value is SKIP:
                    value = self._stream.place(self._failed[index])
                    if value is SKIP:
                        continue
                return value
            self._fetch(timeout)

    def _fetch(self, timeout: float | None) -> None:
        """Wait for the next run of results; pay for the last one, which is consumed now."""
        seat, record = self._seat, self._record
        count, nbytes = self._unpaid
        if count:
            self._unpaid = (0, 0)
            seat.portal.call(seat.driver.consumed, record.id, count, nbytes)
        if self.ready():
            if self._error is not None:
                error, self._error = self._error, None  # once; then the iterator is exhausted
                raise error
            raise StopIteration
        try:
            message = self._results.get(timeout=timeout)
        except queue.Empty:
            from multiprocessing import TimeoutError as Late

            raise Late(f"{self!r} had no result within {timeout} s") from None
        except KeyboardInterrupt:
            self.cancel()
            raise
        if isinstance(message, Finished):
            self._values = iter(())
            self._end(message)
        elif isinstance(message, Landed):
            values, self._failed = results_of(message)
            self._stream.fail(self._failed)
            self._unpaid = (message.hi - message.lo, message.report.nbytes)
            self._values = zip(itertools.count(message.start + message.lo), values, strict=False)
        elif isinstance(message, Lost):
            self._failed = {message.item: exception_of(message)}
            self._stream.fail(self._failed)
            self._unpaid = (1, 0)
            self._values = iter([(message.item, SKIP)])

    async def __aiter__(self) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        end = object()
        while (value := await tick(loop.run_in_executor(None, next, self, end), self.cancel)) is not end:
            yield value


def _router(
    results: queue.SimpleQueue[JobMessage], reads: queue.SimpleQueue[JobMessage]
) -> Callable[[JobMessage], None]:
    def sink(message: JobMessage) -> None:
        if isinstance(message, ReadRequest):
            reads.put(message)
            return
        results.put(message)
        if isinstance(message, Finished):
            reads.put(message)

    return sink


def _read_aside(
    seat: Seat, record: Record, source: Input, reads: queue.SimpleQueue[JobMessage], view: View | None
) -> None:
    """The reader thread of a stream: serves reads and the view until the job is over."""
    while True:
        try:
            message = reads.get(timeout=LOOK_EVERY) if view is not None else reads.get()
        except queue.Empty:
            message = None
        if view is not None and record.latest is not None and not isinstance(message, Finished):
            view.update(record.latest)
        if isinstance(message, ReadRequest):
            answer_read(seat, record.id, source, message)
        elif isinstance(message, Finished):
            if view is not None:
                view.close(message.snapshot)
            return


def _cancel_quietly(seat: Seat, record: Record) -> None:
    with contextlib.suppress(Exception):  # at interpreter exit the loop may be gone, and with it the job
        seat.portal.call(seat.driver.cancel, record.id)
