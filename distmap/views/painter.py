"""One thread that paints all there is to see.

Owns when views are drawn. A tenth of a second, one view: a single one is drawn ten times a second, of five each twice.
So a kernel sends the same few messages a second however many jobs it runs, and what is shown stays live while the
calling thread unpickles, folds or waits for a slow input.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from distmap.core.progress import Snapshot

log = logging.getLogger("distmap")

#: Seconds between two drawings: eyes follow ten a second.
EVERY = 0.1
#: Turns that the thread stays without a view: a loop of short calls must not start one for each of them.
IDLE_TURNS = 3


class Painted(Protocol):
    """What is drawn: the view of a job, or the card of a cell."""

    def update(self, snapshot: Snapshot) -> None:
        """Show this moment."""


class _Shown:
    __slots__ = ("look", "seen", "view")

    def __init__(self, view: Painted, look: Callable[[], Snapshot | None]) -> None:
        self.view = view
        self.look = look
        self.seen: Snapshot | None = None


class Painter:
    """Draws views in turn, in a thread that is there as long as there are any."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._turns: deque[_Shown] = deque()
        self._changed = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, view: Painted, look: Callable[[], Snapshot | None]) -> None:
        """Draw the view from now on, whenever `look()` has a new snapshot."""
        with self._changed:
            self._turns.append(_Shown(view, look))
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="distmap-painter", daemon=True)
                self._thread.start()

    def remove(self, view: Painted) -> None:
        """Draw it no more; a drawing that has begun may still end."""
        with self._changed:
            for shown in self._turns:
                if shown.view is view:
                    self._turns.remove(shown)
                    break

    def _main(self) -> None:
        idle = 0
        while True:
            time.sleep(self._every)
            with self._changed:
                idle = 0 if self._turns else idle + 1
                if idle == IDLE_TURNS:
                    self._thread = None
                    return
            self._paint_one()

    def _paint_one(self) -> None:
        """Draw the next view that has something new."""
        with self._changed:
            waiting = list(self._turns)
        for shown in waiting:
            snapshot = shown.look()
            if snapshot is None or snapshot is shown.seen:
                continue
            shown.seen = snapshot
            with self._changed:
                if shown in self._turns:  # to the end of the queue
                    self._turns.remove(shown)
                    self._turns.append(shown)
            try:
                shown.view.update(snapshot)
            except Exception:  # a front end that fails must cost nobody his results
                log.exception("! a view failed; it is drawn no more")
                self.remove(shown.view)
            return


#: The one of this process.
PAINTER = Painter()
