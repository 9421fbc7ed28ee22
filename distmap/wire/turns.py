"""Whose turn it is: which of the messages that may be sent the next frame is cut of.

Owns the queues of messages whose way is free (`order.py` says when it is). It must not know frames, numbers or
credits. Read by `session.py`.

Messages without parts ("control") go before all data. Turns of data alternate between the oldest stream and the one
with the least left: a small message does not wait behind a large one, equal ones follow each other (the first of four
tasks starts after one task's time, not after four), and none starves.
"""

from __future__ import annotations

import heapq
from collections import deque

from distmap.wire.streams import Outgoing


class Turns:
    """Messages that wait for their next frame."""

    __slots__ = ("_by_age", "_by_left", "_control", "_oldest_next")

    def __init__(self) -> None:
        self._control: deque[Outgoing] = deque()
        # Data, twice: by age and by what is left. An entry that the other queue finished or moved on is stale.
        self._by_age: deque[Outgoing] = deque()
        self._by_left: list[tuple[int, int, Outgoing]] = []
        self._oldest_next = True

    def add(self, entry: Outgoing) -> None:
        """Take a message of which nothing has been cut."""
        if entry.control:
            self._control.append(entry)
        else:
            self._by_age.append(entry)
            self.put_back(entry)

    def put_back(self, entry: Outgoing) -> None:
        """A frame has been cut of the data, and more is left."""
        heapq.heappush(self._by_left, (entry.left, entry.stream, entry))

    def waiting(self, *, data: bool) -> bool:
        """Whether there may be a turn: of control, or of data too. Never false for one."""
        return bool(self._control or (data and self._by_age))

    def next(self, *, data: bool) -> Outgoing | None:
        """The message whose turn it is; None if there is none, or only data and that may not go."""
        if self._control:
            return self._control.popleft()
        if not data:
            return None
        while self._by_age and not self._by_age[0].left:
            self._by_age.popleft()
        while self._by_left and self._by_left[0][0] != self._by_left[0][2].left:
            heapq.heappop(self._by_left)
        if not self._by_age:
            return None
        self._oldest_next = not self._oldest_next
        return self._by_left[0][2] if self._oldest_next else self._by_age[0]
