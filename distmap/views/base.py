"""The ports between a job and everything that shows how far it is.

Owns the View and Steering protocols. A view reads immutable snapshots and knows no pool, scheduler or worker; what its
buttons do is a Steering.
"""

from __future__ import annotations

from typing import Protocol

from distmap.core.progress import Snapshot
from distmap.views.static import Note

#: A call that is over within so many seconds draws nothing before it is over: loops make thousands of them.
QUICK = 0.5


class View(Protocol):
    """Shows one job. Its methods may be called by different threads, also at the same time."""

    #: True: it draws, which the painter's thread does. False: it runs the user's code, which the job's own thread does.
    drawn: bool

    def update(self, snapshot: Snapshot) -> None:
        """Show this moment. Comes ten times a second at most, and never after `close`."""

    def note(self, note: Note) -> None:
        """Show one line that stays, such as a failed item. The text may come from a worker: it is escaped here."""

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        """Show the last moment, in a form that needs nothing alive, and let go of everything. Twice does nothing.

        Args:
            snapshot: The last one.
            dropped: Lines that were not noted, as there were too many.
        """


class Above:
    """A view that draws where text is written, such as a bar in a terminal: what tasks print goes through it.

    Elsewhere it is simply written. Called in the context of the cell, by any thread.
    """

    def write(self, text: str, stream: str) -> None:
        """Write whole lines to "stdout" or "stderr", above what is drawn."""
        raise NotImplementedError


class Steering(Protocol):
    """What a view may do to its job, from any thread; once the job is over nothing happens."""

    paused: bool

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None: ...
