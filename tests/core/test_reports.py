"""What becomes of a report."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.chunk_queue import chunk_size_for


def test_results_are_delivered_as_they_are_reported(desk: Any, pick: Any) -> None:
    """Piece by piece, while the chunk still runs."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign,) = desk.job(size=4, chunksize=4)
    assert pick(desk.report(assign, hi=1, ended=False), ev.Deliver) == [ev.Deliver(1, 0, 0, 1, assign.attempt)]
    assert pick(desk.report(assign, lo=1), ev.Deliver) == [ev.Deliver(1, 0, 1, 4, assign.attempt)]


def test_what_was_not_run_goes_back_free(desk: Any, pick: Any) -> None:
    """An attempt that ends early gives the rest back, without counting as trouble."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign,) = desk.job(size=4, chunksize=4)
    (again,) = pick(desk.report(assign, hi=1), ev.Assign)
    assert (again.lo, again.hi) == (1, 4)
    assert desk.snapshot().requeued == 0


def test_an_item_that_raised_is_run_again(desk: Any, pick: Any) -> None:
    """As often as `retries` says; its results until then are discarded, the others delivered."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign,) = desk.job(size=4, chunksize=4, retries=1, stop_on_failure=False)
    out = desk.report(assign, failed=(1, 3))
    assert out[:4] == [
        ev.Deliver(1, 0, 0, 1, assign.attempt),
        ev.Discard(assign.attempt, 1, 2),
        ev.Deliver(1, 0, 2, 3, assign.attempt),
        ev.Discard(assign.attempt, 3, 4),
    ]
    first, second = pick(out, ev.Assign)
    assert [(a.lo, a.hi) for a in (first, second)] == [(1, 2), (3, 4)]
    assert pick(desk.report(first, failed=(1,)), ev.Deliver) == [ev.Deliver(1, 0, 1, 2, first.attempt)]
    assert desk.report(second)[-1] == ev.Finish(1, "done")
    snapshot = desk.snapshot()
    assert (snapshot.retried, snapshot.failed, snapshot.done) == (2, 1, 4)


def test_the_first_final_failure_ends_the_job(desk: Any, pick: Any) -> None:
    """It is delivered, with what came before it; what came after it is discarded."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign,) = desk.job(size=4, chunksize=4)
    assert desk.report(assign, failed=(1, 2)) == [
        ev.Deliver(1, 0, 0, 1, assign.attempt),
        ev.Deliver(1, 0, 1, 2, assign.attempt),
        ev.Discard(assign.attempt, 2, 4),
        ev.Release(1, 0),
        ev.Finish(1, "failed"),
    ]


def test_a_failure_out_of_order_does_not_wait(desk: Any, pick: Any) -> None:
    """An ordered job that stops on failure delivers it although earlier items are missing."""
    desk.tell(ev.WorkerJoined(1, 3))
    first, second, third, *_ = desk.job(size=3, gather="fold")
    desk.report(second)
    out = desk.report(third, failed=(0,))
    assert pick(out, ev.Deliver) == [ev.Deliver(1, third.chunk, 0, 1, third.attempt)]
    out = desk.report(first)
    assert pick(out, ev.Discard) == [ev.Discard(first.attempt, 0, 1), ev.Discard(second.attempt, 0, 1)]
    assert out[-1] == ev.Finish(1, "failed")


def test_a_retry_that_comes_too_late(desk: Any, pick: Any) -> None:
    """While a job is being cancelled nothing is run again; a final failure is delivered like a result."""
    desk.tell(ev.WorkerJoined(1, 2))
    first, second = desk.job(size=2, chunksize=1, retries=1)
    desk.tell(ev.CancelRequested(1))
    out = desk.report(first, failed=(0,))
    assert out == [ev.Discard(first.attempt, 0, 1)]
    assert desk.report(second)[0] == ev.Deliver(1, 1, 0, 1, second.attempt)


def test_a_failure_while_cancelling(desk: Any, pick: Any) -> None:
    """Without retries it is accepted; the outcome stays `cancelled`."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign,) = desk.job(size=1)
    desk.tell(ev.CancelRequested(1))
    out = desk.report(assign, failed=(0,))
    assert pick(out, ev.Deliver)
    assert out[-1] == ev.Finish(1, "cancelled")


def test_a_report_that_comes_twice_is_refused(desk: Any, pick: Any) -> None:
    """The attempt is no longer on record: its results are discarded."""
    desk.tell(ev.WorkerJoined(1, 1))
    (assign, _) = desk.job(size=3)
    desk.report(assign)
    assert desk.report(assign) == [ev.Discard(assign.attempt, 0, 1)]
    assert desk.report(assign, hi=0) == []


def test_reports_of_two_attempts_may_overtake(desk: Any, pick: Any) -> None:
    """The one that waited answers first: both count."""
    desk.tell(ev.WorkerJoined(1, 1))
    first, second = desk.job(size=2)
    assert pick(desk.report(second), ev.Deliver)
    assert desk.report(first)[-1] == ev.Finish(1, "done")


def test_a_waiting_attempt_reports_a_part(desk: Any, pick: Any) -> None:
    """News of the second chunk may come before the end of the first."""
    desk.tell(ev.WorkerJoined(1, 1))
    _first, second = desk.job(size=8, chunksize=4)
    assert pick(desk.report(second, hi=2, ended=False), ev.Deliver)


def test_speed_is_learnt_by_worker(desk: Any) -> None:
    """A slow worker's next chunk is smaller, and it becomes second choice."""
    desk.tell(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    todo = desk.job()
    for _ in range(300):
        assign = todo.pop(0)
        each = 0.001 if assign.worker == 1 else 0.004
        todo += desk.feed(desk.report(assign, seconds=each * (assign.hi - assign.lo)))
    state = desk.state
    workers, job = state.worker_index.workers, state.jobs[1]
    assert job.worker_stats[1].item_time.seconds == pytest.approx(0.001)
    assert job.worker_stats[2].item_time.seconds == pytest.approx(0.004)
    assert workers[2].slowness > 1.5 * workers[1].slowness
    assert tuple(chunk_size_for(state, job, workers[at]) for at in (1, 2)) == (20, 5)


def test_a_refused_attempt_fails_the_job(desk: Any, pick: Any) -> None:
    """Code that does not load ends the job, once everything else of it has stopped."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=9)
    assert pick(desk.tell(ev.AttemptRefused(running.attempt)), ev.Interrupt)
    assert desk.tell(ev.AttemptRefused(waiting.attempt))[-1] == ev.Finish(1, "failed")
    assert desk.tell(ev.AttemptRefused(waiting.attempt)) == []


def test_hints_move_the_bar_only(desk: Any) -> None:
    """A hint counts items inside a running chunk; nonsense is ignored."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=30, chunksize=10)
    for attempt, at in ((running.attempt, 4), (running.attempt, 3), (running.attempt, 99), (waiting.attempt, 5)):
        assert desk.tell(ev.AttemptProgressed(attempt, at), after=0.1) == []
    assert desk.snapshot().done == 4
