"""The ports between a job and everything that shows how far it is.

Owns the View and Controls protocols. A view reads immutable snapshots and knows no pool, scheduler or worker; what its
buttons do is a Controls.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from distmap.core.progress import Snapshot

#: A call that is over within so many seconds draws nothing before it is over: loops make thousands of them.
QUICK = 0.5
#: Issues of one job that are kept and shown; further ones are counted: a cell is no log.
MAX_ISSUES = 20


class Issue(NamedTuple):
    """Something that went wrong and is worth a line of its own."""

    #: failed: the item failed for good; retried: it raised and runs again; lost: it was lost with a worker; died: it
    #: ended its process.
    kind: Literal["failed", "retried", "lost", "died"]
    #: None: no single item.
    item: int | None
    #: Name of the worker; empty if that is not known.
    worker: str
    #: Which try of the item it was, from 1; 0 if that means nothing here.
    attempt: int
    #: Last line of the traceback, or a sentence.
    text: str


class View(Protocol):
    """Shows one job. Its methods may be called by different threads, also at the same time."""

    #: True: it draws, which the refresh thread does. False: it runs the user's code, which the job's own thread does.
    drawn: bool

    def update(self, snapshot: Snapshot) -> None:
        """Show this moment. Comes ten times a second at most, and never after `close`."""

    def add_issue(self, issue: Issue) -> None:
        """Show one line that stays, such as a failed item. The text may come from a worker: it is escaped here."""

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        """Show the last moment, in a form that needs nothing alive, and let go of everything. Twice does nothing.

        Args:
            snapshot: The last one.
            dropped: Lines that were not noted, as there were too many.
        """


class TextSink:
    """A view that draws where text is written, such as a bar in a terminal: what tasks print goes through it.

    Elsewhere it is simply written. Called in the context of the cell, by any thread.
    """

    def write(self, text: str, stream: str) -> None:
        """Write whole lines to "stdout" or "stderr", above what is drawn."""
        raise NotImplementedError


class Controls(Protocol):
    """What a view may do to its job, from any thread; once the job is over nothing happens."""

    paused: bool

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None: ...
