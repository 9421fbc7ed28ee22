"""Results that an iterator is giving away, a block at a time.

Owns who has taken which value, and what is to be reported as consumed. `stream.py` decodes results and reports. Any
thread may take a value; the other methods are called under the lock of the iterator. Must not know the driver.
"""

from __future__ import annotations

from typing import Any

from distmap.core.limits import LIMITS

#: No value is there yet.
NOTHING = object()
#: Items and bytes of nothing.
FREE = (0, 0)


class Run:
    """Results of one message. They are given away the last one first: who has taken one is the only one who has it.

    Each block is reported as consumed when all of it was taken. So the loop learns how fast the consumer is, long
    before it has taken the many results that one message may hold.

    Args:
        message: where they come from, until it is off the box.
        given: the values, the last one first; the run changes this list.
        cost: items and bytes of all of them.
        known: they were in the checkpoint of the call.
    """

    __slots__ = ("_all", "_given", "cost", "known", "left", "message", "values")

    def __init__(
        self,
        message: object = None,
        given: list[Any] | None = None,
        cost: tuple[int, int] = FREE,
        *,
        known: bool = False,
    ) -> None:
        self.message = message
        self.known = known
        #: The block that is given away now; items and bytes that are to be reported when all of it was taken.
        self.values: list[Any] = []
        self.cost = FREE
        # Values of later blocks; there may be older ones behind them.
        self._given = given if given is not None else []
        self._all = cost
        #: How many values later blocks have.
        self.left = len(self._given)

    def take(self) -> Any:
        """The next value of the block, for any thread; NOTHING if all were taken."""
        try:
            return self.values.pop()
        except IndexError:
            return NOTHING

    def rest(self, most: int) -> Run:
        """The next block. This run stays as it is until `trim` of the block is called."""
        block, (items, nbytes) = Run(self.message, self._given, self._all, known=self.known), self._all
        block.left = lo = max(0, self.left - most)
        block.values = self._given[lo : self.left]
        block.cost = self.left - lo, nbytes * self.left // items - nbytes * lo // items
        return block

    def trim(self) -> None:
        """Keep no reference to values of this block and of earlier ones: whoever takes them has the only one."""
        del self._given[self.left :]


class BlockSize:
    """The size of the next block: what the consumer takes in `consumed_every` seconds, at least one item."""

    __slots__ = ("_began", "_items")

    def __init__(self) -> None:
        self._items = 1
        self._began = 0.0

    def begin(self, now: float) -> int:
        """The most items of the block that is given away from now on."""
        self._began = now
        return self._items

    def taken(self, items: int, now: float, *, more: bool) -> None:
        """The consumer has taken the block, which had so many items. `more`: results of the same message are left."""
        seconds = now - self._began
        if seconds > 2 * LIMITS.consumed_every:
            self._items = max(1, int(items * LIMITS.consumed_every / seconds))
        elif more and seconds < LIMITS.consumed_every / 2:
            self._items = 4 * items
