"""What a call is steered by, and what it is given besides its input: controls, callbacks, a checkpoint.

Owns these three ports. Must not know who serves a job or shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from distmap.calls.reader import JobContext
from distmap.core.events import PauseRequested, ResumeRequested
from distmap.driver.messages import ReadRequest
from distmap.tasks._typing import NamedTuple


class Callbacks(NamedTuple):
    """`callback=` and `error_callback=` of a call."""

    done: Callable[[Any], object] | None = None
    failed: Callable[[BaseException], object] | None = None


class JobControls:
    """What may be done to a job from any thread, the threads of buttons too; once the job is over it does nothing."""

    def __init__(self, context: JobContext, job: int) -> None:
        self._context = context
        self._job = job
        self.paused = self.cancelled = False

    def pause(self) -> None:
        """Start no further items."""
        self.paused = True
        self._context.portal.call(self._context.driver.notify, PauseRequested(self._job))

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        self._context.portal.call(self._context.driver.notify, ResumeRequested(self._job))

    def cancel(self) -> None:
        """Stop what runs, drop what waits."""
        self.cancelled = True
        self._context.portal.call(self._context.driver.cancel, self._job)


class CallCheckpoint(Protocol):
    """What a server asks of the checkpoint of its call."""

    def begin(self) -> None:
        """The job begins."""

    def read(self, message: ReadRequest) -> None:
        """Answer a request to read, in the thread that reads the input."""

    def consumed(self, count: int, *, known: bool) -> None:
        """The consumer took so many items; any thread."""

    def open_wide(self) -> None:
        """Nobody consumes any more; any thread."""

    def leave(self) -> None:
        """Nobody waits for the job any more, though its last message may not have come; any thread."""
