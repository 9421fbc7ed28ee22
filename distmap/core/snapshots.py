"""Makes the Snapshot of a job for views, from the scheduler's records.

Changes nothing, except `JobRecord.peak_done`: the largest number of items ever shown as done, a bar never moves back,
even if items run again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import cast

from distmap.core.progress import ROWS, JobState, Lane, Snapshot, WorkerState, time_left
from distmap.core.records import Attempt, JobRecord, WorkerRecord
from distmap.core.worker_index import WorkerIndex


def snapshot(job: JobRecord, worker_index: WorkerIndex, now: float, deaths: int, losses: int) -> Snapshot:
    """The job at one moment.

    Args:
        job: The job.
        worker_index: The workers that it might run on.
        now: Monotonic seconds.
        deaths: Task processes that have died, of all jobs.
        losses: Workers that were lost.
    """
    in_flight: defaultdict[int, int] = defaultdict(int)
    heads: defaultdict[int, list[Attempt]] = defaultdict(list)
    hints = 0
    for attempt in job.attempts.values():
        worker = attempt.slot.worker.id
        reported = attempt.next
        in_flight[worker] += attempt.hi - reported
        if attempt.at > reported:
            hints += attempt.at - reported
        if attempt.state != "waiting":
            heads[worker].append(attempt)
    job.peak_done = max(job.peak_done, min(job.settled + hints, job.read))
    total = _total(job)
    rate = job.meter.rate(now, job.peak_done)
    state = job.outcome if job.state in ("stopping", "over") else job.state
    left = time_left(total, job.peak_done, rate) if state in ("running", "paused", "done") else None
    return Snapshot(
        name=job.spec.name,
        state=cast("JobState", state),
        total=total,
        done=job.peak_done,
        failed=job.failed,
        in_flight=sum(in_flight.values()),
        retried=job.retried,
        requeued=job.requeued,
        duplicates=job.duplicates,
        deaths=deaths - job.deaths_before,
        losses=losses - job.losses_before,
        elapsed=now - job.began,
        rate=rate,
        eta=left,
        lanes=_lanes(job, worker_index, now, in_flight, heads),
    )


def _total(job: JobRecord) -> int | None:
    if job.input == "ended":
        return job.read + job.unrun_items
    if job.input == "closing":
        return job.read + job.available
    size = job.spec.size
    return None if size is None or job.read > size else size


def _lanes(
    job: JobRecord,
    worker_index: WorkerIndex,
    now: float,
    in_flight: Mapping[int, int],
    heads: Mapping[int, list[Attempt]],
) -> tuple[Lane, ...]:
    """Live workers that may run the job, and lost ones that did something for it, in the order of joining."""
    tags = job.spec.tags
    ids = {worker.id for worker in worker_index.workers.values() if tags <= worker.tags}
    lanes = []
    for number in sorted(ids | job.worker_stats.keys()):
        worker, stats, held = worker_index.workers.get(number), job.worker_stats.get(number), in_flight.get(number, 0)
        if worker is None:
            state = "lost"
        elif job.state == "over":
            state = "idle"
        else:
            state = _state(worker, held)
        running = heads.get(number, ())
        if stats is not None:
            name, slots, since, items, chunks = stats.name, stats.slots, stats.since, stats.items, stats.chunks
            seconds = stats.seconds
        else:
            assert worker is not None, "a lane of a worker that is lost and did nothing"
            name, slots, since, items, chunks = worker.name, len(worker.slots), max(job.began, worker.joined), 0, 0
            seconds = 0.0
        for attempt in running:
            # A chunk of one long item reports nothing until it is done.
            seconds += now - attempt.unaccounted_since
        span = (now - since) * slots
        busy = min(1.0, seconds / span) if span > 0 else 0.0
        rows = min(slots, ROWS)
        lanes.append(Lane(name, slots, cast("WorkerState", state), items, chunks, held, busy, rows, (), number))
    return tuple(lanes)


def _state(worker: WorkerRecord, held: int) -> str:
    if worker.state != "trusted":
        return worker.state
    if all(slot.state == "resting" for slot in worker.slots):
        return "resting"
    return "busy" if held else "idle"
