"""The tries of a worker to find a pool that is not there.

Owns their pauses, their lines in the log and their end. It must not know how a pool is dialled.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from distmap.core.limits import Limits
from distmap.transport.channel import Connection
from distmap.transport.dial import nothing_listens
from distmap.transport.jupyter_url import proxied_port
from distmap.transport.redial import Route, delays, pause
from distmap.transport.url import WorkerURL

log = logging.getLogger("distmap.worker")


class Trying:
    """The tries from one connection to the next.

    Args:
        url: Where the pool is dialled.
        retry: Seconds after which the tries end; None: never.
        limits: Pauses.
        idle: Seconds after which tries through the proxy of a Jupyter server become rare, most of all where each keeps
            a user's server alive: it runs, and has no pool. None: never.
        last: The last connection to the pool.
        clock: Tells seconds; None: that of the loop.
    """

    def __init__(
        self,
        url: WorkerURL,
        retry: float | None,
        limits: Limits,
        *,
        idle: float | None = None,
        last: Connection | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._url = url
        self._retry = retry
        self._limits = limits
        self._idle = None if proxied_port(url) is None else idle
        self._route = Route(None if last is None else last.remote)
        self._pauses = delays()
        self._clock = clock or asyncio.get_running_loop().time
        self._began = self._clock()
        self._said_at, self._said = -math.inf, ""
        # Since when the host has answered that nobody listens there.
        self._refused_since: float | None = None

    def in_vain(self, error: Exception) -> bool:
        """Say why the pool is not there: at first, when the reason changes, and now and then. Whether to give up."""
        now = self._clock()
        waited, long = now - self._began, "for ever" if self._retry is None else f"for {self._retry:g} s"
        if self._retry is not None and waited >= self._retry:
            log.error("no pool at %s for %.0f s, giving up: %s", self._url, waited, error)
            return True
        if str(error) != self._said:
            log.warning("%s; trying again %s", error, long)
        elif now - self._said_at >= self._limits.redial_log:
            log.warning("no pool at %s for %.0f s; trying again %s", self._url, waited, long)
        else:
            return False
        self._said, self._said_at = str(error), now
        return False

    async def pause(self, error: Exception | None = None) -> None:
        """Wait until the next try: never long where a kernel that restarts will listen again."""
        await pause(self.seconds(error), self._route)

    def seconds(self, error: Exception | None = None) -> float:
        """How long the next pause is."""
        now, seconds = self._clock(), next(self._pauses)
        if error is None or not nothing_listens(error):
            self._refused_since = None
            if self._idle is not None and now - self._began >= self._idle:
                # A hub whose user's server does not run, perhaps for days.
                seconds = max(seconds, self._limits.redial_hub)
        else:
            seconds = min(seconds, self._limits.redial_refused)
            if self._refused_since is None:
                self._refused_since = now
            waited = now - self._refused_since
            if self._idle is not None and waited >= self._idle:
                seconds = max(seconds, min(waited / 2, self._limits.call_most))
        if self._retry is not None:
            seconds = min(seconds, max(0.05, self._began + self._retry - now))
        return seconds
