"""What a cell's card keeps of the calls that the cell made: numbers for each function, and a few calls to look at.

Owns `FinishedCall` and `FunctionStats`, whose size is bounded however many calls there are. Knows no notebook, clock
or HTML.
"""

from __future__ import annotations

from collections.abc import Iterable

from distmap.core.progress import JobState, Snapshot
from distmap.tasks._typing import NamedTuple
from distmap.views.base import QUICK, Issue

#: Calls of each function that are kept to be looked at: the slowest ones, and the first ones that failed.
MAX_SLOWEST = 3
MAX_FAILED = 5


class FinishedCall(NamedTuple):
    """A call that is over."""

    #: Its number among the calls of its function in this cell, from 1.
    number: int
    snapshot: Snapshot
    issues: tuple[Issue, ...] = ()
    dropped: int = 0

    @property
    def went_wrong(self) -> bool:
        """It was not done, or items of it failed."""
        return self.snapshot.state != "done" or self.snapshot.failed > 0


class FunctionStats:
    """The calls of one function in one cell.

    Args:
        title: the title of the calls: name of the function, or the user's words.
        kind: name of the call, such as "map"; empty if the title is the user's.
        function: title and kind of the calls together, if the user gives each of them a title of its own.
    """

    def __init__(self, title: str, kind: str, function: tuple[str, str] | None = None) -> None:
        self.title = title
        self.kind = kind
        self._function = function or (title, kind)
        self.begun = 0
        self.ended = 0
        #: Of the calls that have ended: finished items, calls that went wrong, seconds.
        self.items = 0
        self.wrong = 0
        self.seconds = 0.0
        #: State of the call that ended last.
        self.state: JobState = "running"
        #: The slowest call first.
        self.slowest: list[FinishedCall] = []
        #: The calls that went wrong, in the order of their ends.
        self.failed: list[FinishedCall] = []

    @property
    def running(self) -> int:
        """Calls that have begun and not ended."""
        return self.begun - self.ended

    def begin_call(self, title: str) -> int:
        """A call begins; returns its number."""
        if title != self.title:
            self.title, self.kind = self._function
        self.begun += 1
        return self.begun

    def end_call(self, call: FinishedCall) -> None:
        """A call is over."""
        snapshot = call.snapshot
        self.ended += 1
        self.items += snapshot.done
        self.seconds += snapshot.elapsed
        self.state = snapshot.state
        slow = len(self.slowest) < MAX_SLOWEST or snapshot.elapsed > self.slowest[-1].snapshot.elapsed
        if slow or call.went_wrong:
            if self.begun > 1 and snapshot.elapsed < QUICK:
                # The timeline of a quick call shows nothing.
                lanes = tuple(lane._replace(blocks=()) for lane in snapshot.lanes)
                call = call._replace(snapshot=snapshot._replace(lanes=lanes))
        if slow:
            self.slowest = sorted([*self.slowest, call], key=lambda one: -one.snapshot.elapsed)[:MAX_SLOWEST]
        if call.went_wrong:
            self.wrong += 1
            if len(self.failed) < MAX_FAILED:
                self.failed.append(call)


def overall_state(functions: Iterable[FunctionStats]) -> JobState:
    """The state of all calls together: running while one runs, else the worst of the functions' last ones."""
    states = {"running" if function.running else function.state for function in functions}
    order: tuple[JobState, ...] = ("running", "interrupted", "cancelled", "failed", "done")
    return next((state for state in order if state in states), "done")
