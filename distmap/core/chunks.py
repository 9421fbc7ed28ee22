"""The size of chunks: how many items are sent together.

Owns the arithmetic: measured seconds per item, guided self-scheduling (a share of what remains), and the limits on
growth and bytes. Takes and returns numbers; must not know jobs or workers.
"""

from __future__ import annotations

import math

from distmap.core.limits import Limits
from distmap.tasks._records import Record

#: Weight of a new measurement, from 0 to 1.
NEW_WEIGHT = 0.5
#: Least seconds that an item counts, so that sizes stay finite.
MIN_ITEM_SECONDS = 1e-9


class ItemTime(Record):
    """Seconds per item, as measured recently; None before the first measurement.

    It is a mean of logarithms: so one item that is 100,000 times slower than the rest (the first one, which imports a
    library) is forgotten after a few reports instead of dozens.
    """

    seconds: float | None = None

    def add(self, items: int, seconds: float) -> float:
        """Learn from a report of `items` that took `seconds`; return the new figure."""
        mean = max(seconds / items, MIN_ITEM_SECONDS)
        if self.seconds is not None:
            mean = math.exp((1 - NEW_WEIGHT) * math.log(self.seconds) + NEW_WEIGHT * math.log(mean))
        self.seconds = mean
        return mean


def seconds_of_work(limits: Limits, rtt: float, ahead: float, dispatch: float, slots: int) -> tuple[float, float]:
    """Seconds of work that a chunk for a worker aims at; those below which it is not made smaller for balance.

    Args:
        limits: The numbers.
        rtt: Round trip to the worker, in seconds.
        ahead: Seconds of work that are sent ahead to each of its slots, in a bounded number of chunks.
        dispatch: Seconds that a chunk costs the loop.
        slots: Slots that share the items.
    """
    turn = slots * dispatch
    worth = max(limits.chunk_dispatches * dispatch, limits.chunk_turns * turn)
    aim = max(limits.chunk_seconds, limits.chunk_round_trips * rtt, worth, 2 * ahead / limits.ahead_chunks)
    return aim, max(limits.chunk_floor_seconds, rtt, turn)


def chunk_size(
    limits: Limits,
    *,
    item_time: float | None,
    aim: float,
    floor: float,
    largest: int,
    left: int | None,
    slots: int,
    item_bytes: float,
) -> int:
    """Items of the next chunk for one worker; at least 1.

    Args:
        limits: The numbers.
        item_time: Seconds per item; None before the first measurement, for which one item is sent.
        aim: Seconds of work that it should have.
        floor: Seconds of work below which it is not made smaller for balance.
        largest: Items that are no too large step for this worker, if more than `limits.growth`.
        left: Items of the job that do not run yet; None if unknown.
        slots: Slots that share them.
        item_bytes: Input bytes per item.
    """
    if item_time is None:
        return 1
    want = min(aim / item_time, max(limits.growth, largest), limits.chunk_items)
    if left is not None:
        # A share of what remains lets all slots end together; but no chunk costs more to send than it gains.
        want = min(want, max(left / (limits.remaining_share * max(1, slots)), floor / item_time))
    if item_bytes > 0:
        want = min(want, limits.chunk_bytes / item_bytes)
    return max(1, int(want * (1 + 1e-9)))


def unmeasured_size(limits: Limits, *, total: int, slots: int, item_bytes: float) -> int:
    """Items of a chunk that waits behind the first item of its slot, before any item was measured; at least 1.

    Should the first item be a long one, the chunk can go to another slot, or come back but for one item. So it may be
    as large as the usual share of what there is.
    """
    share = min(-(-total // (limits.remaining_share * max(1, slots))), limits.unmeasured_items)
    return max(1, share if item_bytes <= 0 else min(share, int(limits.unmeasured_bytes / item_bytes)))


def cut(length: int, want: int, nbytes: int, slots: int) -> int:
    """The number of items, of a queued span of `length`, that go to a slot that should get `want`.

    A span that is a little too long is not cut: each piece costs a message. The whole input of the chunk is sent with
    every piece, so a chunk over 1 MB is cut into no more pieces than there are slots.
    """
    if length < 2 * want:
        return length
    if nbytes > 1 << 20:
        return max(want, -(-length // max(1, slots)))
    return want
