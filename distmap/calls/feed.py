"""A call whose items are handed in while it runs, some at a time, with a card of its own.

Owns `Feed`, for libraries that have their own face of a map, such as joblib: they decide when the next items come, and
distmap how items become chunks. What is handed in together has one future, and costs little more than its items do.
Must not know those libraries.

Threads: batches are handed in by any thread, under the owner's lock, and cut into chunks on the loop; the thread of
callbacks unpickles results and resolves futures.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from distmap.calls.controls import JobControls
from distmap.calls.outcome import end_of, state_of
from distmap.calls.reader import JobContext
from distmap.calls.results import exception_of, results_of
from distmap.calls.submissions import PushedJob, Submissions
from distmap.core.limits import LIMITS
from distmap.core.progress import ProgressOption, Snapshot
from distmap.driver.messages import Finished, Landed, Lost, ReadRequest
from distmap.errors import PoolClosed
from distmap.tasks._typing import NamedTuple
from distmap.tasks.code import Code
from distmap.tasks.failures import headline
from distmap.tasks.items import dump_alone, dump_items, join_items
from distmap.tasks.payload import Blob, Payload
from distmap.tasks.plain import are_plain, dump_plain
from distmap.views.base import Issue
from distmap.views.display import JobDisplay

#: Called with the place of an item in its batch, its number in the call, and its error.
Failed = Callable[[int, int, BaseException], object]


class Batch:
    """Items that were handed in together. Its future has the list of their results, or the first error of one."""

    __slots__ = ("_failed", "_left", "_results", "context", "future", "items", "nbytes", "sent", "whole")

    def __init__(self, items: list[Any], failed: Failed | None) -> None:
        #: One pickle of all items, if they are plain and nothing can change them any more; else each is a `DumpedItem`.
        self.whole = dump_plain(items) if items and are_plain(items[:1]) else None
        if self.whole is None:
            items = list(map(dump_alone, items))
        self.nbytes = sum(item.nbytes for item in items) if self.whole is None else len(self.whole)
        self.future: Future[list[Any]] = Future()
        self.future.set_running_or_notify_cancel()  # its owner cancels the whole call, or nothing
        #: Of the cell that handed it in: what it prints belongs there.
        self.context = contextvars.copy_context()
        #: Those that are in no chunk yet follow the first `sent` ones. The loop's.
        self.items: list[Any] = items
        self.sent = 0
        self._failed = failed
        self._results: list[Any] = [None] * len(items)
        self._left = len(items)
        if not items:
            self.future.set_result([])

    # --- in the thread of callbacks ----------------------------------------------------------------------------------

    def succeed(self, at: int, values: Sequence[Any]) -> None:
        """These are the results from place `at` on, or stand for those that failed."""
        self._left -= len(values)
        if self.future.done():
            return
        self._results[at : at + len(values)] = values
        if self._left == 0:
            results, self._results = self._results, []
            self.context.run(self.future.set_result, results)

    def fail(self, at: int, number: int, error: BaseException) -> None:
        """The item at this place failed."""
        if self.future.done():
            return
        try:
            if self._failed is not None:
                self._failed(at, number, error)
        finally:
            self.end(error)

    def end(self, error: BaseException) -> None:
        """Nothing more will come."""
        if not self.future.done():
            self._results = []
            self.context.run(self.future.set_exception, error)


class _Part(NamedTuple):
    """Items of a chunk, from `lo` on, that are those of a batch from `at` on."""

    lo: int
    count: int  # type: ignore[assignment]
    batch: Batch
    at: int

    def within(self, lo: int, hi: int) -> _Part | None:
        """What of it is in this range of the chunk."""
        first, last = max(lo, self.lo), min(hi, self.lo + self.count)
        return _Part(first, last - first, self.batch, self.at + first - self.lo) if first < last else None


class _Sent:
    """A chunk: whose items it has, and how many of them are not settled."""

    __slots__ = ("left", "parts")

    def __init__(self, parts: list[_Part], left: int) -> None:
        self.parts, self.left = parts, left

    def parts_of(self, lo: int, hi: int) -> Iterator[_Part]:
        return (found for part in self.parts if (found := part.within(lo, hi)) is not None)


class Feed(PushedJob):
    """One call: batches of items in, a future for each, until `end` or `cancel`. Make it in the thread of the cell.

    Args:
        code: what is called with each item.
        title: of its card; `kind` is the name of the call that made it.
        total: number of items, None if it is not known yet.
        at_once: how many items run at the same time at most; None: as many as there are slots.
    """

    single = False

    def __init__(
        self,
        pool: Any,
        code: Code,
        *,
        title: str,
        kind: str,
        progress: ProgressOption,
        total: int | None,
        at_once: int | None,
    ) -> None:
        owner: Submissions = pool._submissions
        context: JobContext = pool._context
        super().__init__(owner, context, code, title, shown=True)
        # A name of its own: submits of the same function are another job.
        self.digest = b"feed %d" % self._entry.id
        owner.add(self)
        #: The pool, which must not end meanwhile.
        self._keep: object = pool
        self._total = total
        self._at_once = at_once
        #: Batches of which a part is in no chunk yet.
        self._waiting: deque[Batch] = deque()
        self._sent: dict[int, _Sent] = {}
        #: Set once the card is complete.
        self._shown = threading.Event()
        #: When the user's functions are called next, in `time.monotonic`.
        self._next_look = 0.0
        self.controls = JobControls(context, self._entry.id)
        self.display = JobDisplay(title, kind, self.controls, self._latest)
        if self.display.show(progress) is not None:
            context.portal.call(context.driver.snapshots.watch, self._entry.id, True)

    def submit(self, items: list[Any], failed: Failed | None = None) -> Future[list[Any]]:
        """Hand in items. They are numbered in the order in which they come.

        Args:
            failed: called before the future has the error of an item, in the thread of callbacks.

        Raises:
            PoolClosed: the call is over.
        """
        batch = Batch(items, failed)
        with self._owner.lock:
            if self.closed:
                raise PoolClosed("Pool not running: it was closed, or the call was cancelled")
            if batch.items:
                self._waiting.append(batch)
                self._queued(len(batch.items), batch.nbytes)
        self.announce()
        return batch.future

    def cancel(self) -> None:
        """Interrupt what runs, drop what waits."""
        self.controls.cancel()

    def end(self) -> None:
        """No more items: the call ends, and its card with it, when what was handed in is done.

        Waits a moment for that, so that the card is complete when the cell is over.
        """
        self._context.portal.call(self.finish)
        if not self._owner.calls_back_here():
            self._shown.wait(LIMITS.close_grace)

    # --- on the loop -------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Go on: only its owner knows whether more items come."""

    def finish(self) -> None:
        """Take no more; the job ends when what is there is done."""
        self._at_once = None  # the scheduler must know of all items before their end
        super().finish()

    def _ready(self) -> tuple[int, int]:
        given, nbytes = super()._ready()
        if self._at_once is None or given <= (most := self._done + self._at_once):
            return given, nbytes
        return most, max(self._told_bytes, nbytes * most // given)

    def read(self, message: ReadRequest) -> None:
        """Make the chunk of what was handed in first, and tell the driver before this returns."""
        parts: list[_Part] = []
        items: list[Any] = []
        while len(items) < message.most:
            batch = self._waiting[0]
            few = batch.items[batch.sent : batch.sent + message.most - len(items)]
            parts.append(_Part(len(items), len(few), batch, batch.sent))
            items += few
            batch.sent += len(few)
            if batch.sent == len(batch.items):
                self._waiting.popleft()
                batch.items = []
        self._sent[message.chunk] = _Sent(parts, len(items))
        payload, blobs = _join(parts, items)
        self._context.driver.chunk_taken(self._entry.id, message.chunk, payload, blobs, len(items))

    def landed(self, message: Landed) -> None:
        """Let the results be taken; they stay pickled here."""
        self._owner.aside(self._take, message, self._settled(message.chunk, message.lo, message.hi))

    def lost(self, message: Lost) -> None:
        """An item failed without a report."""
        for part in self._settled(message.chunk, message.at, message.at + 1):
            self._owner.aside(self._take_lost, message, part)

    def _settled(self, chunk: int, lo: int, hi: int) -> list[_Part]:
        """These items of the chunk are done: whose they are."""
        sent = self._sent[chunk]
        sent.left -= hi - lo
        if not sent.left:
            del self._sent[chunk]
        self._done += hi - lo
        if self._at_once is not None:
            self._announce()
        return list(sent.parts_of(lo, hi))

    def _context_of(self, chunk: int, at: int) -> contextvars.Context | None:
        sent = self._sent.get(chunk)
        return None if sent is None else next((part.batch.context for part in sent.parts_of(at, at + 1)), None)

    def finished(self, message: Finished) -> None:
        """Resolve what is left, and close the card."""
        super().finished(message)
        left = [part.batch for sent in self._sent.values() for part in sent.parts] + list(self._waiting)
        self._sent.clear()
        self._waiting.clear()
        self._owner.aside(self._close, message, left)

    # --- in the thread of callbacks ----------------------------------------------------------------------------------

    def _take(self, message: Landed, parts: list[_Part]) -> None:
        values, errors = results_of(message)
        for index, error in errors.items():
            offset = index - message.start
            for part in (found for part in parts if (found := part.within(offset, offset + 1))):
                self._fail(part, index, error)
        for part in parts:
            part.batch.succeed(part.at, values[part.lo - message.lo : part.lo - message.lo + part.count])
        self._call_back()

    def _take_lost(self, message: Lost, part: _Part) -> None:
        self._fail(part, message.item, exception_of(message))
        self._call_back()

    def _fail(self, part: _Part, number: int, error: BaseException) -> None:
        self.display.add_issue(Issue("failed", number, "", 0, headline(error)))
        part.batch.fail(part.at, number, error)

    def _call_back(self) -> None:
        """Call the user's functions now and then."""
        if self.display.has_callbacks and (now := time.monotonic()) >= self._next_look:
            self._next_look = now + LIMITS.progress_every
            self.display.call_callbacks()

    def _close(self, message: Finished, left: list[Batch]) -> None:
        for batch in left:
            ended = end_of(message, None)
            batch.end(PoolClosed("the pool was closed before the item ran") if ended is None else ended)
        self.display.close(self._with_total(message.snapshot), state_of(end_of(message, None), self.display))
        self._keep = None
        self._shown.set()

    def _latest(self) -> Snapshot | None:
        latest = self._entry.latest
        return None if latest is None else self._with_total(latest)

    def _with_total(self, snapshot: Snapshot) -> Snapshot:
        total = self._total
        return snapshot if total is None or snapshot.total is not None else snapshot._replace(total=total)


def _join(parts: list[_Part], items: list[Any]) -> tuple[Payload, tuple[Blob, ...]]:
    """The chunk of these items. No code of the user runs."""
    first = parts[0].batch.whole
    if first is not None and len(parts) == 1 and parts[0].at == 0 and not parts[0].batch.items:
        return Payload(first), ()
    if all(part.batch.whole is not None for part in parts):
        return dump_items(items)
    for part in parts:
        if part.batch.whole is not None:
            items[part.lo : part.lo + part.count] = map(dump_alone, items[part.lo : part.lo + part.count])
    return join_items(items)


def open_feed(
    pool: Any,
    fn: Callable[..., Any],
    *,
    title: str,
    kind: str,
    total: int | None,
    at_once: int | None = None,
    progress: ProgressOption = None,
) -> Feed:
    """A feed of a `Pool`, whose `progress=` counts if none is given here.

    Raises:
        PoolClosed: the pool is closed.
    """
    from distmap.views.choose import resolve_progress

    code, shown = pool._code(fn, "one"), resolve_progress(progress, pool._progress)
    return Feed(pool, code, title=title, kind=kind, progress=shown, total=total, at_once=at_once)
