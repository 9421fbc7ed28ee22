"""The port of everything that shows how far a job is.

Owns the View protocol. A view reads immutable snapshots and knows no pool, scheduler or worker. One thread at a time
calls it: the calling thread of a blocking call, the job's own watcher otherwise.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from distmap.core.progress import Snapshot


class View(Protocol):
    """Shows one job. May be made late; `update` may come often (a view throttles itself) and right before `close`."""

    def update(self, snapshot: Snapshot) -> None:
        """Show this moment, or leave it out if the last one was shown just before."""

    def note(self, text: str) -> None:
        """Show one line that stays, such as a failed item. The text may come from a worker: it is escaped here."""

    def close(self, snapshot: Snapshot) -> None:
        """Show the last moment, in a form that needs nothing alive, and let go of everything. Twice does nothing."""


@runtime_checkable
class Above(Protocol):
    """A view that draws where text is written, such as a bar in a terminal: what tasks print goes through it.

    Elsewhere it is simply written. Called in the context of the cell, by any thread.
    """

    def write(self, text: str, stream: str) -> None:
        """Write whole lines to "stdout" or "stderr", above what is drawn."""
