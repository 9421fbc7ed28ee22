"""Code of jobs that are over, kept for a moment: the next job of the same function need not send and load it again.

Owns which code that is, and until when. Must not know jobs or workers: `Blobs` holds the bytes, and lets the workers
forget them. Only code that keeps no state is kept. On the loop's thread.
"""

from __future__ import annotations

import asyncio
import itertools

from distmap.core.limits import LIMITS
from distmap.driver.blobs import Blobs, Holder
from distmap.tasks.code import Code
from distmap.tasks.payload import Blob


class RecentCodes:
    """The code of the last jobs, until `LIMITS.recent_seconds` after the end of its last job."""

    def __init__(self, loop: asyncio.AbstractEventLoop, blobs: Blobs) -> None:
        self._loop = loop
        self._blobs = blobs
        #: Digest of the code -> who holds it in the place of a job, and until when (loop time).
        self._kept: dict[bytes, tuple[Holder, float]] = {}
        self._serials = itertools.count(1)
        self._timer: asyncio.TimerHandle | None = None

    def keep(self, code: Code) -> None:
        """A job of the code is over, whose blobs are still held."""
        known = self._kept.pop(code.digest, None)  # what is kept for the longest goes first
        if known is None:
            holder = Holder(-next(self._serials))  # no job has such a number
            self._blobs.keep(holder, (*code.blobs, Blob(code.digest, "code", code.payload)))
            if len(self._kept) >= LIMITS.recent_codes:
                self._blobs.let_go(self._kept.pop(next(iter(self._kept)))[0])
        else:
            holder = known[0]
        self._kept[code.digest] = holder, self._loop.time() + LIMITS.recent_seconds
        if self._timer is None:
            self._timer = self._loop.call_later(LIMITS.recent_seconds, self._look)

    def clear(self) -> None:
        """Let go of all of it now."""
        for holder, _ in self._kept.values():
            self._blobs.let_go(holder)
        self._kept.clear()

    def stop(self) -> None:
        """The pool ends, and all blobs with it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._kept.clear()

    def _look(self) -> None:
        """Let go of what nobody called for long; look again when the next one will be due."""
        self._timer = None
        now = self._loop.time()
        for digest, (holder, until) in list(self._kept.items()):
            if until > now:
                self._timer = self._loop.call_at(until, self._look)
                return
            del self._kept[digest]
            self._blobs.let_go(holder)
