"""What slots report of attempts: results are accepted, run again, or refused.

Owns the checks of AttemptReported, AttemptProgressed, AttemptLost and AttemptRefused, and the way of a report: what it
teaches about speed, what goes back, which results are accepted, which failures are final. `state.py` makes the moves,
`faults.py` says who is charged. Called by `Scheduler.handle` only.

Events of an attempt that is no longer on record are legal: they were sent before the sender knew that it had ended.
Their results are discarded.
"""

from __future__ import annotations

from distmap.core import chunk_queue, faults, fitness
from distmap.core.events import AttemptLost, AttemptProgressed, AttemptRefused, AttemptReported, Discard
from distmap.core.gather import Accepted
from distmap.core.records import Attempt
from distmap.core.state import SchedulerState
from distmap.core.transitions import ATTEMPT, check, illegal, next_state

#: Bound of the ratio of a worker's time per item to the average, in one report; the weight of one report.
SKEW = 8.0
WEIGHT = 1 / 8


def attempt_reported(state: SchedulerState, event: AttemptReported) -> None:
    """Results of an attempt, accepted if it is still on record."""
    number, lo, hi, failed, seconds, _, _ = event
    attempt = state.attempts.get(number) or _attempt(state, number)
    if not 0 <= lo <= hi:
        raise illegal("attempt {}: {}:{} is no span of items", number, lo, hi)
    if attempt is None or attempt.state == "void":
        return _refuse_report(state, attempt, event)
    if lo != attempt.next:
        raise illegal("{}: a report from {}, expected from {}", attempt, lo, attempt.next)
    if hi > attempt.hi:
        raise illegal("{}: a report up to {}, expected at most {}", attempt, hi, attempt.hi)
    if failed:
        bounds = zip((lo - 1, *failed), (*failed, hi), strict=True)
        check(all(a < b for a, b in bounds), "{}: failed offsets {} not in order", attempt, failed)
    if seconds < 0:
        raise illegal("{}: {} seconds spent, expected at least 0", attempt, seconds)
    _accept_report(state, attempt, event)


def attempt_progressed(state: SchedulerState, event: AttemptProgressed) -> None:
    """A hint where the attempt is: for views, and for the guess when it ends."""
    attempt = _attempt(state, event.attempt)
    if attempt is None or attempt.state != "running" or not attempt.at < event.at < attempt.hi:
        return
    attempt.at = event.at
    _update_position(state, attempt)
    attempt.job.meter.add(state.now, attempt.job.settled + attempt.at - attempt.next)


def attempt_lost(state: SchedulerState, event: AttemptLost) -> None:
    """What ran the attempt ended, alone."""
    attempt = _attempt(state, event.attempt)
    if attempt is not None:
        faults.attempt_lost(state, attempt, event)


def attempt_refused(state: SchedulerState, event: AttemptRefused) -> None:
    """The attempt could not be run at all: it runs elsewhere. A call of a set-up fails."""
    attempt = _attempt(state, event.attempt)
    if attempt is None:
        return
    job = attempt.job
    state.end_attempt(attempt)
    if job.state in ("running", "paused"):
        if job.spec.each:
            faults.fail_item(state, attempt, attempt.lo, "refused")
        else:
            fitness.refused(state, attempt, unfit=event.unfit)
    state.finish_if_done(job)


def _attempt(state: SchedulerState, attempt: int) -> Attempt | None:
    """The attempt; None if it is not on record any more."""
    found = state.attempts.get(attempt)
    check(found is not None or 0 <= attempt <= state.last_attempt, "attempt {} was never assigned", attempt)
    return found


def _accept_report(state: SchedulerState, attempt: Attempt, event: AttemptReported) -> None:
    """Take a report of an attempt on record."""
    attempt.state = next_state(ATTEMPT, attempt.state, "AttemptReported", attempt)
    attempt.next = event.hi
    _measure(state, attempt, event)
    if event.ended:
        state.end_attempt(attempt)
        chunk_queue.requeue(state, attempt.job, attempt.chunk, event.hi, attempt.hi, attempt.losses)
        if attempt.slot.queue:
            _cut_follower(state, attempt.slot.queue[0])
    elif attempt.state == "running":
        _update_position(state, attempt)
        _cut_overrun(state, attempt, event)
    _accept(state, attempt, event)
    state.finish_if_done(attempt.job)


def _refuse_report(state: SchedulerState, attempt: Attempt | None, event: AttemptReported) -> None:
    """Discard the results of an attempt that was given up (None), or whose job is over."""
    if event.lo < event.hi:
        state.commands.append(Discard(event.attempt, event.lo, event.hi))
        job = state.stale.get(event.attempt)
        if job is not None:
            job.duplicates += event.hi - event.lo
    if attempt is not None and event.ended:
        state.end_attempt(attempt)


