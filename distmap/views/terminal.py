"""One bar in a terminal, by tqdm.

Owns the bar's format. The only importer of tqdm. Items, rate and time left are the snapshot's (they count items inside
chunks, and only this job's running time), never tqdm's own estimate.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from distmap.core.progress import Snapshot
from distmap.views.outlet import plain
from distmap.views.static import clock, ended, pace, printable, troubles, working

_KNOWN = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}{postfix}]"
_UNKNOWN = "{desc}: {n_fmt} [{elapsed}, {rate_fmt}{postfix}]"

#: Seconds between two drawings: smooth in a terminal, seldom in a log file, where each one is a line that stays.
_TERMINAL_EVERY = 0.1
_FILE_EVERY = 10.0


class _Bar(tqdm):  # type: ignore[type-arg]
    """tqdm, fed from snapshots."""

    # No watching thread: every drawing is asked for.
    monitor_interval = 0

    def __init__(self, snapshot: Snapshot, **options: Any) -> None:
        # Before tqdm's own, which draws at once.
        self.snapshot = snapshot
        super().__init__(total=snapshot.total, initial=snapshot.done, postfix=postfix(snapshot), **options)

    def show(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.total = snapshot.total
        self.n = snapshot.done
        self.set_postfix_str(postfix(snapshot), refresh=False)
        self.refresh()

    @property
    def format_dict(self) -> Any:
        s = self.snapshot
        rate = pace(s)
        left = "?" if s.eta is None else clock(s.eta)
        return {
            **super().format_dict,
            "elapsed": s.elapsed,
            "rate": rate if rate > 0 else None,
            "left": left if s.state == "running" else clock(0),
            "bar_format": _UNKNOWN if s.total is None else _KNOWN,
        }


# tqdm's own lock would make a semaphore of multiprocessing, and with it, on some platforms, a helper process.
_Bar.set_lock(threading.RLock())


def _size(file: TextIO) -> dict[str, Any]:
    """How tqdm shall find the width."""
    try:
        known = all(os.get_terminal_size(file.fileno()))
    except (AttributeError, OSError, ValueError):
        known = True  # no terminal: tqdm has an answer to that
    # In a terminal that says it has no columns or lines (a container's, a recorder's) it would draw nothing.
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


def postfix(snapshot: Snapshot) -> str:
    """Workers, and what went not as planned, after the rate."""
    n = working(snapshot)
    words = [f"{n} worker{'' if n == 1 else 's'}", *troubles(snapshot)]
    if snapshot.state in ("paused", "cancelled", "failed"):
        words.insert(0, snapshot.state)
    return ", ".join(words)


class TerminalView:
    """A tqdm bar on stderr; noted lines stand above it."""

    def __init__(
        self,
        title: str,
        *,
        file: TextIO | None = None,
        every: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = printable(title)
        self._file = file if file is not None else sys.stderr
        if every is None:
            every = _TERMINAL_EVERY if self._file.isatty() else _FILE_EVERY
        self._every = every
        self._now = now
        self._shown = -float("inf")
        self._bar: _Bar | None = None
        self._closed = False

    def update(self, snapshot: Snapshot) -> None:
        now = self._now()
        if self._closed or now - self._shown < self._every:
            return
        self._shown = now
        self._draw(snapshot)

    def note(self, text: str) -> None:
        if not self._closed:
            _Bar.write(printable(text), file=self._file)

    def write(self, text: str, stream: str) -> None:
        # Away and drawn again only in a terminal: in a file each drawing is a line that stays.
        if self._bar is not None and self._file.isatty():
            with _Bar.external_write_mode(file=getattr(sys, stream)):
                plain(text, stream)
        else:
            plain(text, stream)

    def close(self, snapshot: Snapshot) -> None:
        if self._closed:
            return
        self._closed = True
        self._draw(ended(snapshot)).close()
        self._bar = None

    def _draw(self, snapshot: Snapshot) -> _Bar:
        if self._bar is None:
            self._bar = _Bar(snapshot, desc=self._title, file=self._file, unit=" items", **_size(self._file))
        else:
            self._bar.show(snapshot)
        return self._bar
