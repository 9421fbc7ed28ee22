"""The end of a pool: begun once, from any thread, and carried through by the loop itself.

Owns the order in which driver, engines, callbacks and loop end. If a waiting `terminate()` is interrupted, the pool
still ends completely. It is the pool's finalizer too, so it must not refer to the pool.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distmap.core.limits import LIMITS
from distmap.errors import PoolClosed

if TYPE_CHECKING:
    import asyncio

    from distmap.calls.serving import Serving
    from distmap.calls.submissions import Submissions
    from distmap.driver.driver import Driver
    from distmap.driver.portal import Portal
    from distmap.engine.base import Part

#: What is said of a pool that was not ended by a call.
FORGOTTEN = "forgotten: nothing refers to it any more, or Python ends"


class Ending:
    """Ends a pool."""

    def __init__(self, portal: Portal, driver: Driver, engines: list[Part], submissions: Submissions) -> None:
        self._pid = os.getpid()
        self._portal = portal
        self._driver = driver
        self._engines = engines
        self._submissions = submissions
        self._task: asyncio.Task[None] | None = None
        self._why = ""
        self._errors: list[Exception] = []
        #: True from the moment on when nothing can be begun any more.
        self.begun = False

    async def add(self, engine: Part) -> None:
        """On the loop: start one more engine, which ends with the others.

        Raises:
            PoolClosed: they have ended, or will just now.
        """
        if self.begun:
            raise PoolClosed(f"Pool not running: it was {self._why}; make a new one")
        self._engines.append(engine)
        await engine.start(self._driver)

    def begin(self, why: str) -> None:
        """Stop everything, in a moment; from any thread, as often as wanted. Does not wait.

        Args:
            why: for the messages of what is cut short: "closed at script.py:12".
        """
        if os.getpid() != self._pid:
            return  # a forked child: the pool is its parent's
        self._why = self._why or why
        self.begun = True
        self._portal.call(self._start)

    def when_idle(self) -> None:
        """Begin when the last job is over. Does not wait."""
        self._portal.call(self._driver.when_idle, self._start)

    def end(self, why: str = FORGOTTEN) -> None:
        """Begin, and wait at most LIMITS.end_wait seconds.

        Raises:
            Exception: what the first engine that could not be closed raised.
        """
        self.begin(why)
        self.wait(LIMITS.end_wait)

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end, and for the callbacks of results that are there."""
        # On the loop, where the garbage collector happened to run, nothing may wait.
        if os.getpid() == self._pid and not self._portal.inside() and self._portal.join(timeout):
            self._submissions.join()
            if self._errors:
                raise self._errors.pop()

    def _start(self) -> None:
        """On the loop."""
        self.begun = True
        if self._task is None:
            self._task = self._portal.loop.create_task(self._close())
            self._task.add_done_callback(self._over)

    async def _close(self) -> None:
        self._driver.close(self._why)
        for engine in self._engines:
            try:
                await engine.close(now=True)
            except Exception as error:  # the others are to end all the same
                self._errors.append(error)

    def _over(self, _: object) -> None:
        self._submissions.stop()
        self._portal.stop()


def finish_streams(servings: Sequence[tuple[object, Serving]]) -> None:
    """Before a join: streams end without a consumer. Their results can still be iterated over afterwards."""
    from distmap.calls.stream import StreamServing

    for _, serving in servings:
        if isinstance(serving, StreamServing):
            serving.finish()


def join_threads(servings: Sequence[tuple[object, Serving]]) -> None:
    """Wait for the threads of jobs; for use in any other thread."""
    for _, serving in servings:
        if serving.thread is not None and serving.thread is not threading.current_thread():
            serving.over.wait()  # first: an interrupted Thread.join takes a thread that runs for one that has ended
            serving.thread.join()
