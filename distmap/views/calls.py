"""What a cell's card keeps of all the calls that the cell made: numbers for each function, and the calls worth a look.

Owns `Call` and `Tally`, which are bounded however many calls there are. Knows no notebook, clock or HTML.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from distmap.core.progress import JobState, Snapshot
from distmap.core.snapshots import undrawn
from distmap.views.base import QUICK, Issue

#: Of each function so many calls are kept to be looked at: the slowest, and the first that failed.
SLOWEST = 3
FAILED = 5


class Call(NamedTuple):
    """A call that is over."""

    #: Which one of its function it was in this cell, from 1.
    number: int
    snapshot: Snapshot
    issues: tuple[Issue, ...] = ()
    dropped: int = 0

    @property
    def went_wrong(self) -> bool:
        """It ended otherwise than with all its items."""
        return self.snapshot.state != "done" or self.snapshot.failed > 0


class Tally:
    """All calls of one function in one cell.

    Args:
        title: What the call is named: its function, or the words of the user.
        kind: Name of the call, such as "map"; empty if the title is the user's.
        function: What the calls are named together, where the user names each of them otherwise.
    """

    def __init__(self, title: str, kind: str, function: tuple[str, str] | None = None) -> None:
        self.title = title
        self.kind = kind
        self._function = function or (title, kind)
        #: Calls that were begun, and those that are over; of these: items, calls that went wrong, seconds.
        self.calls = 0
        self.ended = 0
        self.items = 0
        self.wrong = 0
        self.seconds = 0.0
        #: How the one that ended last did so.
        self.state: JobState = "running"
        #: The slowest first; those that went wrong in the order of their coming.
        self.slowest: list[Call] = []
        self.failed: list[Call] = []

    @property
    def running(self) -> int:
        """Calls that go on."""
        return self.calls - self.ended

    def begin(self, title: str) -> int:
        """A call begins; gives its number."""
        if title != self.title:
            self.title, self.kind = self._function
        self.calls += 1
        return self.calls

    def end(self, call: Call) -> None:
        """A call is over."""
        snapshot = call.snapshot
        self.ended += 1
        self.items += snapshot.done
        self.seconds += snapshot.elapsed
        self.state = snapshot.state
        slow = len(self.slowest) < SLOWEST or snapshot.elapsed > self.slowest[-1].snapshot.elapsed
        if slow or call.went_wrong:
            # There is nothing to be seen in the timeline of a moment.
            call = call if self.calls == 1 or snapshot.elapsed >= QUICK else call._replace(snapshot=undrawn(snapshot))
        if slow:
            self.slowest = sorted([*self.slowest, call], key=lambda one: -one.snapshot.elapsed)[:SLOWEST]
        if call.went_wrong:
            self.wrong += 1
            if len(self.failed) < FAILED:
                self.failed.append(call)

    def noted(self) -> list[Call]:
        """The calls to be looked at: what went wrong, then the slowest, each once."""
        wrong = {call.number for call in self.failed}
        return [*self.failed, *(call for call in self.slowest if call.number not in wrong)]


def state_of(tallies: Iterable[Tally]) -> JobState:
    """Of all of them together: while one goes on, they do; else what went wrong counts most."""
    states = {"running" if tally.running else tally.state for tally in tallies}
    order: tuple[JobState, ...] = ("running", "interrupted", "cancelled", "failed", "done")
    return next((state for state in order if state in states), "done")
