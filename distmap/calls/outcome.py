"""How a job ended: the error that it raises, the word for its state, and who is told.

Owns the wording of a job's end and `Completion`, which handles and servers of jobs share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from distmap.calls.shortfalls import refused_by_all
from distmap.core.progress import JobState
from distmap.driver.messages import Finished
from distmap.errors import CrashLoopError, JobCancelled, PayloadError
from distmap.tasks.failures import shorten, throw
from distmap.views.display import JobDisplay


class Completion:
    """The end of a job. Any thread waits for it; the thread that serves the job sets it."""

    def __init__(self, over: threading.Event) -> None:
        self.over = over
        #: Notified when results arrive and when the job is over. Its lock orders `add` and `conclude`.
        self.news = threading.Condition()
        self.error: BaseException | None = None
        #: Where the error was raised, if that was in this process: raising it again must not add frames to it.
        self._frames: TracebackType | None = None
        self._hooks: list[Callable[[], object]] = []

    def add(self, hook: Callable[[], object]) -> bool:
        """Call `hook()` at the end; False if the job is over already."""
        with self.news:
            if self.over.is_set():
                return False
            self._hooks.append(hook)
            return True

    def conclude(self, error: BaseException | None) -> None:
        """The job is over; wakes who waits, then calls the hooks in this thread."""
        with self.news:
            self.error = error
            self._frames = None if error is None else shorten(error).__traceback__
            self.over.set()
            hooks, self._hooks = self._hooks, []
            self.news.notify_all()
        for hook in hooks:
            hook()

    def raise_error(self) -> None:
        """Raise what ended the job; nothing if it is done."""
        if self.error is not None:
            throw(self.error, self._frames)


def state_of(error: BaseException | None, display: JobDisplay) -> JobState:
    """The state of a job that ended with this error."""
    if error is None:
        return "done"
    if isinstance(error, JobCancelled):
        return "interrupted" if display.interrupted else "cancelled"
    return "failed"


def worded(error: BaseException | None, display: JobDisplay) -> BaseException | None:
    """The error as users see it: a cancellation by their interrupt says so."""
    if isinstance(error, JobCancelled) and display.interrupted:
        return JobCancelled(f"{display.title} was interrupted")
    return error


def end_of(finished: Finished, first_failure: BaseException | None) -> BaseException | None:
    """The error that a finished job raises; None if it was done."""
    if finished.refused and finished.refusals:
        return refused_by_all(finished.refusals)
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
