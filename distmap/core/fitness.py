"""Workers that cannot run the code of a job: a module is missing there, or a file, or a package has another version.

Owns who is left out of a job, and when the job fails for want of a worker. A worker that is *unable* stays out. One
that is *unfit* has other packages than the job was made with, and is let in if no other worker can take the job: what
comes of that shows there. Neither is known before a worker refuses an attempt of the job, of which it then has run no
item; so nothing is charged. Called by `reports.py` and `worker_events.py`.
"""

from __future__ import annotations

import heapq

from distmap.core import chunk_queue
from distmap.core.records import Attempt, JobRecord
from distmap.core.state import SchedulerState


def refused(state: SchedulerState, attempt: Attempt, *, unfit: bool) -> None:
    """A worker refused an attempt, which has ended: it gets nothing more of the job, and the items run elsewhere."""
    job, worker = attempt.job, attempt.slot.worker
    chunk_queue.requeue(state, job, attempt.chunk, attempt.next, attempt.hi, attempt.losses)
    if not unfit:
        job.unable.add(worker.id)
    elif job.group.takes(worker):
        if worker.id in job.unfit:
            return  # it was let in meanwhile, and this attempt was sent before
        job.unfit.add(worker.id)
    if not job.group.takes(worker):
        return
    waiting = [one for slot in worker.slots for one in slot.queue if one.job is job]
    state.take_back(waiting)
    _leave_out(state, job, worker.id)
    _check(state, job)


def worker_gone(state: SchedulerState) -> None:
    """A worker was lost or wants to leave: jobs that only it could run go to those that are unfit."""
    for job in list(state.jobs.values()):
        if job.unfit and job.state in ("running", "paused") and not _has_worker(state, job):
            _move(state, job, frozenset(job.unable))


def _check(state: SchedulerState, job: JobRecord) -> None:
    """Find a worker for a job of which one more was left out; without any the job fails."""
    if not _has_worker(state, job):
        _move(state, job, frozenset(job.unable))
        if not _has_worker(state, job):
            state.stop_job(job, "failed", refused=True)


def _has_worker(state: SchedulerState, job: JobRecord) -> bool:
    """Whether there is a worker that may take it, though perhaps not now."""
    workers = state.worker_index.workers.values()
    return any(worker.state != "draining" and job.group.takes(worker) for worker in workers)


def _leave_out(state: SchedulerState, job: JobRecord, worker: int) -> None:
    group = job.group
    without = group.without | {worker}
    if group.jobs == 1 and group.without and (group.tags, without) not in state.worker_index.groups:
        # Its own: of a thousand workers that refuse, one after the other, none costs a look at all the others.
        state.worker_index.leave_out(group, state.worker_index.workers[worker])
        state.worker_index.update_job(group, job)
    else:
        _move(state, job, without)


def _move(state: SchedulerState, job: JobRecord, without: frozenset[int]) -> None:
    """Put a job into the group of those that may use the same workers, with all that the group counts of it."""
    old = job.group
    new = job.group = state.worker_index.tag_group(old.tags, without)
    if new is old:
        return
    old.jobs -= 1
    new.jobs += 1
    if (reservation := old.reservations.pop(job.id, None)) is not None:
        new.reservations[job.id] = reservation
    stolen = sum(attempt.stolen for attempt in job.attempts.values())
    old.stealing -= stolen
    new.stealing += stolen
    old.victims[:] = [entry for entry in old.victims if entry[2].job is not job]
    heapq.heapify(old.victims)
    if not old.jobs:
        state.worker_index.remove_group(old)
    for attempt in job.attempts.values():
        state.expect_end(attempt, attempt.end)
    state.worker_index.update_job(new, job)
