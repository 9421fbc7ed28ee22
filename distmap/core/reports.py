"""What becomes of a report: results are taken, run again, or refused.

Owns the way of an AttemptReported that was found to be in order: what it teaches about speed, what goes back, which
results land, which failures are final. `scheduler.py` checked it; `board.py` makes the moves.
"""

from __future__ import annotations

from distmap.core.board import Board
from distmap.core.events import AttemptReported, Discard
from distmap.core.gather import Landed
from distmap.core.records import Attempt
from distmap.core.states import ATTEMPT, step

#: How much slower or faster than the average one report may make a worker look, and the weight of one report.
SKEW = 8.0
WEIGHT = 1 / 8


def take(board: Board, attempt: Attempt, event: AttemptReported) -> None:
    """A report of an attempt on record."""
    attempt.state = step(ATTEMPT, attempt.state, "AttemptReported", attempt)
    attempt.next = event.hi
    _measure(board, attempt, event)
    if event.ended:
        board.detach(attempt)
        board.requeue(attempt.job, attempt.chunk, event.hi, attempt.hi, attempt.losses)
    elif attempt.state == "running":
        heard(board, attempt)
    _accept(board, attempt, event)
    board.conclude(attempt.job)


def refuse(board: Board, attempt: Attempt | None, event: AttemptReported) -> None:
    """A report of an attempt that was given up (None), or whose job is over: its results are not wanted."""
    if event.lo < event.hi:
        board.out.append(Discard(event.attempt, event.lo, event.hi))
        job = board.stale.get(event.attempt)
        if job is not None:
            job.duplicates += event.hi - event.lo
    if attempt is not None and event.ended:
        board.detach(attempt)


def heard(board: Board, attempt: Attempt) -> None:
    """The attempt's position is known anew, so that its end can be told better."""
    attempt.heard = board.now
    pace = board.pace(attempt.job, attempt.slot.worker)
    if pace is not None:
        board.expect(attempt, attempt.heard + pace * (attempt.hi - max(attempt.at, attempt.next)))


def _measure(board: Board, attempt: Attempt, event: AttemptReported) -> None:
    """Learn from the time that the report took."""
    job, worker, items = attempt.job, attempt.slot.worker, event.hi - event.lo
    share = board.share(job, worker)
    if items or job.state == "stopping":
        attempt.since = board.now
    attempt.spent += event.seconds
    share.seconds += event.seconds
    share.items += items
    if items:
        here = share.pace.add(items, event.seconds)
        everywhere = job.pace.add(items, event.seconds)
        ratio = min(SKEW, max(1 / SKEW, here / everywhere))
        worker.slowness += (ratio - worker.slowness) * WEIGHT
    if event.ended and event.hi > attempt.lo:
        share.chunks += 1
        share.largest = max(share.largest, event.hi - attempt.lo)


def _accept(board: Board, attempt: Attempt, event: AttemptReported) -> None:
    """Results land; items that raised run again while they may; the first final failure may end the job."""
    job, chunk = attempt.job, attempt.chunk
    if job.state == "stopping" and job.outcome == "failed":
        return _discard(board, attempt, event.lo, event.hi)
    if job.streaming:
        job.result_bytes += event.nbytes
    start = event.lo
    for at in event.failed:
        if chunk.tries.get(at, 0) < job.spec.retries:
            _land(board, attempt, start, at)
            _discard(board, attempt, at, at + 1)
            start = at + 1
            if job.state != "stopping":
                chunk.tries[at] = chunk.tries.get(at, 0) + 1
                job.retried += 1
                board.requeue(job, chunk, at, at + 1, attempt.losses)
            continue
        job.failed += 1
        if job.spec.stop_on_failure and job.state != "stopping":
            _land(board, attempt, start, at)
            _land(board, attempt, at, at + 1, now_or_never=True)
            _discard(board, attempt, at + 1, event.hi)
            return board.halt(job, "failed")
    if chunk.place is not None and event.lo < event.hi and not event.failed:
        board.was_set_up(job, chunk.place.worker)
    _land(board, attempt, start, event.hi)
    job.meter.add(board.now, job.settled)


def _land(board: Board, attempt: Attempt, lo: int, hi: int, *, now_or_never: bool = False) -> None:
    if lo < hi:
        landed = Landed(attempt.chunk.id, lo, hi, attempt.id)
        board.land(attempt.job, attempt.chunk, landed, now_or_never=now_or_never)


def _discard(board: Board, attempt: Attempt, lo: int, hi: int) -> None:
    if lo < hi:
        board.out.append(Discard(attempt.id, lo, hi))
