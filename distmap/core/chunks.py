"""How many items go together.

Owns the arithmetic of chunk sizes: seconds per item as measured, guided self-scheduling (a share of what remains),
and the limits on growth and bytes. Pure numbers in, a number out; knows no job and no worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from distmap.core.limits import Limits

#: Weight of a new measurement.
NEW_WEIGHT = 0.5
#: An item never counts as faster than this, so that sizes stay finite.
MIN_ITEM_SECONDS = 1e-9


@dataclass(slots=True)
class ItemTime:
    """Seconds per item, as measured of late; None before the first measurement.

    The mean is taken of logarithms: one item that is 100,000 times slower than the rest (the first one, which loads
    a library) is forgotten after a handful of reports instead of dozens.
    """

    seconds: float | None = None

    def add(self, items: int, seconds: float) -> float:
        """Learn from a report of so many items that took so long; gives the new figure."""
        mean = max(seconds / items, MIN_ITEM_SECONDS)
        if self.seconds is not None:
            mean = math.exp((1 - NEW_WEIGHT) * math.log(self.seconds) + NEW_WEIGHT * math.log(mean))
        self.seconds = mean
        return mean


def size(
    limits: Limits,
    *,
    item_time: float | None,
    rtt: float,
    largest: int,
    left: int | None,
    slots: int,
    item_bytes: float,
) -> int:
    """Items of the next chunk for one worker; at least 1.

    Args:
        limits: The numbers.
        item_time: Seconds per item; None when nothing was measured: one item finds out.
        rtt: Round trip to the worker, in seconds.
        largest: The largest chunk that this worker finished for the job.
        left: Items that are not running yet, in all; None when nobody knows.
        slots: Slots that share them.
        item_bytes: Input bytes per item.
    """
    if item_time is None:
        return 1
    aim = max(limits.chunk_seconds, limits.chunk_round_trips * rtt)
    want = min(aim / item_time, limits.growth * max(1, largest), limits.chunk_items)
    if left is not None:
        # Guided: the tail stays balanced, but no chunk is so short that its dispatch costs more than it balances.
        floor = max(limits.chunk_floor_seconds, rtt)
        want = min(want, max(left / (limits.remaining_share * max(1, slots)), floor / item_time))
    if item_bytes > 0:
        want = min(want, limits.chunk_bytes / item_bytes)
    return max(1, int(want * (1 + 1e-9)))


def cut(length: int, want: int, nbytes: int, slots: int) -> int:
    """How much of a queued span of `length` items goes to a place that wants `want`.

    A little too long is left whole: a cut costs a dispatch. The chunk's whole input travels with every piece, so a
    heavy one (over 1 MB) is cut into no more pieces than there are slots.
    """
    if length < 2 * want:
        return length
    if nbytes > 1 << 20:
        return max(want, -(-length // max(1, slots)))
    return want
