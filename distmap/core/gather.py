"""In which order accepted results go to the consumer.

Owns the two ways: as they are accepted, or in input order through a reorder buffer. Knows item indices only; what is handed
through is opaque. The buffer needs no limit of its own: only items that were read can are accepted, and the window on reading
(`JobRecord.room`) bounds those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

#: Why an item failed for good without a report of its own.
Cause = Literal["poison", "hosts", "timeout", "gone", "refused"]


class Accepted(NamedTuple):
    """Results [lo, hi) of a chunk, accepted from an attempt; or one item lost for good, for the `cause`."""

    chunk: int
    lo: int
    hi: int
    attempt: int
    cause: Cause | None = None


@dataclass(slots=True)
class Unordered:
    """Everything goes out at once (list, unordered)."""

    def accept(self, index: int, accepted: Accepted) -> list[Accepted]:
        """Take what accepted at item `index`; give what may go out now, in order."""
        return [accepted]

    def drain(self) -> list[Accepted]:
        """Give up what waits."""
        return []


@dataclass(slots=True)
class InOrder:
    """Nothing goes out before all earlier items did (ordered, fold)."""

    next: int = 0
    held: dict[int, Accepted] = field(default_factory=dict)

    def accept(self, index: int, accepted: Accepted) -> list[Accepted]:
        """Take what accepted at item `index`; give what may go out now, in order."""
        assert index >= self.next, "an item accepted twice"
        assert index not in self.held, "an item accepted twice"
        self.held[index] = accepted
        out = []
        while (run := self.held.pop(self.next, None)) is not None:
            out.append(run)
            self.next += run.hi - run.lo
        return out

    def drain(self) -> list[Accepted]:
        """Give up what waits."""
        out = [self.held[index] for index in sorted(self.held)]
        self.held.clear()
        return out
