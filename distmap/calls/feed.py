"""A call whose items are handed in one by one while it runs, with a card of its own.

Owns `Feed`, for libraries that have their own face of a map, such as joblib: they decide when the next task comes, and
distmap how tasks become chunks. Must not know those libraries.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from distmap.calls.controls import JobControls
from distmap.calls.futures import Submission, TaskFuture
from distmap.calls.outcome import end_of, state_of
from distmap.calls.reader import JobContext
from distmap.calls.submissions import PushedJob, Submissions
from distmap.core.limits import LIMITS
from distmap.core.progress import ProgressOption, Snapshot
from distmap.driver.messages import Finished
from distmap.errors import PoolClosed
from distmap.tasks.code import Code
from distmap.tasks.failures import headline
from distmap.tasks.items import dump_item
from distmap.views.base import Issue
from distmap.views.display import JobDisplay


class Feed(PushedJob):
    """One call: items in, futures out, until `finish` or `cancel`. Make it in the thread of the cell.

    Args:
        code: what is called with the arguments of each item.
        title: of its card; `kind` is the name of the call that made it.
        total: number of items, None if it is not known yet.
        keep: the pool, which must not end meanwhile.
    """

    def __init__(
        self,
        owner: Submissions,
        context: JobContext,
        code: Code,
        *,
        title: str,
        kind: str,
        progress: ProgressOption,
        total: int | None,
        keep: object,
    ) -> None:
        super().__init__(owner, context, code, title, shown=True)
        # A name of its own: submits of the same function are another job.
        self.digest = b"feed %d" % self._entry.id
        owner.add(self)
        self._keep: object = keep
        self._total = total
        #: Set once the card is complete.
        self._shown = threading.Event()
        #: When the user's functions are called next, in `time.monotonic`.
        self._next_look = 0.0
        self.controls = JobControls(context, self._entry.id)
        self.display = JobDisplay(title, kind, self.controls, self._latest)
        if self.display.show(progress) is not None:
            context.portal.call(context.driver.snapshots.watch, self._entry.id, True)

    def submit(self, number: int, *args: Any) -> TaskFuture:
        """Hand in the item with this number.

        Raises:
            PoolClosed: the call is over.
        """
        submission = Submission(dump_item((args, {})), None, self._keep)
        future = submission.future
        assert future is not None
        with self._owner.lock:
            if not self.take(submission):
                raise PoolClosed("Pool not running: it was closed, or the call was cancelled")
        future.add_done_callback(partial(self._settled, number))
        return future

    def _settled(self, number: int, future: Any) -> None:
        """Show what failed, and call the user's functions now and then; in the thread of callbacks."""
        if not future.cancelled() and (error := future.exception()) is not None:
            self.display.add_issue(Issue("failed", number, "", 0, headline(error)))
        if self.display.has_callbacks and (now := time.monotonic()) >= self._next_look:
            self._next_look = now + LIMITS.progress_every
            self.display.call_callbacks()

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

    def rest(self) -> None:
        """Go on: only its owner knows whether more items come."""

    def finished(self, message: Finished) -> None:
        super().finished(message)
        self._owner.aside(self._close, message)

    def _close(self, message: Finished) -> None:
        self.display.close(self._with_total(message.snapshot), state_of(end_of(message, None), self.display))
        self._keep = None
        self._shown.set()

    def _latest(self) -> Snapshot | None:
        latest = self._entry.latest
        return None if latest is None else self._with_total(latest)

    def _with_total(self, snapshot: Snapshot) -> Snapshot:
        total = self._total
        return snapshot if total is None or snapshot.total is not None else snapshot._replace(total=total)


def open_feed(
    pool: Any, fn: Callable[..., Any], *, title: str, kind: str, total: int | None, progress: ProgressOption = None
) -> Feed:
    """A feed of a `Pool`, whose `progress=` counts if none is given here.

    Raises:
        PoolClosed: the pool is closed.
    """
    from distmap.views.choose import resolve_progress

    code = pool._code(fn, "call")
    shown = resolve_progress(progress, pool._progress)
    return Feed(pool._submissions, pool._context, code, title=title, kind=kind, progress=shown, total=total, keep=pool)
