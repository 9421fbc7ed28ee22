"""The journal of a call with a checkpoint: results are written first, and handed over after that.

Owns the thread that writes, what waits to be written, and the order in which results go on. Must not know the input or
the user's values: reports are written as they arrived. `take` and `expect` in any thread, `deliver` in the thread that
reads the input; all else in the journal's thread.

    driver -> take --(queue)--> write, commit --> Order --> forward -> the mailbox of the call
    input  -> deliver ----------------------------^

A call that returns a list has nobody who waits for single results: they are written together, every
`checkpoint_commit_seconds`. Of a stream all that has come is written as soon as the last commit is done.

If it cannot be written (the disk is full), the job pauses, and what has come is kept and tried again: nothing is lost,
and nothing is handed over before. If it can never be written (another process took the file over), the job ends.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from distmap.calls.results import Recalled, count_of, index_of
from distmap.checkpoint.store import ChunkRow, NoRoom, ReportRow, Store, close_store
from distmap.core.limits import LIMITS
from distmap.driver.messages import Finished, JobMessage, Landed, Lost
from distmap.errors import CheckpointError

log = logging.getLogger("distmap")

Forward = Callable[[Any], object]


class Steering(Protocol):
    """What the journal may do to its job, from its thread."""

    def hold(self) -> None:
        """Start no further items."""

    def go_on(self) -> None:
        """Start them again, unless the user does not want that."""

    def end(self, error: BaseException) -> None:
        """End the job with this error."""

    def say(self, sentence: str) -> None:
        """Tell the user."""

    def is_given_up(self) -> bool:
        """Whether the user cancelled the job, even after its work was over, or the pool has ended."""


class Order:
    """Puts known results back among those that arrive. Any thread.

    Args:
        forward: takes both, one after the other.
        ordered: in the order of the input; both come in that order, each by itself. Else at once.
    """

    def __init__(self, forward: Forward, *, ordered: bool) -> None:
        self._forward, self._ordered = forward, ordered
        self._lock = threading.Lock()
        self._next = 0
        self._known: deque[Recalled] = deque()
        self._landed: deque[Landed | Lost] = deque()

    def known(self, message: Recalled) -> None:
        """Results of an earlier call."""
        with self._lock:
            self._known.append(message)
            self._pass_on()

    def landed(self, message: Landed | Lost) -> None:
        """Results of this call, which are written now."""
        with self._lock:
            self._landed.append(message)
            self._pass_on()

    def end(self) -> None:
        """Nothing more comes. What arrived out of order (the failure that ended a job) goes on all the same."""
        with self._lock:
            self._known.clear()
            while self._landed:
                self._forward(self._landed.popleft())

    def _pass_on(self) -> None:
        known, landed = self._known, self._landed
        while True:
            if known and self._is_next(known[0].start):
                self._next += known[0].count
                self._forward(known.popleft())
            elif landed and self._is_next(index_of(landed[0])):
                self._next += count_of(landed[0])
                self._forward(landed.popleft())
            else:
                return

    def _is_next(self, index: int) -> bool:
        return not self._ordered or index == self._next


class _Flush(threading.Event):
    """Among what comes: write what came before it, then set it."""


class _Stop:
    """Among what comes: nobody waits for results any more."""


class _Chunk:
    """A chunk that is under way: its row, and items that did not come back yet."""

    __slots__ = ("left", "row")

    def __init__(self, row: ChunkRow) -> None:
        self.row = row
        self.left = row.count


class Journal:
    """Writes what comes back of one call.

    Args:
        forward: takes messages when they are written.
        ordered: as for `Order`.
        linger: seconds that results may wait to be written together.
    """

    def __init__(
        self, store: Store, function: int, forward: Forward, steering: Steering, *, ordered: bool, linger: float
    ) -> None:
        self._store, self._function = store, function
        self._forward, self._steering, self._linger = forward, steering, linger
        self._order = Order(forward, ordered=ordered)
        self.deliver = self._order.known
        self._lock = threading.Lock()
        #: Chunks by the index of their first item.
        self._chunks: dict[int, _Chunk] = {}
        #: Reports that may come in further pieces, by identity.
        self._reports: dict[int, tuple[Any, ReportRow]] = {}
        #: What has come and is not written, and a bell that rings for each; only the journal's thread takes from it.
        self._came: deque[Landed | Lost | Finished | _Flush | _Stop] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._over = threading.Event()
        #: Why nothing can be written any more.
        self._error: BaseException | None = None

    # --- in any thread ------------------------------------------------------------------------------------------------

    def expect(self, start: int, count: int, keys: bytes) -> None:
        """A chunk was read. Called before the driver gets it."""
        with self._lock:
            self._chunks[start] = _Chunk(ChunkRow(self._function, start, count, keys))

    def take(self, message: JobMessage) -> None:
        """The sink of the job: what has to be written waits for that, the rest goes on."""
        if isinstance(message, Landed | Lost | Finished):
            self._put(message)
        else:
            self._forward(message)

    def flush(self, timeout: float) -> None:
        """Write what has come, and wait for that."""
        flush = _Flush()
        self._put(flush)
        if not self._over.is_set():
            flush.wait(timeout)

    def stop(self) -> None:
        """Nobody waits for results any more, nor for the end of the job: write what has come, and end.

        Stopping twice, or after the end, is fine.
        """
        self._put(_Stop())

    def _put(self, message: Landed | Lost | Finished | _Flush | _Stop) -> None:
        self._came.append(message)
        self._bell.put(None)

    # --- in the journal's thread --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Write until the job is over or `stop` is called, then give the file back."""
        end: Finished | _Flush | _Stop | None = None
        _running.add(self)
        while not isinstance(end, Finished | _Stop):
            messages, end = self._gather()
            try:
                if messages and self._commit(messages):
                    for message in messages:
                        self._order.landed(message)
            except BaseException as error:  # whoever waits must learn of it
                self._fail(error)
            if isinstance(end, _Flush):
                end.set()
        self._order.end()
        try:
            close_store(self._store)
        except Exception as error:
            log.warning("x checkpoint %s could not be closed: %s", self._store.path, error)
        self._over.set()
        for flush in list(self._came):
            if isinstance(flush, _Flush):
                flush.set()
        if isinstance(end, Finished):
            # Without an error of its own: what failed was not handed over either.
            failed = self._error is not None and end.outcome != "cancelled" and end.error is None
            self._forward(end._replace(outcome="failed", error=self._error) if failed else end)

    def _gather(self) -> tuple[list[Landed | Lost], Finished | _Flush | _Stop | None]:
        """What there is to write, as much as fits together; and what is to be done behind it, if anything is."""
        messages: list[Landed | Lost] = []
        items, until = 0, 0.0
        while True:
            if self._came:
                message = self._came.popleft()
                if isinstance(message, Finished | _Flush | _Stop):
                    return messages, message
                if not messages:
                    until = time.monotonic() + self._linger
                messages.append(message)
                items += count_of(message)
                continue
            left = until - time.monotonic() if messages else LIMITS.checkpoint_heartbeat
            if messages and (left <= 0 or items >= LIMITS.checkpoint_commit_items):
                return messages, None
            try:
                self._bell.get(timeout=left)
            except queue.Empty:
                if not messages:
                    self._beat()

    def _beat(self) -> None:
        try:
            self._store.beat()
        except NoRoom as error:
            log.info("! checkpoint %s: no heartbeat: %s", self._store.path, error)
        except CheckpointError as error:
            self._fail(error)

    def _commit(self, messages: list[Landed | Lost]) -> bool:
        """Write it; False if that will never be possible: then it is not handed over either."""
        if self._error is not None:
            return False
        rows, store = self._rows(messages), self._store
        held = False
        while rows:
            try:
                store.write(rows)
                break
            except NoRoom as error:
                if self._given_up():
                    self._fail(CheckpointError(f"checkpoint {store.path} could not be written: {error}"))
                    return False
                if not held:
                    held = True
                    self._steering.hold()
                    self._steering.say(
                        f"checkpoint {store.path} cannot be written ({error}): the job pauses until it can; nothing is "
                        "lost"
                    )
                time.sleep(LIMITS.checkpoint_full_retry)
        if held:
            self._steering.say(f"checkpoint {store.path} can be written again: the job goes on")
            self._steering.go_on()
        return True

    def _given_up(self) -> bool:
        """Whether the job was cancelled: nobody waits for room on the disk then."""
        return self._steering.is_given_up() or any(
            isinstance(end, _Stop) or (isinstance(end, Finished) and end.outcome == "cancelled")
            for end in list(self._came)
        )

    def _fail(self, error: BaseException) -> None:
        self._error = error
        log.warning("x the journal of checkpoint %s ends: %s", self._store.path, error)
        self._steering.end(error)

    def _rows(self, messages: list[Landed | Lost]) -> list[ReportRow]:
        """What is to be written of these: items that have a result."""
        rows: dict[int, ReportRow] = {}
        for message in messages:
            with self._lock:
                start = message.start if isinstance(message, Landed) else message.item - message.at
                chunk = self._chunks[start]
                chunk.left -= count_of(message)
                if not chunk.left:
                    del self._chunks[start]
            if isinstance(message, Landed) and (row := self._row(chunk, message)) is not None:
                rows[id(row)] = row
        return list(rows.values())

    def _row(self, chunk: _Chunk, landed: Landed) -> ReportRow | None:
        report, lo = landed.report, landed.lo
        usable = []
        for at in (*[at for at in report.failed if landed.lo <= at < landed.hi], landed.hi):
            if lo < at:
                usable.append((lo, at))
            lo = at + 1
        known = self._reports.pop(id(report), None)
        if known is not None:
            row = known[1]
            row.usable += usable
        else:
            row = ReportRow(chunk.row, report.lo, report.hi, report.parts, report.worker, usable)
        if landed.hi < report.hi:  # it comes in pieces; who gets the first one takes the report's parts out of it
            self._reports[id(report)] = report, row
        return row if usable else None


#: Journals that run. Python does not wait for their threads when it ends.
_running: weakref.WeakSet[Journal] = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    """What came back before Python ends is to be in the file."""
    for journal in list(_running):
        journal.flush(LIMITS.checkpoint_exit_wait)