def _update_position(state: SchedulerState, attempt: Attempt) -> None:
    """The position of the attempt is known: estimate its end again."""
    attempt.heard_at = state.now
    item_time = attempt.job.item_time_on(attempt.slot.worker)
    if item_time is not None:
        state.expect_end(attempt, attempt.heard_at + item_time * (attempt.hi - max(attempt.at, attempt.next)))


def _cut_overrun(state: SchedulerState, attempt: Attempt, event: AttemptReported) -> None:
    """Take back what is left of a chunk that turns out to be far too large."""
    left = attempt.hi - attempt.next
    if left < 2 or event.lo == event.hi or attempt.job.spec.chunksize is not None:
        return
    aim = max(attempt.charge, state.limits.chunk_seconds)
    if left * event.seconds / (event.hi - event.lo) > state.limits.chunk_overrun * aim:
        state.revoke(attempt, max(attempt.at, attempt.next) + 1)


def _cut_follower(state: SchedulerState, attempt: Attempt) -> None:
    """Take back all but the first item of a chunk that begins and is far larger than it would be made now.

    It was made when nothing was measured, or items before it were much quicker.
    """
    items, item_time = attempt.hi - attempt.lo, attempt.job.item_time_on(attempt.slot.worker)
    if items < 2 or item_time is None or attempt.state != "running" or attempt.job.spec.chunksize is not None:
        return
    if items * item_time > state.limits.chunk_overrun * max(attempt.charge, state.limits.chunk_seconds):
        state.revoke(attempt, attempt.lo + 1)


def _measure(state: SchedulerState, attempt: Attempt, event: AttemptReported) -> None:
    """Learn the speed of the worker from the time in the report."""
    job, worker, items = attempt.job, attempt.slot.worker, event.hi - event.lo
    stats = state.stats(job, worker)
    if items or job.state == "stopping":
        attempt.unaccounted_since = state.now
    attempt.spent += event.seconds
    stats.seconds += event.seconds
    stats.items += items
    if items:
        here = stats.item_time.add(items, event.seconds)
        everywhere = job.item_time.add(items, event.seconds)
        ratio = min(SKEW, max(1 / SKEW, here / everywhere))
        worker.slowness += (ratio - worker.slowness) * WEIGHT
    if event.ended and event.hi > attempt.lo:
        stats.chunks += 1
        stats.largest = max(stats.largest, event.hi - attempt.lo)


def _accept(state: SchedulerState, attempt: Attempt, event: AttemptReported) -> None:
    """Accept results; run items that raised again if retries are left; the first final failure may end the job."""
    job, chunk = attempt.job, attempt.chunk
    if job.state == "stopping" and job.outcome == "failed":
        return _discard(state, attempt, event.lo, event.hi)
    if job.streaming and event.lo < event.hi:
        job.result_bytes += event.nbytes
        job.result_item_bytes = max(event.nbytes / (event.hi - event.lo), job.result_item_bytes / 2)
    start = event.lo
    for at in event.failed:
        if chunk.tries.get(at, 0) < job.spec.retries:
            _accept_span(state, attempt, start, at)
            _discard(state, attempt, at, at + 1)
            start = at + 1
            if job.state != "stopping":
                chunk.tries[at] = chunk.tries.get(at, 0) + 1
                job.retried += 1
                chunk_queue.requeue(state, job, chunk, at, at + 1, attempt.losses)
            continue
        job.failed += 1
        if job.spec.stop_on_failure and job.state != "stopping":
            _accept_span(state, attempt, start, at)
            _accept_span(state, attempt, at, at + 1, out_of_order=True)
            _discard(state, attempt, at + 1, event.hi)
            return state.stop_job(job, "failed")
    if chunk.only_slot is not None and event.lo < event.hi and not event.failed:
        chunk_queue.setup_succeeded(state, job, chunk.only_slot.worker)
    if start < event.hi:
        state.accept(job, chunk, Accepted(chunk.id, start, event.hi, attempt.id))
    job.meter.add(state.now, job.settled)


def _accept_span(state: SchedulerState, attempt: Attempt, lo: int, hi: int, *, out_of_order: bool = False) -> None:
    if lo < hi:
        accepted = Accepted(attempt.chunk.id, lo, hi, attempt.id)
        state.accept(attempt.job, attempt.chunk, accepted, out_of_order=out_of_order)


def _discard(state: SchedulerState, attempt: Attempt, lo: int, hi: int) -> None:
    if lo < hi:
        state.commands.append(Discard(attempt.id, lo, hi))
