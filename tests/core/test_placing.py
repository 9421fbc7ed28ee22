"""Who gets which place, who takes from whom."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev


def measured(desk: Any, **spec: Any) -> list[Any]:
    """A job on one slot whose items are known to take 1 ms; gives what is assigned then."""
    todo = desk.job(**spec)
    for _ in range(4):
        assign = todo.pop(0)
        todo += desk.feed(desk.report(assign, seconds=0.001 * (assign.hi - assign.lo)))
    return todo


def test_chunks_grow(desk: Any) -> None:
    """From one item to 20 ms of work."""
    desk.tell(ev.WorkerJoined(1, 1))
    todo = measured(desk)
    assert [assign.hi - assign.lo for assign in todo][-1] == 20


def test_priority_goes_first(desk: Any, pick: Any) -> None:
    """The job of higher priority gets every place that opens, although its chunk has still to be read."""
    desk.job(1)
    desk.job(2, priority=1)
    todo = desk.feed(desk.tell(ev.WorkerJoined(1, 2)))
    assert todo[0].job == 2
    for _ in range(40):
        todo += desk.feed(desk.report(todo.pop(0)))
    assert {assign.job for assign in todo} == {2}
    assert {assign.job for assign in pick(desk.said, ev.Assign)[4:]} == {2}


def test_a_slow_input_holds_up_nobody_for_long(desk: Any, pick: Any) -> None:
    """A place is kept for the job that reads for it, for 50 ms."""
    desk.tell(ev.WorkerJoined(1, 1))
    (a, _) = desk.job(1, chunksize=1)
    (asked,) = desk.tell(ev.JobSubmitted(2, ev.JobSpec(priority=3)))
    assert isinstance(asked, ev.Read)
    assert desk.report(a) == [ev.Deliver(1, a.chunk, 0, 1, a.attempt), ev.Release(1, a.chunk)]
    assert desk.scheduler.deadline() == pytest.approx(0.05)
    (read,) = desk.tell(ev.Ticked(), after=0.06)
    assert read.job == 1
    assert desk.scheduler.deadline() is None


def test_equal_jobs_share(desk: Any, pick: Any) -> None:
    """Two jobs of equal priority get the same time, whatever their items take."""
    desk.tell(ev.WorkerJoined(1, 2))
    todo = desk.job(1) + desk.job(2)
    time = {1: 0.0, 2: 0.0}
    for _ in range(3000):
        assign = todo.pop(0)
        seconds = (0.001 if assign.job == 1 else 0.004) * (assign.hi - assign.lo)
        time[assign.job] += seconds
        todo += desk.feed(desk.report(assign, seconds=seconds))
    assert 0.8 < time[1] / time[2] < 1.25


def test_a_newcomer_starts_where_the_others_are(desk: Any) -> None:
    """A job that comes late, or was idle, is not owed the time that passed before."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(3, pushed=True)
    todo = desk.job(1)
    for _ in range(200):
        todo += desk.feed(desk.report(todo.pop(0), seconds=1.0))
    desk.tell(ev.JobSubmitted(2, ev.JobSpec()), ev.ItemsAdded(3, 1))
    jobs = desk.state.jobs
    assert jobs[2].served > 150
    assert jobs[3].served > 150


def test_tags_keep_jobs_apart(desk: Any) -> None:
    """A job runs only where its tags are; the best job among the groups goes first."""
    desk.tell(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1, tags=frozenset({"gpu"})))
    assert {assign.worker for assign in desk.job(1, tags=frozenset({"gpu"}))} == {2}
    assert {assign.worker for assign in desk.job(2)} == {1}


def test_an_interactive_submit_need_not_wait_for_a_batch(desk: Any, pick: Any) -> None:
    """Every place is full: a waiting chunk of the batch is taken back for it, and it runs next."""
    desk.tell(ev.WorkerJoined(1, 1))
    _running, waiting = measured(desk)
    desk.job(2, pushed=True)
    take, revoke = desk.tell(ev.ItemsAdded(2, 1))
    assert isinstance(take, ev.Take)
    assert revoke == ev.Revoke(1, 0, waiting.attempt, waiting.lo)
    (assign,) = pick(desk.report(waiting, hi=waiting.lo, seconds=0.0), ev.Assign)
    assert assign.job == 2


