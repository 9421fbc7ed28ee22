"""What becomes of a report."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.chunk_queue import chunk_size_for


def test_results_are_delivered_as_they_are_reported(harness: Any, pick: Any) -> None:
    """Piece by piece, while the chunk still runs."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=4, chunksize=4)
    assert pick(harness.report(assign, hi=1, ended=False), ev.Deliver) == [ev.Deliver(1, 0, 0, 1, assign.attempt)]
    assert pick(harness.report(assign, lo=1), ev.Deliver) == [ev.Deliver(1, 0, 1, 4, assign.attempt)]


def test_a_share_behind_a_long_item_is_cut_when_it_begins(harness: Any, pick: Any) -> None:
    """It was made before anything was measured: all but its first item comes back; a share of quick items stays."""
    harness.send(ev.WorkerJoined(1, 2))
    slow, quick, behind, _ = harness.job(size=80)
    assert behind.slot == slow.slot
    assert pick(harness.report(quick, seconds=0.001), ev.Revoke) == []
    (revoke,) = pick(harness.report(slow, seconds=1.0), ev.Revoke)
    assert (revoke.attempt, revoke.stop) == (behind.attempt, behind.lo + 1)


def test_what_was_not_run_goes_back_free(harness: Any, pick: Any) -> None:
    """An attempt that ends early gives the rest back, without counting as trouble."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=4, chunksize=4)
    (again,) = pick(harness.report(assign, hi=1), ev.Assign)
    assert (again.lo, again.hi) == (1, 4)
    assert harness.snapshot().requeued == 0


def test_an_item_that_raised_is_run_again(harness: Any, pick: Any) -> None:
    """As often as `retries` says; its results until then are discarded, the others delivered."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=4, chunksize=4, retries=1, stop_on_failure=False)
    out = harness.report(assign, failed=(1, 3))
    assert out[:4] == [
        ev.Deliver(1, 0, 0, 1, assign.attempt),
        ev.Discard(assign.attempt, 1, 2),
        ev.Deliver(1, 0, 2, 3, assign.attempt),
        ev.Discard(assign.attempt, 3, 4),
    ]
    first, second = pick(out, ev.Assign)
    assert [(a.lo, a.hi) for a in (first, second)] == [(1, 2), (3, 4)]
    assert pick(harness.report(first, failed=(1,)), ev.Deliver) == [ev.Deliver(1, 0, 1, 2, first.attempt)]
    assert harness.report(second)[-1] == ev.Finish(1, "done")
    snapshot = harness.snapshot()
    assert (snapshot.retried, snapshot.failed, snapshot.done) == (2, 1, 4)


def test_the_first_final_failure_ends_the_job(harness: Any, pick: Any) -> None:
    """It is delivered, with what came before it; what came after it is discarded."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=4, chunksize=4)
    assert harness.report(assign, failed=(1, 2)) == [
        ev.Deliver(1, 0, 0, 1, assign.attempt),
        ev.Deliver(1, 0, 1, 2, assign.attempt),
        ev.Discard(assign.attempt, 2, 4),
        ev.Release(1, 0),
        ev.Finish(1, "failed"),
    ]


def test_a_failure_out_of_order_does_not_wait(harness: Any, pick: Any) -> None:
    """An ordered job that stops on failure delivers it although earlier items are missing."""
    harness.send(ev.WorkerJoined(1, 3))
    first, second, third, *_ = harness.job(size=3, gather="fold")
    harness.report(second)
    out = harness.report(third, failed=(0,))
    assert pick(out, ev.Deliver) == [ev.Deliver(1, third.chunk, 0, 1, third.attempt)]
    out = harness.report(first)
    assert pick(out, ev.Discard) == [ev.Discard(first.attempt, 0, 1), ev.Discard(second.attempt, 0, 1)]
    assert out[-1] == ev.Finish(1, "failed")


def test_a_retry_that_comes_too_late(harness: Any, pick: Any) -> None:
    """While a job is being cancelled nothing is run again; a final failure is delivered like a result."""
    harness.send(ev.WorkerJoined(1, 2))
    first, second = harness.job(size=2, chunksize=1, retries=1)
    harness.send(ev.CancelRequested(1))
    out = harness.report(first, failed=(0,))
    assert out == [ev.Discard(first.attempt, 0, 1)]
    assert harness.report(second)[0] == ev.Deliver(1, 1, 0, 1, second.attempt)


def test_a_failure_while_cancelling(harness: Any, pick: Any) -> None:
    """Without retries it is accepted; the outcome stays `cancelled`."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign,) = harness.job(size=1)
    harness.send(ev.CancelRequested(1))
    out = harness.report(assign, failed=(0,))
    assert pick(out, ev.Deliver)
    assert out[-1] == ev.Finish(1, "cancelled")


