"""One thread that updates all views that draw.

Owns when views are drawn. Each tenth of a second it updates one view: a single view is drawn ten times a second, each
of five views twice. So a kernel sends the same few messages a second however many jobs it runs, and views stay live
while the calling thread unpickles, folds or waits for a slow input.
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

#: Seconds between two drawings: more than ten a second cannot be seen.
EVERY = 0.1
#: Turns for which the thread stays without a view: a loop of short calls must not start one for each call.
IDLE_TURNS = 3


class Refreshed(Protocol):
    """What is drawn: the view of a job, or the card of a cell."""

    def update(self, snapshot: Snapshot) -> None:
        """Show this moment."""


class _Registration:
    __slots__ = ("shown", "snapshot_of", "view")

    def __init__(self, view: Refreshed, snapshot_of: Callable[[], Snapshot | None]) -> None:
        self.view = view
        self.snapshot_of = snapshot_of
        self.shown: Snapshot | None = None


class RefreshThread:
    """Updates views in turn, in a thread that runs as long as there are any."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        #: Guards the queue and the thread. Not held while a view is updated, which may take long.
        self._lock = threading.Lock()
        self._queue: deque[_Registration] = deque()
        self._thread: threading.Thread | None = None

    def add(self, view: Refreshed, snapshot_of: Callable[[], Snapshot | None]) -> None:
        """From now on update the view whenever `snapshot_of()` returns a new snapshot. Any thread may call."""
        with self._lock:
            self._queue.append(_Registration(view, snapshot_of))
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="distmap-refresh", daemon=True)
                self._thread.start()

    def remove(self, view: Refreshed) -> None:
        """Update the view no more. An update that has begun goes on: the view's own lock must order the two."""
        with self._lock:
            for entry in self._queue:
                if entry.view is view:
                    self._queue.remove(entry)
                    break

    def _main(self) -> None:
        idle = 0
        while True:
            time.sleep(self._every)
            with self._lock:
                idle = 0 if self._queue else idle + 1
                if idle == IDLE_TURNS:
                    self._thread = None
                    return
            self._update_one()

    def _update_one(self) -> None:
        """Update the next view that has something new."""
        with self._lock:
            waiting = list(self._queue)
        for entry in waiting:
            snapshot = entry.snapshot_of()
            if snapshot is None or snapshot is entry.shown:
                continue
            entry.shown = snapshot
            with self._lock:
                if entry in self._queue:  # to the end of the queue
                    self._queue.remove(entry)
                    self._queue.append(entry)
            try:
                entry.view.update(snapshot)
            except Exception:  # a front end that fails must not cost the user any result
                log.exception("! a view failed; it is drawn no more")
                self.remove(entry.view)
            return


#: The one of this process.
REFRESH_THREAD = RefreshThread()
