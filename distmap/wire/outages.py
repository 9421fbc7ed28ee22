"""How much work a worker should have in hand, so that its slots go on while its connection does not.

Owns the rule: seconds of work, from the round trips and the outages of one connection. Pure; time enters as an
argument. It must not know slots or chunks: `core/placing.py` turns the seconds into chunks.
"""

from __future__ import annotations

from collections.abc import Collection

from distmap.core.limits import LIMITS, Limits
from distmap.tasks._typing import NamedTuple


class Outage(NamedTuple):
    """A time in which a connection was out of reach: when it ended (monotonic seconds), and how long it was."""

    ended: float
    seconds: float


def send_ahead(
    round_trips: Collection[float], outages: Collection[Outage], now: float, limits: Limits = LIMITS
) -> float:
    """Seconds of work that each slot should hold beyond what runs; 0: what is always sent is enough.

    It covers the longest outage of the last minutes, and the longest of the last round trips. A round trip that is
    covered by the one chunk that waits at a slot anyway does not count.

    Args:
        round_trips: The last round trips, in seconds.
        outages: What is known of outages; old ones are ignored.
        now: Monotonic seconds.
        limits: The numbers.
    """
    longest = max(round_trips, default=0.0)
    shortest = min(round_trips, default=0.0)
    if longest <= max(limits.chunk_seconds, limits.chunk_round_trips * shortest):
        longest = 0.0
    recent = [outage.seconds for outage in outages if now - outage.ended <= limits.outage_memory]
    if recent:
        # Results come back, and new work goes out, a round trip after the connection is there again.
        longest = max(longest, max(recent) + max(round_trips, default=0.0))
    return min(longest, limits.ahead_seconds)
