"""How many workers a launcher should have: so many, or between two bounds by what waits.

Owns this rule. Takes numbers, gives a number: time is an argument. Must not know who starts workers, nor how.

More workers are wanted at once, and fewer only after a while in which fewer were enough. What a job still needs is
what its items have cost so far, times those that are left: slots that run an item of unknown length count as if it
ended now, so long items are seen to be long before the first of them ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from distmap.core.launch_limits import LAUNCH, LaunchLimits
from distmap.tasks._records import Record
from distmap.tasks._typing import NamedTuple


class Waiting(NamedTuple):
    """One job at one moment."""

    job: int
    #: Items that are not done; None: nobody knows yet.
    left: int | None
    done: int
    #: Slots that have something of it.
    running: int


class _Cost(Record):
    """What a job has cost since it was first seen."""

    #: Items that were done then.
    before: int
    #: Slots that have run it since the last look, and when that was.
    running: int
    seen: float
    #: Seconds of slots.
    spent: float = 0.0


class Scaling:
    """The rule for one launcher.

    Args:
        least: Workers that there always are.
        most: Workers that there never are more than; the same as `least`: so many.
    """

    def __init__(self, least: int, most: int, limits: LaunchLimits = LAUNCH) -> None:
        self._limits = limits
        self._costs: dict[int, _Cost] = {}
        self.bound(least, most)

    def bound(self, least: int, most: int) -> None:
        """From now on between these."""
        self.least, self.most = least, most
        self._now = least
        #: Since when fewer would do, and the most that were wanted since.
        self._fewer_since: float | None = None
        self._enough = least

    def decide(self, jobs: Sequence[Waiting], slots: int, each: int, now: float) -> int:
        """How many workers there should be.

        Args:
            jobs: All that is to be done.
            slots: Those of all workers that are there.
            each: Slots of a worker of this launcher.
            now: Monotonic seconds.
        """
        wanted = self._workers(jobs, slots, each, now)
        if wanted >= self._now:
            self._now, self._fewer_since = wanted, None
        elif self._fewer_since is None:
            self._fewer_since, self._enough = now, wanted
        else:
            self._enough = max(self._enough, wanted)
            if now - self._fewer_since >= self._limits.shrink_after:
                self._now, self._fewer_since = self._enough, None
        return self._now

    def _workers(self, jobs: Sequence[Waiting], slots: int, each: int, now: float) -> int:
        needed = sum(self._slots(job, slots, now) for job in jobs)
        self._costs = {job.job: self._costs[job.job] for job in jobs}
        running = sum(job.running for job in jobs)
        if running < slots:
            # Some slots have nothing to do, as results are not taken or items do not come: more would have no more.
            needed = min(needed, max(running, 1))
        return max(self.least, min(self.most, ceil(needed / each)))

    def _slots(self, job: Waiting, slots: int, now: float) -> int:
        """How many slots the job could use."""
        cost = self._costs.setdefault(job.job, _Cost(job.done, job.running, now))
        cost.spent += cost.running * (now - cost.seen)
        cost.running, cost.seen = job.running, now
        if job.left == 0:
            return job.running
        if job.left is None:
            return max(1, 2 * slots)
        tried = job.done - cost.before + job.running
        work = job.left * cost.spent / tried if tried > 0 else 0.0
        return min(job.left, max(1, ceil(work / self._limits.work)))
