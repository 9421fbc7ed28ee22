"""The attempts that one member of a foreign engine has: which wait, which are out, and how many may be out at once.

Owns these records, the suspicion against items whose process ended, and the measure of round trips. Calls nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from distmap.engine.adapter import Call
from distmap.engine.base import Parts
from distmap.tasks.cells import CELL_AT, CELL_ATTEMPT
from distmap.wire.messages import Task

#: Number of last round trips that are kept. The shortest counts: others may have waited for other calls there.
ROUND_TRIPS = 8


class ForeignAttempt:
    """An attempt that was given to a member and has not ended."""

    def __init__(self, task: Task, parts: Parts) -> None:
        self.task = task
        self.parts = parts
        self.cells = [-1] * 8
        #: None while the engine does not have it.
        self.call: Call | None = None
        #: Of the engine that has it: how often it had been renewed by then.
        self.generation = 0
        #: The number of that call, and how many of its messages, up to which item, came before its answer.
        self.number = self.heard = 0
        self.reported = task.lo
        #: The item that it ran when it was last heard of, and for how long.
        self.item = -1, 0.0
        #: When the engine got it, and seconds of work that had been answered by then.
        self.since = self.work_seconds = 0.0

    def begin_anew(self) -> None:
        """The call came to nothing; another one runs what was not reported."""
        self.call, self.heard, self.item = None, 0, (-1, 0.0)
        self.task = self.task._replace(lo=self.reported)

    @property
    def needed(self) -> tuple[bytes, ...]:
        """Digests of all that it needs, in the order in which it is used."""
        return (*self.task.needs, self.task.code)


class ForeignQueue:
    """The attempts of one member."""

    def __init__(self) -> None:
        self._attempts: dict[int, ForeignAttempt] = {}
        #: Of these, those that wait here; `_most_out`: how many may be in the engine, None: all.
        self._waiting: deque[ForeignAttempt] = deque()
        self._most_out: int | None = None
        #: Those of which one may have broken the engine.
        self._suspects: set[int] = set()
        #: Items whose process ended when no other item was in their attempt, by code: they run alone from now on.
        self._deadly: dict[bytes, set[int]] = {}

    def __iter__(self) -> Iterator[ForeignAttempt]:
        return iter(list(self._attempts.values()))

    def __len__(self) -> int:
        return len(self._attempts)

    def get(self, attempt: int) -> ForeignAttempt | None:
        """The attempt; None if it has ended."""
        return self._attempts.get(attempt)

    def has(self, entry: ForeignAttempt) -> bool:
        """Whether it has not ended."""
        return self._attempts.get(entry.task.attempt) is entry

    def out(self) -> list[ForeignAttempt]:
        """Those that the engine has."""
        return [entry for entry in self if entry.call is not None]

    def items(self, slots: int) -> list[tuple[int, int, float]]:
        """Per slot, an attempt that runs there or -1, its item, and for how long, as far as was heard."""
        found = [(-1, -1, 0.0)] * slots
        for entry in self._attempts.values():
            if entry.item[0] >= 0:
                found[entry.task.slot] = (entry.task.attempt, *entry.item)
        return found

    def positions(self) -> list[tuple[int, int]]:
        """Attempts that run in threads of this process, each with its item: these write it into the cells."""
        found = [(attempt, entry.cells) for attempt, entry in self._attempts.items()]
        return [(attempt, cells[CELL_AT]) for attempt, cells in found if cells[CELL_ATTEMPT] == attempt]

    def add(self, entry: ForeignAttempt) -> None:
        """It waits from now on."""
        task = entry.task
        self._attempts[task.attempt] = entry
        if task.start + task.lo in self._deadly.get(task.code, ()):
            self._suspects.add(task.attempt)
            self._most_out = 1
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)

    def take(self, held_up: Callable[[ForeignAttempt], bool]) -> ForeignAttempt | None:
        """The next one for the engine, which waits no more; None if it may have none now."""
        if self._most_out is not None and len(self._attempts) - len(self._waiting) >= self._most_out:
            return None
        for entry in self._waiting:
            if not held_up(entry):
                self._waiting.remove(entry)
                return entry
        return None

    def put_back(self, entries: Sequence[ForeignAttempt]) -> None:
        """The engine does not have them: they are the next ones again."""
        for entry in reversed(entries):
            entry.begin_anew()
            self._waiting.appendleft(entry)

    def forget(self, entry: ForeignAttempt) -> bool:
        """The attempt has ended; False: it had already."""
        if not self.has(entry):
            return False
        del self._attempts[entry.task.attempt]
        entry.call = None  # whose callback holds this: a cluster would keep the result until a garbage collection
        if entry in self._waiting:
            self._waiting.remove(entry)
        self._suspects.discard(entry.task.attempt)
        if not self._suspects:
            self._most_out = None
        return True

    def clear(self) -> list[ForeignAttempt]:
        """Forget all of them; gives them."""
        entries = list(self._attempts.values())
        self._attempts.clear()
        self._waiting.clear()
        self._suspects.clear()
        return entries

    # --- suspicion ---------------------------------------------------------------------------------------------------

    def suspect(self, entries: Sequence[ForeignAttempt]) -> None:
        """One of these broke the engine: half of them may be out at once, until all have ended."""
        if entries:
            self._suspects.update(entry.task.attempt for entry in entries)
            self._most_out = max(1, len(entries) // 2)

    def acquit(self) -> None:
        """The one to blame is found."""
        self._suspects.clear()

    def blame(self, task: Task, at: int) -> None:
        """The process ended in which only this item was left. Others may have been in the same process: the next time
        nothing runs beside it, so that it shows.
        """
        self._deadly.setdefault(task.code, set()).add(task.start + at)

    def drop(self, code: bytes) -> None:
        """The code is of no use any more."""
        self._deadly.pop(code, None)


class RoundTrips:
    """How long the way there and back is, by what answers tell."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._told = 0.0

    def measured(self, seconds: float, others: float) -> float | None:
        """The round trip if it is another than was told last: the size of chunks hangs on it.

        Args:
            seconds: there and back, and of waiting there.
            others: seconds of work that was answered meanwhile. If it may have waited for that, nothing is known:
                chunks would grow by what they themselves make others wait.
        """
        if seconds < 2 * others:
            return None
        self._last.append(seconds)
        shortest = min(self._last)
        if shortest / 2 <= self._told <= shortest * 2:
            return None
        self._told = shortest
        return shortest
