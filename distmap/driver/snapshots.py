"""Snapshots of jobs: on request, and regularly while a view shows the job.

Owns the timer. Must not know who looks: a view reads `JobEntry.latest`, in its own thread. On the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from distmap.core.progress import Lane, Snapshot, time_left
from distmap.core.scheduler import Scheduler
from distmap.driver.jobs import JobEntry
from distmap.driver.workers import Workers

#: Seconds between two snapshots of a job that is watched; views draw at most ten times a second.
SNAPSHOT_EVERY = 0.1


def _with_known(snapshot: Snapshot, job: JobEntry) -> Snapshot:
    """The snapshot of a job with a checkpoint: known items count as done, which the scheduler knows nothing of."""
    s, total = snapshot, snapshot.total
    if total is not None and job.total is None and job.read_all:
        total += job.known  # what was read is what was not known
    done = s.done + job.known
    eta = time_left(total, done, s.rate) if s.eta is not None else None
    return s._replace(total=total, done=done, eta=eta, known=job.known, checkpoint=job.checkpoint)


class Snapshots:
    """Takes snapshots of jobs.

    Args:
        jobs: the driver's, by id.
        workers: the driver's; they know which of them is out of reach.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, scheduler: Scheduler, jobs: dict[int, JobEntry], workers: Workers
    ) -> None:
        self._loop = loop
        self._scheduler = scheduler
        self._jobs = jobs
        self._workers = workers
        self._timer: asyncio.TimerHandle | None = None
        #: What was started for the pool and has not come yet, in words.
        self.awaited: Callable[[], str] = lambda: ""

    def of(self, job: JobEntry) -> Snapshot:
        """The job at this moment."""
        snapshot = self._scheduler.snapshot(job.id, self._loop.time())
        if snapshot.total is None and job.total is not None:
            left = max(0, job.total - snapshot.done)
            eta = left / snapshot.rate if snapshot.rate else None
            snapshot = snapshot._replace(total=job.total, eta=eta)
        if long := [item for worker in self._workers for item in worker.long_items(job)]:
            snapshot = snapshot._replace(long_items=tuple(long))
        if job.checkpoint:
            snapshot = _with_known(snapshot, job)
        if resumes := self._workers.resumes - job.resumes_before:
            snapshot = snapshot._replace(resumes=resumes)
        if awaited := self.awaited():
            snapshot = snapshot._replace(awaited=awaited)
        if any(worker.reconnecting or worker.devices for worker in self._workers):
            snapshot = snapshot._replace(lanes=tuple(map(self._lane, snapshot.lanes)))
        return snapshot

    def _lane(self, lane: Lane) -> Lane:
        """The lane with what the scheduler does not know: GPUs, and why it must wait if its worker is out of reach."""
        worker = self._workers.get(lane.worker)
        if worker is not None and worker.devices:
            lane = lane._replace(devices=worker.devices)
        if worker is None or not worker.reconnecting:
            return lane
        return lane._replace(state="reconnecting", silent=self._loop.time() - worker.since)

    def find(self, job: int) -> Snapshot | None:
        """The job with this id at this moment; None when it is over."""
        entry = self._jobs.get(job)
        return None if entry is None else self.of(entry)

    def watch(self, job: int, watched: bool) -> None:
        """Whether somebody looks at the job's snapshots from now on."""
        if (entry := self._jobs.get(job)) is not None:
            entry.watched = watched
            self.start()

    def start(self) -> None:
        """Run the timer if any job is watched."""
        if self._timer is None and any(job.watched for job in self._jobs.values()):
            self._timer = self._loop.call_later(SNAPSHOT_EVERY, self._take)

    def stop(self) -> None:
        """Take no more snapshots."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self) -> None:
        self._timer = None
        for job in self._jobs.values():
            if job.watched:
                job.latest = self.of(job)
        self.start()
