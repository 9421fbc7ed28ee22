"""The ports between a job and its views.

Owns `View` (what a job needs of a view) and `Controls` (what the buttons of a view may do to its job). A view reads
immutable snapshots and knows no pool, scheduler or worker.
"""

from __future__ import annotations

import sys
from typing import Literal, Protocol

from distmap.core.progress import Snapshot
from distmap.tasks._typing import NamedTuple

#: Seconds: a shorter call draws nothing while it runs, as loops make thousands of such calls.
QUICK = 0.5
#: Issues of one job that are kept and shown; further ones are counted: a cell is no log.
MAX_ISSUES = 20


class Issue(NamedTuple):
    """Something that went wrong and is worth a line of its own."""

    #: failed: the item failed for good; retried: it raised and runs again; lost: it was lost with a worker; died: it
    #: ended its process; left out: the worker cannot run the job; note: nothing went wrong, but it has to be said.
    kind: Literal["failed", "retried", "lost", "died", "left out", "note"]
    #: None: no single item.
    item: int | None
    #: Name of the worker; empty if that is not known.
    worker: str
    #: Which try of the item it was, from 1; 0: no single item.
    attempt: int
    #: Last line of the traceback, or a sentence.
    text: str


class View(Protocol):
    """Shows one job. Its methods may be called by different threads, also at the same time."""

    #: Which thread calls `update`: the refresh thread (True: it draws) or the job's (False: it calls the user's code).
    drawn: bool

    def update(self, snapshot: Snapshot) -> None:
        """Show this moment. Called at most ten times a second; after `close` it does nothing."""

    def add_issue(self, issue: Issue) -> None:
        """Show one line that stays, such as a failed item. The view escapes the text, which may come from a worker."""

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        """Show the last moment in a form that needs no kernel, and release everything. Twice does nothing.

        Args:
            snapshot: the last one.
            dropped: number of issues that were not shown, as there were too many.
        """


class TextSink:
    """A view that draws where text is written, such as a bar in a terminal: it then writes what tasks print.

    Called in the context of the cell, by any thread.
    """

    def write(self, text: str, stream: str) -> None:
        """Write whole lines to "stdout" or "stderr", above what is drawn."""
        raise NotImplementedError


def write_text(text: str, stream: str) -> None:
    """Write to what is `sys.stdout` or `sys.stderr` now."""
    file = getattr(sys, stream, None)
    if file is None:
        return  # a program without a terminal
    try:
        file.write(text)
    except UnicodeEncodeError:
        encoding = getattr(file, "encoding", None) or "ascii"
        file.write(text.encode(encoding, "backslashreplace").decode(encoding))


class Controls(Protocol):
    """What a view may do to its job, from any thread; once the job is over it does nothing."""

    paused: bool

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None: ...