def test_two_small_jobs_do_not_take_from_each_other(desk: Any, pick: Any) -> None:
    """Who has one chunk only keeps it."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(1, size=1)
    desk.job(2, size=1)
    desk.job(3, size=1)
    assert pick(desk.said, ev.Revoke) == []


def test_a_higher_priority_takes_places(desk: Any, pick: Any) -> None:
    """One Revoke per chunk that has nowhere to go; nothing is taken from a higher priority."""
    desk.tell(ev.WorkerJoined(1, 2))
    desk.job(1, priority=1)
    desk.job(2, priority=5)
    assert len(pick(desk.said, ev.Revoke)) == 1
    assert pick(desk.tell(ev.JobSubmitted(3, ev.JobSpec(priority=0))), ev.Read) == []


def test_nothing_is_claimed_where_it_cannot_be_used(desk: Any, pick: Any) -> None:
    """A place on a worker without the tags, or on one that is suspect, helps nobody."""
    desk.tell(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1, tags=frozenset({"gpu"})))
    desk.job(1)
    desk.tell(ev.WorkerSuspected(2))
    assert desk.job(2, priority=1, tags=frozenset({"gpu"})) == []
    assert pick(desk.said, ev.Revoke) == []


def test_waiters_that_began_are_not_claimed(desk: Any, pick: Any) -> None:
    """Entries of attempts that wait no more are dropped when they are met."""
    desk.tell(ev.WorkerJoined(1, 1))
    measured(desk)
    out = desk.job(2, priority=1)
    assert out == []
    (revoke,) = pick(desk.said, ev.Revoke)
    waiting = [assign for assign in pick(desk.said, ev.Assign) if assign.job == 1][-1]
    assert revoke.attempt == waiting.attempt


def test_an_idle_slot_takes_what_waits_elsewhere(desk: Any, pick: Any) -> None:
    """At the tail a waiting chunk moves to a slot that has nothing."""
    desk.tell(ev.WorkerJoined(1, 2))
    a, b, c = desk.job(size=3, chunksize=1)
    assert (a.slot, b.slot, c.slot) == (0, 1, 0)
    desk.now += 1.0
    assert pick(desk.report(b, seconds=1.0), ev.Revoke) == [ev.Revoke(1, 0, c.attempt, 0)]
    assert pick(desk.report(c, hi=0, seconds=0.0), ev.Assign)[0].slot == 1


def alone(desk: Any, rtt: float = 0.0) -> Any:
    """One long chunk of items of 1 ms runs on worker 1, and nothing else is left of the job."""
    desk.tell(ev.WorkerJoined(1, 1, rtt=rtt))
    measured(desk)
    running, *rest = desk.state.attempts.values()
    for attempt in rest:
        desk.tell(
            ev.AttemptReported(attempt.id, attempt.lo, attempt.hi, (), 0.001 * (attempt.hi - attempt.lo), 8, True)
        )
    read = [command for command in desk.said if isinstance(command, ev.Read)][-1]
    desk.tell(ev.ChunkRead(1, read.chunk, 0, 0, True))
    return running


def test_an_idle_slot_takes_from_a_running_chunk(desk: Any, pick: Any) -> None:
    """The running attempt is stopped at its next item and the rest shared out; one Revoke at a time."""
    running = alone(desk)
    desk.tell(ev.AttemptProgressed(running.id, 2), after=0.002)
    assert desk.tell(ev.WorkerJoined(2, 1)) == [ev.Revoke(1, 0, running.id, 3)]
    assert desk.tell(ev.WorkerJoined(3, 1)) == []
    out = desk.tell(ev.AttemptReported(running.id, 0, 3, (), 0.003, 8, True))
    assert len({assign.worker for assign in pick(out, ev.Assign)}) == 3


def test_a_chunk_that_is_nearly_done_is_left_alone(desk: Any, pick: Any) -> None:
    """What would be saved must be worth the round trips."""
    running = alone(desk, rtt=0.05)
    assert desk.tell(ev.WorkerJoined(2, 1), after=running.end - desk.now - 0.01) == []


def test_an_overdue_chunk_is_taken_from(desk: Any, pick: Any) -> None:
    """Nobody knows how long its item will take, so what is behind the last known one goes elsewhere."""
    running = alone(desk)
    assert desk.tell(ev.WorkerJoined(2, 1), after=60.0) == [ev.Revoke(1, 0, running.id, 1)]


def test_a_waiting_chunk_behind_an_overdue_one_is_taken(desk: Any, pick: Any) -> None:
    """However soon it was expected to begin."""
    desk.tell(ev.WorkerJoined(1, 1))
    _running, waiting = desk.job(size=2, chunksize=1)
    assert desk.tell(ev.WorkerJoined(2, 1), after=60.0) == [ev.Revoke(1, 0, waiting.attempt, 0)]


def test_a_fixed_chunk_that_runs_is_not_cut(desk: Any, pick: Any) -> None:
    """`chunksize=` fixes it; only what waits may move."""
    desk.tell(ev.WorkerJoined(1, 1))
    first, _second = desk.job(size=4, chunksize=2)
    desk.now += 0.02
    desk.report(first, seconds=0.02)
    assert desk.tell(ev.WorkerJoined(2, 1)) == []


def test_nothing_is_taken_from_the_silent(desk: Any, pick: Any) -> None:
    """A suspect worker would not answer."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(size=2, chunksize=1)
    desk.tell(ev.WorkerSuspected(1))
    assert pick(desk.tell(ev.WorkerJoined(2, 1), after=5.0), ev.Revoke) == []
