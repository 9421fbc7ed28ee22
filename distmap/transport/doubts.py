"""Whether a connection that looks alive may be dead, so that another one should be tried beside it.

Owns the reasons for doubt: a silence that is longer than heartbeats are apart, what was sent and is not acknowledged
though the other side is heard (then only our direction is dead), and a machine that was suspended. It must not know
connections. Time enters as an argument, except that of a suspended machine, which only the system knows.
"""

from __future__ import annotations

import sys
import time

from distmap.core.limits import Limits


class Doubts:
    """Looks at one connection after the other. `look` is called a few times for each heartbeat."""

    def __init__(self, now: float, limits: Limits) -> None:
        self._limits = limits
        self._looked = self._heard = now
        self._slept = slept()
        self._oldest: int | None = None
        self._since = now
        #: Whether what was sent does not arrive, though the other side is heard.
        self.stuck = False

    def fresh(self, now: float) -> None:
        """A new connection is there."""
        self.heard(now)
        self._since, self.stuck = now, False

    def heard(self, now: float) -> None:
        """Something came in at that time."""
        self._heard = max(self._heard, now)

    def look(self, now: float, oldest: int | None = None) -> bool:
        """Whether there is reason for doubt. `oldest`: the oldest frame that was sent and is not acknowledged."""
        limits = self._limits
        if now - self._looked > limits.beat_every:
            # This side was starved. What came meanwhile still waits in the socket.
            self._heard = self._since = now
        if oldest is None or oldest != self._oldest:
            self._oldest, self._since = oldest, now
        self.stuck = now - self._since >= limits.stuck_after
        self._looked = now
        before, self._slept = self._slept, slept()
        # The other side, or a router, may have given the connection up meanwhile, and nothing tells us.
        suspended = self._slept - before > limits.beat_every
        return suspended or self.stuck or now - self._heard >= limits.doubt_after


def slept() -> float:
    """Seconds for which this machine has been suspended, from some beginning; 0 where the system does not say.

    The loop's clock stands still meanwhile on Linux and macOS, so that no timer of ours notices (cpython#106940).
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    if sys.platform == "darwin":
        # Unlike `time.monotonic`, this clock goes on there.
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.monotonic()
    return 0.0
