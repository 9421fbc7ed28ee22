"""The order in which accepted results go to the consumer.

Owns the two ways: at once, or in input order through a reorder buffer. Knows item indices only; the results themselves
are opaque. The buffer needs no limit of its own: only items that were read can be accepted, and the window on reading
(`JobRecord.room`) bounds those.
"""

from __future__ import annotations

from typing import Literal

from distmap.tasks._records import Record, field
from distmap.tasks._typing import NamedTuple

#: Why an item failed for good without a report of its own.
Cause = Literal["poison", "hosts", "timeout", "memory", "limit", "gone", "refused"]


class Accepted(NamedTuple):
    """Results [lo, hi) of a chunk, accepted from an attempt; or one item lost for good, for the `cause`."""

    chunk: int
    lo: int
    hi: int
    attempt: int
    cause: Cause | None = None


class Unordered(Record):
    """Delivers everything at once (list, unordered)."""

    def accept(self, index: int, accepted: Accepted) -> list[Accepted]:
        """Take results that begin at item `index`; return what may be delivered now, in order."""
        return [accepted]

    def drain(self) -> list[Accepted]:
        """Return what still waits, and keep nothing."""
        return []


class InOrder(Record):
    """Delivers nothing before all earlier items (ordered, fold)."""

    next: int = 0
    held: dict[int, Accepted] = field(default_factory=dict)

    def accept(self, index: int, accepted: Accepted) -> list[Accepted]:
        """Take results that begin at item `index`; return what may be delivered now, in order."""
        assert index >= self.next, "an item was accepted twice"
        assert index not in self.held, "an item was accepted twice"
        self.held[index] = accepted
        out = []
        while (run := self.held.pop(self.next, None)) is not None:
            out.append(run)
            self.next += run.hi - run.lo
        return out

    def drain(self) -> list[Accepted]:
        """Return what still waits, and keep nothing."""
        out = [self.held[index] for index in sorted(self.held)]
        self.held.clear()
        return out
