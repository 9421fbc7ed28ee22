"""A job at one moment, for views.

Owns the way from the scheduler's records to a Snapshot. Only reads, but for one thing: what was once shown as done
is remembered, so that a bar never goes back when items have to be run again.
"""

from __future__ import annotations

from collections import Counter
from typing import cast

from distmap.core.fleet import Fleet
from distmap.core.progress import JobState, Lane, Snapshot, WorkerState, time_left
from distmap.core.records import Job


def snapshot(job: Job, fleet: Fleet, now: float, deaths: int, losses: int) -> Snapshot:
    """What a view is given.

    Args:
        job: The job.
        fleet: The workers that it might run on.
        now: Monotonic seconds.
        deaths: Task processes that died so far, in all.
        losses: Workers lost so far, in all.
    """
    in_flight: Counter[int] = Counter()
    hints = 0
    for attempt in job.attempts.values():
        in_flight[attempt.slot.worker.id] += attempt.hi - attempt.next
        hints += max(0, attempt.at - attempt.next)
    job.peak = max(job.peak, min(job.settled + hints, job.read))
    total = _total(job)
    rate = job.meter.rate(now, job.peak)
    state = job.outcome if job.state in ("stopping", "over") else job.state
    return Snapshot(
        name=job.spec.name,
        state=cast("JobState", state),
        total=total,
        done=job.peak,
        failed=job.failed,
        in_flight=sum(in_flight.values()),
        retried=job.retried,
        requeued=job.requeued,
        duplicates=job.duplicates,
        deaths=deaths - job.deaths_before,
        losses=losses - job.losses_before,
        elapsed=now - job.began,
        rate=rate,
        eta=time_left(total, job.peak, rate),
        lanes=_lanes(job, fleet, now, in_flight),
    )


def _total(job: Job) -> int | None:
    if job.input == "ended":
        return job.read
    if job.input == "closing":
        return job.read + job.available
    return job.spec.size


def _lanes(job: Job, fleet: Fleet, now: float, in_flight: Counter[int]) -> tuple[Lane, ...]:
    """Live workers that may run the job, and lost ones that did something for it."""
    lanes = []
    for worker in fleet.workers.values():
        if worker.id in job.shares or not job.spec.tags <= worker.tags:
            continue
        busy_now = "busy" if in_flight[worker.id] else "idle"
        state = busy_now if worker.state == "trusted" else worker.state
        lanes.append(Lane(worker.name, len(worker.slots), cast("WorkerState", state), 0, 0, in_flight[worker.id], 0.0))
    for worker_id, share in job.shares.items():
        live = fleet.workers.get(worker_id)
        state = "lost"
        if live is not None:
            busy_now = "busy" if in_flight[worker_id] else "idle"
            state = busy_now if live.state == "trusted" else live.state
        span = (now - share.since) * share.slots
        busy = min(1.0, share.seconds / span) if span > 0 else 0.0
        lanes.append(
            Lane(
                share.name,
                share.slots,
                cast("WorkerState", state),
                share.items,
                share.chunks,
                in_flight[worker_id],
                busy,
            )
        )
    return tuple(lanes)