def test_a_report_that_comes_twice_is_refused(harness: Any, pick: Any) -> None:
    """The attempt is no longer on record: its results are discarded."""
    harness.send(ev.WorkerJoined(1, 1))
    (assign, _) = harness.job(size=3)
    harness.report(assign)
    assert harness.report(assign) == [ev.Discard(assign.attempt, 0, 1)]
    assert harness.report(assign, hi=0) == []


def test_reports_of_two_attempts_may_overtake(harness: Any, pick: Any) -> None:
    """The one that waited answers first: both count."""
    harness.send(ev.WorkerJoined(1, 1))
    first, second = harness.job(size=2)
    assert pick(harness.report(second), ev.Deliver)
    assert harness.report(first)[-1] == ev.Finish(1, "done")


def test_a_waiting_attempt_reports_a_part(harness: Any, pick: Any) -> None:
    """News of the second chunk may come before the end of the first."""
    harness.send(ev.WorkerJoined(1, 1))
    _first, second = harness.job(size=8, chunksize=4)
    assert pick(harness.report(second, hi=2, ended=False), ev.Deliver)


def test_speed_is_learnt_by_worker(harness: Any) -> None:
    """A slow worker's next chunk is smaller, and it becomes second choice."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    todo = harness.job()
    for _ in range(300):
        assign = todo.pop(0)
        each = 0.001 if assign.worker == 1 else 0.004
        todo += harness.feed(harness.report(assign, seconds=each * (assign.hi - assign.lo)))
    state = harness.state
    workers, job = state.worker_index.workers, state.jobs[1]
    assert job.worker_stats[1].item_time.seconds == pytest.approx(0.001)
    assert job.worker_stats[2].item_time.seconds == pytest.approx(0.004)
    assert workers[2].slowness > 1.5 * workers[1].slowness
    assert tuple(chunk_size_for(state, job, workers[at]) for at in (1, 2)) == (20, 5)


def test_an_attempt_that_all_refuse_fails_the_job(harness: Any, pick: Any) -> None:
    """Code that loads nowhere ends the job, once everything else of it has stopped."""
    harness.send(ev.WorkerJoined(1, 1))
    running, waiting = harness.job(size=9)
    assert pick(harness.send(ev.AttemptRefused(running.attempt)), ev.Interrupt)
    assert harness.send(ev.AttemptRefused(waiting.attempt))[-1] == ev.Finish(1, "failed", refused=True)
    assert harness.send(ev.AttemptRefused(waiting.attempt)) == []


def test_hints_move_the_bar_only(harness: Any) -> None:
    """A hint counts items inside a running chunk; nonsense is ignored."""
    harness.send(ev.WorkerJoined(1, 1))
    running, waiting = harness.job(size=30, chunksize=10)
    for attempt, at in ((running.attempt, 4), (running.attempt, 3), (running.attempt, 99), (waiting.attempt, 5)):
        assert harness.send(ev.AttemptProgressed(attempt, at), after=0.1) == []
    assert harness.snapshot().done == 4
