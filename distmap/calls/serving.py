"""Serving a job: its input is read, its results are decoded, its views are shown.

Owns the thread's side of a job. `Serving` is what maps and streams share; `MapServing` serves a map in the calling
thread or in a thread of its own. User code (iterables, reducers, callbacks, unpickling) runs in that thread, never on
the loop. What a user may ask of a job is in `job.py`, which asks it here.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from distmap.calls.controls import Callbacks, CallCheckpoint, JobControls
from distmap.calls.inputs import AsyncPulled, Input, check_wait
from distmap.calls.interrupts import Interrupts
from distmap.calls.notices import warn_of
from distmap.calls.outcome import Completion, end_of, state_of, worded
from distmap.calls.reader import JobContext, JobReader, Mailbox
from distmap.calls.results import Recalled, ResultSink, count_of, decode, failure_of
from distmap.calls.shortfalls import left_out, shortfall
from distmap.core.events import Consumed
from distmap.core.limits import LIMITS
from distmap.core.progress import ProgressOption, Snapshot
from distmap.driver.jobs import JobEntry, ReadItems, ignore
from distmap.driver.messages import Finished, Incident, JobMessage, Landed, Lost, Printed, ReadRequest, empty_snapshot
from distmap.errors import JobCancelled
from distmap.tasks.failures import headline
from distmap.tasks.items import dump_items
from distmap.views.base import Issue, TextSink, write_text
from distmap.views.callbacks import call_showing_errors
from distmap.views.display import JobDisplay

log = logging.getLogger("distmap")


class Serving(JobReader):
    """The server of one job. Made in the calling thread, in the context of its cell.

    Args:
        call: name of the call, such as "map".
        function: name of the user's function.
        source: the items; forgotten when all are read.
        results: where results go.
    """

    def __init__(
        self, context: JobContext, record: JobEntry, source: Input, results: ResultSink, *, call: str, function: str
    ) -> None:
        self.context = context
        self.record = record
        self.call = call
        self.results = results
        #: Set when its work is over.
        self.over = threading.Event()
        #: The thread that serves the job, if it is not the caller's.
        self.thread: threading.Thread | None = None
        self._source: Input | None = source
        self.checkpoint: CallCheckpoint | None = None
        #: Sentences for whoever made the call, to be said at its end.
        self.sentences: list[str] = []
        #: What the user's functions raise is shown in the cell that made the call, through the view that draws there.
        self._home = contextvars.copy_context()
        self._write = write_text
        self.controls = JobControls(context, record.id)
        name = record.spec.name
        kind = call if function == name else ""
        self.display = JobDisplay(name, kind, self.controls, lambda: record.latest, (function, call))

    # --- for the handle, in any thread ------------------------------------------------------------------------------

    def progress(self, timeout: float = 10.0) -> Snapshot | None:
        """How far the job is at this moment. Raises TimeoutError if the loop does not answer in time."""
        if self.display.final is not None:
            return self.display.final
        portal, driver = self.context
        return portal.ask(driver.snapshots.find, self.record.id, timeout=timeout) or self.record.latest

    def glance(self) -> Snapshot | None:
        """As `progress`, for whoever must not wait: None if the loop does not answer at once."""
        try:
            return self.progress(LIMITS.look_wait)
        except TimeoutError:
            return None

    @property
    def state(self) -> str:
        """The word for the job's state."""
        if self.display.final is not None:
            return self.display.final.state
        return "paused" if self.controls.paused else "running"

    def interrupt(self, interrupted: bool = True) -> None:
        """Cancel the job, because the user interrupted who waits for it, or otherwise cancelled the waiting."""
        if not self.over.is_set():
            self.display.interrupted = interrupted
            self.controls.cancel()

    def check_wait(self) -> None:
        """Raise RuntimeError if this thread must not wait for the job: its input needs this thread."""
        check_wait(self._source, self.call)

    def watch(self) -> None:
        """Let the driver take snapshots: another view shows the job."""
        self.context.portal.call(self.context.driver.snapshots.watch, self.record.id, True)

    def call_back(self, what: str, function: Callable[..., object], *args: Any) -> None:
        """Call a function that the user gave; what it raises is shown, and changes nothing."""
        what = f"{what} of {self.record.spec.name}"
        call_showing_errors(function, *args, what=what, context=self._home, write=self._write)

    def catch_up(self) -> None:
        """Decode what arrived and was put aside."""

    def tell_notices(self) -> None:
        """At the end: tell what workers wrote to whoever made the call, in the thread that found the end."""
        self._write = write_text
        notices, self.record.notices = self.record.notices, {}
        sentences, self.sentences = self.sentences, []
        warn_of(notices, sentences)

    # --- in the thread that serves ----------------------------------------------------------------------------------

    def _open(self, progress: ProgressOption, first: ReadItems | None = None) -> None:
        """Give the job to the driver and show it, both in the calling thread, whose cell it belongs to."""
        if self.checkpoint is not None:
            self.checkpoint.begin()
        self.context.portal.call(self.context.driver.open, self.record, first)
        view = self.display.show(progress)
        if isinstance(view, TextSink):
            self._write = view.write
        if self.record.router is not None:
            self.record.router.write_by(view)

    def _spawn(self, kind: str, target: Callable[[], object]) -> None:
        name = f"distmap-{kind}-{self.record.spec.name}"
        self.thread = threading.Thread(target=target, name=name, daemon=True)
        self.thread.start()

    def read(self, message: ReadRequest) -> None:
        """Read and pickle the next items, and send them to the driver. KeyboardInterrupt passes through."""
        if self.checkpoint is not None:
            return self.checkpoint.read(message)
        portal, driver = self.context
        assert self._source is not None
        try:
            (payload, blobs), count, last = self._source.read(message.most, dump_items)
        except Exception as error:
            portal.call(driver.input_failed, self.record.id, message.chunk, error)
        else:
            portal.call(driver.chunk_read, self.record.id, message.chunk, payload, blobs, count, last)

    def forward(self, message: JobMessage | Recalled) -> None:
        """Take a message that went through the journal, in any thread."""
        raise NotImplementedError

    def ask_again(self, message: ReadRequest) -> None:
        """Put a request to read behind the messages that wait; from any thread."""
        raise NotImplementedError

    def printed(self, *, last: bool = False) -> None:
        """Write what tasks printed, in this thread."""
        if self.record.router is not None:
            self.record.router.show(last=last)

    def incident(self, message: Incident) -> None:
        """Show it. May unpickle what an item raised."""
        if self.display.is_full:
            self.display.count_dropped()
            return
        text = message.text if message.refusal is None else shortfall(message.refusal)
        if message.report is not None:
            try:
                text = failure_of(message.report, message.at)
            except Exception as error:  # a neighbour's result does not unpickle
                log.info("! an item is run again, but not why: %r", error)
        self.display.add_issue(Issue(message.kind, message.item, message.worker, message.attempt, text))

    def show_failures(self, message: Landed | Lost | Recalled, failures: dict[int, BaseException]) -> None:
        """Show the items that failed for good."""
        for index, error in failures.items():
            if self.display.is_full:
                self.display.count_dropped()
            elif isinstance(message, Landed):
                report = message.report
                attempt = report.attempts.get(index - message.start, 1)
                self.display.add_issue(Issue("failed", index, report.worker, attempt, headline(error)))
            else:
                deaths = len(message.deaths) if isinstance(message, Lost) else 0
                self.display.add_issue(Issue("failed", index, "", deaths, headline(error)))


