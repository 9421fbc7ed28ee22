"""One bar in a terminal, by tqdm.

Owns the bar's format. The only importer of tqdm. Items, rate and time left are those of the snapshot (they count items
inside chunks, and only this job's running time), never tqdm's own estimates.
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
from distmap.views.base import QUICK, Issue, TextSink, write_text
from distmap.views.words import (
    as_ended,
    counted,
    held_up,
    live_workers,
    out_of_reach,
    printable,
    problems,
    rate_of,
    rate_words,
    recalled,
)

_KNOWN = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{took}<{left}{facts}]"
_UNKNOWN = "{desc}: {n_fmt} [{took}{facts}]"

#: Seconds between two drawings: in a terminal every update, in a log file seldom, as each drawing there is a line.
_TERMINAL_EVERY = 0.09
_FILE_EVERY = 10.0


class _Bar(tqdm):  # type: ignore[type-arg]
    """tqdm, fed from snapshots."""

    # No thread of tqdm's: nothing draws but `show`.
    monitor_interval = 0

    def __init__(self, snapshot: Snapshot, **options: Any) -> None:
        # First, as tqdm's own constructor draws.
        self.snapshot = snapshot
        super().__init__(total=snapshot.total, initial=snapshot.done, **options)

    def show(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.total = snapshot.total
        self.n = snapshot.done
        self.refresh()

    @property
    def format_dict(self) -> Any:
        s = self.snapshot
        left = 0.0 if s.state == "done" else s.eta
        return {
            **super().format_dict,
            "took": self.format_interval(s.elapsed),
            "left": "?" if left is None else self.format_interval(left),
            "facts": printable("".join(f", {fact}" for fact in facts(s))),
            "bar_format": _UNKNOWN if s.total is None else _KNOWN,
        }


# tqdm's own lock would make a semaphore of multiprocessing, and with it, on some platforms, a helper process.
_Bar.set_lock(threading.RLock())


def _size_options(file: TextIO) -> dict[str, Any]:
    """tqdm's options for the width of the bar."""
    try:
        known = all(os.get_terminal_size(file.fileno()))
    except (AttributeError, OSError, ValueError):
        known = True  # no terminal: tqdm has a default for that
    # In a terminal without columns or lines (a container's, a recorder's) tqdm would draw nothing.
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


def facts(snapshot: Snapshot) -> list[str]:
    """What follows the times: rate, workers, and what went wrong."""
    words = [
        recalled(snapshot),
        rate_words(rate_of(snapshot)),
        counted(live_workers(snapshot), "worker"),
        *problems(snapshot),
    ]
    words += out_of_reach(snapshot) + held_up(snapshot)
    if snapshot.state not in ("running", "done"):
        words.insert(0, snapshot.state)
    return [word for word in words if word]


_VERBS = {
    "failed": "failed",
    "retried": "is run again",
    "died": "ended its process",
    "lost": "was lost",
    "left out": "is left out",
}


def issue_line(issue: Issue) -> str:
    """An issue as a line of text."""
    if issue.kind == "note":
        return issue.text
    if issue.item is None:
        return f"worker {issue.worker} {_VERBS[issue.kind]}: {issue.text}"
    where = f" on {issue.worker}" if issue.worker else ""
    attempt = f", attempt {issue.attempt}" if issue.attempt else ""
    return f"item {issue.item} {_VERBS[issue.kind]}{where}{attempt}: {issue.text}"


class TerminalView(TextSink):
    """A tqdm bar on stderr, with issues above it. A quick call without problems shows nothing.

    The refresh thread updates it; other threads add issues, write and close: the lock keeps their output apart.
    """

    drawn = True

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
        self._lock = threading.Lock()

    def update(self, snapshot: Snapshot) -> None:
        now = self._now()
        with self._lock:
            if not self._closed and snapshot.elapsed >= QUICK and now - self._shown >= self._every:
                self._shown = now
                self._draw(snapshot)

    def add_issue(self, issue: Issue) -> None:
        with self._lock:
            if not self._closed:
                self._write(issue_line(issue))

    def write(self, text: str, stream: str) -> None:
        with self._lock:
            # Only in a terminal the bar is taken away and drawn again: in a file each drawing is a line that stays.
            if self._bar is not None and self._file.isatty():
                with _Bar.external_write_mode(file=getattr(sys, stream)):
                    write_text(text, stream)
            else:
                write_text(text, stream)

    def close(self, snapshot: Snapshot, dropped: int = 0) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if dropped:
                self._write(f"and {counted(dropped, 'more line')}")
            quick = snapshot.elapsed < QUICK and snapshot.state == "done" and not problems(snapshot)
            if self._bar is not None or not quick:
                self._draw(as_ended(snapshot)).close()
                self._bar = None

    def _write(self, text: str) -> None:
        _Bar.write(printable(text).replace("\n", " "), file=self._file)

    def _draw(self, snapshot: Snapshot) -> _Bar:
        if self._bar is None:
            self._bar = _Bar(snapshot, desc=self._title, file=self._file, **_size_options(self._file))
        else:
            self._bar.show(snapshot)
        return self._bar
