"""`submit`: items coalesced into chunks while they wait.

Owns the pushed jobs behind the futures, one for each function in use, and the thread of their callbacks. Function and
items are pickled by the caller and their arrays copied, so a later change of them does not matter.
"""

from __future__ import annotations

import _pickle
import asyncio
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from distmap.calls.futures import RawResult, SharedReport, Submission, TaskFuture, resolve
from distmap.calls.notices import warn_of
from distmap.calls.reader import JobContext, JobReader
from distmap.calls.results import Recalled
from distmap.calls.shortfalls import left_out
from distmap.core.events import InputClosed, ItemsAdded, JobSpec
from distmap.core.limits import LIMITS
from distmap.driver.jobs import JobEntry
from distmap.driver.messages import Finished, JobMessage, Landed, Lost, ReadRequest
from distmap.driver.output import OutputRouter
from distmap.errors import PoolClosed
from distmap.tasks.code import Code
from distmap.tasks.failures import Failure
from distmap.tasks.items import DumpedItem, dump_item, join_items
from distmap.views.callbacks import call_showing_errors

#: Stands for an item that was cancelled before it was sent: a Failure is not run, only reported back.
_NOTHING = DumpedItem(_pickle.dumps(Failure("CancelledError", "", "", None, "")))


class Submissions:
    """All pushed jobs of a pool. Its methods are called in any thread."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        # It may be taken twice: a pool that ends just now refuses a new job from within.
        self.lock = threading.RLock()
        self._pushes: dict[bytes, PushedJob] = {}
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
        submission = Submission(dump_item((args, kwargs)), before, keep)
        future = submission.future
        assert future is not None
        with self.lock:
            push = self._pushes.get(code.digest)
            if push is None or not push.take(submission):
                push = self._pushes[code.digest] = PushedJob(self, self._context, code.own(), name)
                if not push.take(submission):
                    raise PoolClosed("Pool not running: it was closed meanwhile; make a new one")
        push.announce()
        return future

    @property
    def outstanding(self) -> int:
        """Submitted items that are not done."""
        return sum(push.outstanding for push in self._open())

    def add(self, push: PushedJob) -> None:
        """Look after a job that somebody else gives its items: it ends with the pool."""
        with self.lock:
            self._pushes[push.digest] = push

    def _open(self) -> list[PushedJob]:
        with self.lock:
            return list(self._pushes.values())

    def settle(self, submission: Submission, outcome: Any) -> None:
        """Resolve a future that has callbacks, in a thread where they may take their time."""
        self.aside(resolve, submission, outcome)

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

    def calls_back_here(self) -> bool:
        """Whether this is the thread of callbacks, which must not wait for what it does itself."""
        return threading.current_thread() is self._thread

    def released(self, digest: bytes) -> None:
        """A broadcast was released: functions that nobody runs just now need not be kept for its sake."""
        # On the loop: whoever releases it may be the garbage collector, in the middle of a submit.
        self._context.portal.call(self._released, digest)

    def _released(self, digest: bytes) -> None:
        for push in self._open():
            if digest in push.values:
                push.rest()

    def forget(self, push: PushedJob) -> None:
        """Give it no more items."""
        with self.lock:
            push.closed = True
            if self._pushes.get(push.digest) is push:
                del self._pushes[push.digest]

    def close(self) -> None:
        """No more items: the jobs end when what was submitted is done."""
        for push in self._open():
            self._context.portal.call(push.finish)

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
            self._context.portal.call(push.cancel_if_alone, future)


_Call = tuple[Callable[..., object], tuple[Any, ...]]


def _settle(box: queue.SimpleQueue[_Call | None], settled: threading.Event) -> None:
    while (call := box.get()) is not None:
        call_showing_errors(call[0], *call[1], what="the thread of a pool's callbacks")
        call = None  # not kept until the next one comes
    settled.set()


def _tell(entry: JobEntry, message: Finished) -> None:
    warn_of(entry.notices, left_out(entry.spec.name, message))


class PushedJob(JobReader):
    """The job of one submitted function: items in, futures resolved.

    All but `take`, `hurry` and `call_back` runs on the loop. What `take` changes is its own, under the owner's lock:
    the queue's end, `closed`, the counts of what was given. What the loop changes is the loop's: the counts of what was
    told and is done.
    """

    #: Items come one by one, so those that come soon after another are told together.
    single = True

    def __init__(self, owner: Submissions, context: JobContext, code: Code, name: str, *, shown: bool = False) -> None:
        self.digest = code.digest
        #: Broadcast values that the function mentions.
        self.values = frozenset(blob.digest for blob in code.blobs)
        self._owner = owner
        self._context = context
        self._pending: deque[Submission] = deque()
        self._chunks: dict[int, list[Submission | None]] = {}
        #: An announcement will come anyway; the loop is to be asked for it; it was asked; the timer of the one that
        #: follows another.
        self._armed = self._due = self._hurried = False
        self._again: asyncio.TimerHandle | None = None
        #: Items, and their bytes, that were submitted, and those of them that the driver was told of.
        self._given = self._given_bytes = self._told = self._told_bytes = 0
        self._done = 0
        self.closed = False
        self._linger: asyncio.TimerHandle | None = None
        spec = JobSpec(size=None, gather="list", pushed=True, shown=shown, stop_on_failure=False, name=name)
        self.router = OutputRouter(context=self._context_of)
        self._entry = JobEntry(spec, code, self.handle, id=context.driver.new_id(), router=self.router)
        context.portal.call(context.driver.open, self._entry)

    def take(self, submission: Submission) -> bool:
        """Queue an item, from any thread (under the owner's lock); False if this job is closed already."""
        if self.closed:
            return False
        assert submission.item is not None
        submission.push = self
        self._pending.append(submission)
        self._queued(1, submission.item.nbytes)
        return True

    def _queued(self, count: int, nbytes: int) -> None:
        """So many items wait now, too; under the owner's lock."""
        self._given += count
        self._given_bytes += nbytes
        if not self._armed:
            self._armed = self._due = True

    def announce(self) -> None:
        """Have the loop look at what was queued. Not under the owner's lock: the loop would wake, and wait for it."""
        if self._due:
            try:
                self._due, self._hurried = False, True
                self._context.portal.call(self._announce)
            except BaseException:  # an interrupt: whoever submits or waits next does it
                self._due, self._hurried = True, False
                raise

    def call_back(self, fn: Callable[[Any], object], submission: Submission, future: Any) -> None:
        """Call a future's callback; aside if the loop, which had not seen it yet, resolved the future."""

        def call() -> None:
            call_showing_errors(fn, future, what="add_done_callback of a future", context=submission.context)

        if self._context.portal.inside():
            self._owner.aside(call)
        else:
            call()

    @property
    def outstanding(self) -> int:
        """Items that are not done."""
        return self._given - self._done

    def hurry(self) -> None:
        """Somebody waits for an item: announce it now, if it was not yet. From any thread."""
        if self._given > self._told and not self._hurried:
            self._hurried = True
            self._context.portal.call(self._announce)

    # --- on the loop ------------------------------------------------------------------------------------------------

    def handle(self, message: JobMessage | Recalled) -> None:
        """The job's sink. With nothing left to do the job rests after LIMITS.submit_linger seconds."""
        super().handle(message)
        if self.outstanding == 0 and self._linger is None and not self.closed:
            self._linger = self._context.portal.loop.call_later(LIMITS.submit_linger, self.rest)

    def _announce(self) -> None:
        """Tell the driver what was submitted. If this is not all that is under way, what follows soon is told together:
        a lone call waits for nothing.
        """
        with self._owner.lock:
            given, nbytes = self._ready()
            new, new_bytes = given - self._told, nbytes - self._told_bytes
            together = self.single and new > 0 and given - self._done > 1 and not self.closed
            self._armed = together or self._again is not None
            self._told, self._told_bytes = given, nbytes
            self._hurried = False  # last: who finds items that are not told hurries, or has been heard by now
        if new:
            self._context.driver.notify(ItemsAdded(self._entry.id, new, new_bytes))
        if together and self._again is None:
            self._again = self._context.portal.loop.call_later(LIMITS.submit_together, self._look_again)

    def _ready(self) -> tuple[int, int]:
        """Items, and their bytes, that the driver may know of; under the owner's lock."""
        return self._given, self._given_bytes

    def _look_again(self) -> None:
        self._again = None
        self._announce()

    def read(self, message: ReadRequest) -> None:
        """Make the chunk of what was submitted first, and tell the driver before this returns."""
        begun: list[Submission | None] = []
        items: list[DumpedItem] = []
        for _ in range(message.most):
            submission = self._pending.popleft()
            item = submission.item
            if submission.begin() and item is not None:
                submission.item = None
                begun.append(submission)
                items.append(item)
            else:
                # It was announced, so it has a place in the count; what travels there runs nothing.
                begun.append(None)
                items.append(_NOTHING)
                self._done += 1
        payload, blobs = join_items(items)
        self._chunks[message.chunk] = begun
        self._context.driver.chunk_taken(self._entry.id, message.chunk, payload, blobs, len(items))

    def landed(self, message: Landed) -> None:
        """Resolve the futures of these items; the results stay pickled."""
        report = SharedReport(message)
        chunk = self._chunks.get(message.chunk, [])  # gone: all of it was settled or cancelled
        for at in range(message.lo, min(message.hi, len(chunk))):
            submission = chunk[at]
            if submission is not None and at in message.report.failed:
                submission.hooked = True  # so that `wait(..., FIRST_EXCEPTION)` sees an exception
            self._give(message.chunk, chunk, at, RawResult(report, at - message.lo))

    def lost(self, message: Lost) -> None:
        """Resolve the future of an item that failed without a report."""
        if message.chunk in self._chunks:
            self._give(message.chunk, self._chunks[message.chunk], message.at, message)

    def printed(self) -> None:
        """Write the output, in the thread of callbacks."""
        self._owner.aside(self.router.show)

    def _give(self, chunk: int, submissions: list[Submission | None], at: int, outcome: Any) -> None:
        submission, submissions[at] = submissions[at], None
        if at == len(submissions) - 1 and not any(submissions):
            del self._chunks[chunk]
        if submission is None:
            return
        self._done += 1
        if submission.hooked or type(outcome) is not RawResult:
            self._owner.settle(submission, outcome)
        else:
            resolve(submission, outcome)

    def _context_of(self, chunk: int, at: int) -> contextvars.Context | None:
        submissions = self._chunks.get(chunk, [])
        submission = submissions[at] if at < len(submissions) else None
        return None if submission is None else submission.context

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
            self._context.driver.notify(InputClosed(self._entry.id))

    def cancel_if_alone(self, future: TaskFuture) -> None:
        if self.outstanding == 1 and any(
            one and one.future is future for chunk in self._chunks.values() for one in chunk
        ):
            self._owner.forget(self)
            self._context.driver.cancel(self._entry.id)

    def finished(self, message: Finished) -> None:
        """Resolve what is left: the pool was closed, or the job was cancelled."""
        self._owner.forget(self)
        if self._entry.notices or message.refusals:
            self._owner.aside(_tell, self._entry, message)
        if self.router.has_unreported or self.router.waiting:
            self._owner.aside(lambda: self.router.show(last=True))
        for timer in (self._linger, self._again):
            if timer is not None:
                timer.cancel()
        self._linger = self._again = None
        left = [submission for chunk in self._chunks.values() for submission in chunk if submission is not None]
        left += [submission for submission in self._pending if submission.begin()]
        self._chunks.clear()
        self._pending.clear()
        for submission in left:
            self._owner.settle(submission, message)