class MapServing(Serving):
    """Serves a job whose results are kept or folded: in the calling thread, or in a thread of its own.

    The loop puts messages into the mailbox; one thread reads them. `keep` lives until the job is over: the handle and
    the pool, which must not end while a thread computes for it.
    """

    def __init__(
        self,
        context: JobContext,
        record: JobEntry,
        source: Input,
        results: ResultSink,
        *,
        call: str,
        function: str,
        callbacks: Callbacks = Callbacks(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__(context, record, source, results, call=call, function=function)
        self.completion = Completion(self.over)
        self._callbacks = callbacks
        self._box = Mailbox()
        record.sink = self._box.put
        self._interrupts = Interrupts(self._box.ring)
        self._finished: Finished | None = None
        self.keep: tuple[object, ...] = ()
        #: What arrived when the job was broken off, not decoded yet, and the lock for who decodes it.
        self._left: deque[Landed | Lost | Recalled] = deque()
        self._lock = threading.Lock()
        #: Items that were decoded.
        self._absorbed = 0

    def run_here(self, progress: ProgressOption, first: ReadItems | None) -> None:
        """Serve the job in the calling thread until it is over.

        KeyboardInterrupt (and any error of a reducer) stops the remote work first, for at most LIMITS.interrupt_wait
        seconds; a second interrupt returns at once.
        """
        with self._interrupts:  # a second one waits for nobody, and cuts nothing short
            try:
                self._open(progress, first)
                self._serve()
            except BaseException as error:
                self._abort(error)
                raise

    def run_aside(self, progress: ProgressOption) -> None:
        """Serve the job in a thread of its own; returns at once."""
        self._open(progress)
        self._spawn("job", self._serve_aside)

    def _serve_aside(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self._abort(error)

    def _serve(self) -> None:
        box, display = self._box, self.display
        looked = time.monotonic()
        reports = display.has_callbacks
        while self._finished is None:
            try:
                message = box.first(LIMITS.progress_every if reports else None)
            except queue.Empty:
                message = None
            if reports and (now := time.monotonic()) - looked >= LIMITS.progress_every:
                looked = now
                display.call_callbacks()
            if message is not None:
                self.handle(message)
                if self._finished is None:
                    box.drop()  # only now: an interrupt in between loses nothing
            self._interrupts.raised = False  # the user's code may have caught one
        self._end(self._finished)

    def finished(self, message: Finished) -> None:
        """Its last message stays in the mailbox: `_abort` looks for it."""
        self._finished = message
        self.sentences += left_out(self.display.title, message)

    def landed(self, message: Landed) -> None:
        """Give the sink the results."""
        self._accept(message)

    def lost(self, message: Lost) -> None:
        """Give the sink the error."""
        self._accept(message)

    def recalled(self, message: Recalled) -> None:
        """Give the sink the results of an earlier call."""
        self._accept(message)

    def forward(self, message: JobMessage | Recalled) -> None:
        self._box.put(message)

    ask_again = forward

    def _accept(self, message: Landed | Lost | Recalled) -> None:
        count, nbytes = self._absorb(message)
        known = isinstance(message, Recalled)
        if self.checkpoint is not None:
            self.checkpoint.consumed(count, known=known)
        if (
            not known and self.record.spec.gather != "list"
        ):  # a list keeps everything: nothing is consumed, no window waits for it
            self.context.portal.call(self.context.driver.notify, Consumed(self.record.id, count, nbytes))
        with self.completion.news:
            self.completion.news.notify_all()

    def _absorb(self, message: Landed | Lost | Recalled) -> tuple[int, int]:
        """Decode what came and give it to the sink; returns how many items and bytes these were."""
        index, count, values, failures, nbytes = decode(message)
        self.results.take(index, count, values, failures)
        self.show_failures(message, failures)
        self._absorbed += count
        return count, nbytes

    def catch_up(self) -> None:
        """Decode what had come when the job was broken off."""
        with self._lock:
            while self._left:
                self._absorb(self._left[0])
                self._left.popleft()

    def _end(self, finished: Finished) -> None:
        self.printed(last=True)  # first: whoever waits for the result finds it written
        error = end_of(finished, self.results.first_failure)
        if error is None and self.record.spec.stop_on_failure:
            # The scheduler took it for a result; that it does not unpickle shows only here.
            error = self.results.first_failure
        self._settle(error, finished.snapshot)

    def _settle(self, error: BaseException | None, snapshot: Snapshot) -> None:
        error = worded(error, self.display)
        try:
            # Callbacks first, as in multiprocessing: whoever waited for the result finds what they did. The card too:
            # a notebook that is run without a browser takes no output of a cell that has ended.
            if error is None and self._callbacks.done is not None:
                self.call_back("callback=", self._callbacks.done, self.results.result())
            elif error is not None and self._callbacks.failed is not None:
                self.call_back("error_callback=", self._callbacks.failed, error)
            self.display.close(snapshot, state_of(error, self.display))
        finally:
            self._conclude(error)

    def _conclude(self, error: BaseException | None) -> None:
        try:
            self.completion.conclude(error)
        finally:
            # Over: whoever keeps the handle keeps results and figures, not the pool, the input or what functions
            # captured.
            if isinstance(self._source, AsyncPulled):
                self._source.close()
            if self.checkpoint is not None:
                self.checkpoint.leave()
            self._source, self._callbacks, self.keep, self.checkpoint = None, Callbacks(), (), None
            self.record.sink = ignore
            self.results.let_go()
            self.tell_notices()

    def _abort(self, error: BaseException) -> None:
        """Something raised in this thread: stop the remote work, keep what landed, settle with the error.

        What had landed is kept as it came: to unpickle or fold it is the user's code, which an interrupt is to end.
        """
        interrupted = isinstance(error, KeyboardInterrupt)
        snapshot: Snapshot | None = None
        self.display.interrupted = self.display.interrupted or interrupted
        try:
            self.controls.cancel()
            snapshot = self._last_snapshot()
            self.printed(last=True)
        except KeyboardInterrupt:  # a third one
            self.record.sink = ignore
        finally:
            # Nobody waits for the loop's last message; what is known here is the least that there is.
            snapshot = snapshot or self.record.latest or empty_snapshot(self.record.spec, self._known())
            self._settle(JobCancelled("interrupted") if interrupted else error, snapshot)

    def _last_snapshot(self) -> Snapshot | None:
        """Keep what lands until the job is over; None if that takes too long, or a second interrupt comes."""
        deadline = time.monotonic() + LIMITS.interrupt_wait
        while not self._interrupts.came and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._box.wait(left)
            match self._box.peek():
                case None:
                    continue
                case Finished() as message:
                    return message.snapshot
                case Printed():
                    self.printed()
                case (Landed() | Lost() | Recalled()) as message if self.results.keeps:
                    self._left.append(message)
            self._box.drop()
        return None

    def _known(self) -> int:
        """How many items are there, decoded or not."""
        return self._absorbed + sum(map(count_of, self._left))
