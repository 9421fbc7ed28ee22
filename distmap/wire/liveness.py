"""How long the other side has been silent, when our next heartbeat is due, and how long a round trip takes.

Owns three clocks of a session. It must not know frames or channels: `session.py` reports what came in. Silence counts
on while there is no channel, so that `reconnect_grace` bounds both. Time enters as an argument.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from distmap.core.limits import Limits

Liveness = Literal["fine", "suspect", "lost"]

#: Round trips of which the shortest counts: the others waited behind data. With a ping a heartbeat they are those of
#: the last half minute; nothing is bounded by the number.
_ROUND_TRIPS = 6


class PeerClock:
    """When the other side was last heard, and what is due."""

    def __init__(self, now: float, limits: Limits) -> None:
        self._limits = limits
        self._heard = self._looked = self._beat = now
        # When the caller was last found to have been starved.
        self._starved = now
        self._round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS)

    def heard(self, now: float) -> None:
        """Something came in at that time; any byte is a sign of life."""
        self._heard = max(self._heard, now)

    def liveness(self, now: float) -> Liveness:
        """The judgement on the present silence. Call it more often than every `beat_every`, with or without a channel.

        A caller that comes late was starved itself (a suspended laptop, a stopped process), and what the peer sent
        meanwhile may still wait in the socket, or its new channel in the listener: the silence is then counted afresh.
        """
        limits = self._limits
        if now - self._looked > limits.beat_every:
            self._starved = now
            self.heard(now)
        self._looked = now
        silence = now - self._heard
        if silence >= limits.reconnect_grace:
            return "lost"
        return "suspect" if silence >= limits.suspect_after else "fine"

    def beat_due(self, now: float) -> bool:
        """Whether it is time for a heartbeat; True once every `beat_every`."""
        if now - self._beat < self._limits.beat_every:
            return False
        self._beat = now
        return True

    def returned(self, sent: float, now: float) -> None:
        """A ping of our own came back. `sent` is the time that the other side echoed: by a lie it harms only itself.

        One that was under way while the caller was starved does not count: it would take as long as that.
        """
        if sent >= self._starved and now - self._looked <= self._limits.beat_every:
            self._round_trips.append(max(0.0, now - sent))

    @property
    def round_trips(self) -> tuple[float, ...]:
        """The last round trips in seconds."""
        return tuple(self._round_trips)

    @property
    def rtt(self) -> float | None:
        """The shortest of the last round trips in seconds; None before the first."""
        return min(self._round_trips) if self._round_trips else None
