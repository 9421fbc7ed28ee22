"""How fast a consumer takes results, and so how far ahead of it a stream may be.

Owns the arithmetic only. Takes and returns numbers: time is an argument. Must not know jobs or chunks; `records.py`
turns the pace into a window of items.
"""

from __future__ import annotations

from distmap.tasks._records import Record


class ConsumerPace(Record):
    """Items that a consumer takes in a time, as measured recently, while there were results to be taken.

    Time in which it waited for results does not count: it says nothing about the consumer.
    """

    items: float = 0.0
    seconds: float = 0.0
    #: Since when results have waited for it, or when it took some last.
    since: float = 0.0

    def waits(self, now: float) -> None:
        """The first results wait for it since `now`: before, there were none."""
        self.since = now

    def took(self, items: int, now: float, horizon: float) -> None:
        """It has taken `items` until `now`. What it did more than about `horizon` seconds ago fades."""
        self.items += items
        self.seconds += now - self.since
        self.since = now
        if self.seconds > horizon:
            self.items *= horizon / self.seconds
            self.seconds = horizon

    def items_in(self, seconds: float) -> float | None:
        """Items that it takes in so many seconds; None if it has not taken any yet."""
        if not self.items:
            return None
        return self.items * seconds / self.seconds if self.seconds else float("inf")
