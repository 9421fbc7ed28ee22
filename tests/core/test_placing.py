"""Who gets which place, who takes from whom."""

from __future__ import annotations

from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.limits import LIMITS


def measured(harness: Any, **spec: Any) -> list[Any]:
    """A job on one slot whose items are known to take 1 ms; gives what is assigned then."""
    todo = harness.job(**spec)
    for _ in range(4):
        assign = todo.pop(0)
        todo += harness.feed(harness.report(assign, seconds=0.001 * (assign.hi - assign.lo)))
    return todo


def test_chunks_grow(harness: Any) -> None:
    """From one item to 20 ms of work."""
    harness.send(ev.WorkerJoined(1, 1))
    todo = measured(harness)
    assert [assign.hi - assign.lo for assign in todo][-1] == 20


def test_priority_goes_first(harness: Any, pick: Any) -> None:
    """The job of higher priority gets every place that opens, although its chunk has still to be read."""
    harness.job(1)
    harness.job(2, priority=1)
    todo = harness.feed(harness.send(ev.WorkerJoined(1, 2)))
    assert todo[0].job == 2
    for _ in range(40):
        todo += harness.feed(harness.report(todo.pop(0)))
    assert {assign.job for assign in todo} == {2}
    assert {assign.job for assign in pick(harness.commands, ev.Assign)[4:]} == {2}


def test_a_slow_input_holds_up_nobody_for_long(harness: Any, pick: Any) -> None:
    """A place is kept for the job that reads for it, for 50 ms."""
    harness.send(ev.WorkerJoined(1, 1))
    (a, _) = harness.job(1, chunksize=1)
    (asked,) = harness.send(ev.JobSubmitted(2, ev.JobSpec(priority=3)))
    assert isinstance(asked, ev.Read)
    assert harness.report(a) == [ev.Deliver(1, a.chunk, 0, 1, a.attempt), ev.Release(1, a.chunk)]
    assert harness.scheduler.deadline() == pytest.approx(0.05)
    (read,) = harness.send(ev.Ticked(), after=0.06)
    assert read.job == 1
    assert harness.scheduler.deadline() is None


def test_equal_jobs_share(harness: Any, pick: Any) -> None:
    """Two jobs of equal priority get the same time, whatever their items take."""
    harness.send(ev.WorkerJoined(1, 2))
    todo = harness.job(1) + harness.job(2)
    time = {1: 0.0, 2: 0.0}
    for _ in range(3000):
        assign = todo.pop(0)
        seconds = (0.001 if assign.job == 1 else 0.004) * (assign.hi - assign.lo)
        time[assign.job] += seconds
        todo += harness.feed(harness.report(assign, seconds=seconds))
    assert 0.8 < time[1] / time[2] < 1.25


def test_a_newcomer_starts_where_the_others_are(harness: Any) -> None:
    """A job that comes late, or was idle, is not owed the time that passed before."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(3, pushed=True)
    todo = harness.job(1)
    for _ in range(200):
        todo += harness.feed(harness.report(todo.pop(0), seconds=1.0))
    harness.send(ev.JobSubmitted(2, ev.JobSpec()), ev.ItemsAdded(3, 1))
    jobs = harness.state.jobs
    assert jobs[2].served > 150
    assert jobs[3].served > 150


def test_tags_keep_jobs_apart(harness: Any) -> None:
    """A job runs only where its tags are; the best job among the groups goes first."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1, tags=frozenset({"gpu"})))
    assert {assign.worker for assign in harness.job(1, tags=frozenset({"gpu"}))} == {2}
    assert {assign.worker for assign in harness.job(2)} == {1}


def test_an_interactive_submit_need_not_wait_for_a_batch(harness: Any, pick: Any) -> None:
    """Every place is full: a waiting chunk of the batch is taken back for it, and it runs next."""
    harness.send(ev.WorkerJoined(1, 1))
    _running, waiting = measured(harness)
    harness.job(2, pushed=True)
    take, revoke = harness.send(ev.ItemsAdded(2, 1))
    assert isinstance(take, ev.Take)
    assert revoke == ev.Revoke(1, 0, waiting.attempt, waiting.lo)
    (assign,) = pick(harness.report(waiting, hi=waiting.lo, seconds=0.0), ev.Assign)
    assert assign.job == 2


def test_two_small_jobs_do_not_take_from_each_other(harness: Any, pick: Any) -> None:
    """Who has one chunk only keeps it."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(1, size=1)
    harness.job(2, size=1)
    harness.job(3, size=1)
    assert pick(harness.commands, ev.Revoke) == []


def test_a_higher_priority_takes_places(harness: Any, pick: Any) -> None:
    """One Revoke per chunk that has nowhere to go; nothing is taken from a higher priority."""
    harness.send(ev.WorkerJoined(1, 2))
    harness.job(1, priority=1)
    harness.job(2, priority=5)
    assert len(pick(harness.commands, ev.Revoke)) == 1
    assert pick(harness.send(ev.JobSubmitted(3, ev.JobSpec(priority=0))), ev.Read) == []


def test_nothing_is_claimed_where_it_cannot_be_used(harness: Any, pick: Any) -> None:
    """A place on a worker without the tags, or on one that is suspect, helps nobody."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1, tags=frozenset({"gpu"})))
    harness.job(1)
    harness.send(ev.WorkerSuspected(2))
    assert harness.job(2, priority=1, tags=frozenset({"gpu"})) == []
    assert pick(harness.commands, ev.Revoke) == []


def test_waiters_that_began_are_not_claimed(harness: Any, pick: Any) -> None:
    """Entries of attempts that wait no more are dropped when they are met."""
    harness.send(ev.WorkerJoined(1, 1))
    measured(harness)
    out = harness.job(2, priority=1)
    assert out == []
    (revoke,) = pick(harness.commands, ev.Revoke)
    waiting = [assign for assign in pick(harness.commands, ev.Assign) if assign.job == 1][-1]
    assert revoke.attempt == waiting.attempt


def test_an_idle_slot_takes_what_waits_elsewhere(harness: Any, pick: Any) -> None:
    """At the tail a waiting chunk moves to a slot that has nothing."""
    harness.send(ev.WorkerJoined(1, 2))
    a, b, c = harness.job(size=3, chunksize=1)
    assert (a.slot, b.slot, c.slot) == (0, 1, 0)
    harness.now += 1.0
    assert pick(harness.report(b, seconds=1.0), ev.Revoke) == [ev.Revoke(1, 0, c.attempt, 0)]
    assert pick(harness.report(c, hi=0, seconds=0.0), ev.Assign)[0].slot == 1


def test_an_idle_slot_waits_for_what_is_being_read(harness: Any, pick: Any) -> None:
    """While a chunk is read, only what would wait for longer than a chunk usually takes is taken from another slot."""
    harness.send(ev.WorkerJoined(1, 3))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec(chunksize=1)))
    assigns = []
    for _ in range(4):
        *some, read = harness.send(ev.ChunkRead(1, read.chunk, 1, 8, False))
        assigns += some
    (_, b, c, waiting) = assigns
    assert waiting.slot == 0
    out = harness.send(ev.AttemptReported(b.attempt, 0, 1, (), 0.005, 8, True), after=0.005)
    out += harness.send(ev.AttemptReported(c.attempt, 0, 1, (), 0.005, 8, True))
    assert pick(out, ev.Revoke) == [], "it would begin in 15 ms"
    assert harness.scheduler.deadline() is not None
    assert pick(harness.send(ev.Ticked(), after=0.1), ev.Revoke) == [ev.Revoke(1, 0, waiting.attempt, 0)]


def alone(harness: Any, rtt: float = 0.0) -> Any:
    """One long chunk of items of 1 ms runs on worker 1, and nothing else is left of the job."""
    harness.send(ev.WorkerJoined(1, 1, rtt=rtt))
    measured(harness)
    running, *rest = harness.state.attempts.values()
    for attempt in rest:
        harness.send(
            ev.AttemptReported(attempt.id, attempt.lo, attempt.hi, (), 0.001 * (attempt.hi - attempt.lo), 8, True)
        )
    read = [command for command in harness.commands if isinstance(command, ev.Read)][-1]
    harness.send(ev.ChunkRead(1, read.chunk, 0, 0, True))
    return running


def test_an_idle_slot_takes_from_a_running_chunk(harness: Any, pick: Any) -> None:
    """The running attempt is stopped at its next item and the rest shared out; one Revoke at a time."""
    running = alone(harness)
    harness.send(ev.AttemptProgressed(running.id, 2), after=0.002)
    assert harness.send(ev.WorkerJoined(2, 1)) == [ev.Revoke(1, 0, running.id, 3)]
    assert harness.send(ev.WorkerJoined(3, 1)) == []
    out = harness.send(ev.AttemptReported(running.id, 0, 3, (), 0.003, 8, True))
    assert len({assign.worker for assign in pick(out, ev.Assign)}) == 3


def test_a_chunk_that_is_nearly_done_is_left_alone(harness: Any, pick: Any) -> None:
    """What would be saved must be worth the round trips."""
    running = alone(harness, rtt=0.05)
    assert harness.send(ev.WorkerJoined(2, 1), after=running.end - harness.now - 0.01) == []


def test_an_overdue_chunk_is_taken_from(harness: Any, pick: Any) -> None:
    """Nobody knows how long its item will take, so what is behind the last known one goes elsewhere."""
    running = alone(harness)
    assert harness.send(ev.WorkerJoined(2, 1), after=60.0) == [ev.Revoke(1, 0, running.id, 1)]


def test_an_unmeasured_chunk_that_runs_for_long_is_taken_from(harness: Any, pick: Any) -> None:
    """Nobody knows what its items take: the guess is that it takes as long again."""
    harness.send(ev.WorkerJoined(1, 1))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec(size=80)))
    alone, read = harness.send(ev.ChunkRead(1, read.chunk, 1, 8, False))
    (behind,) = harness.send(ev.ChunkRead(1, read.chunk, 20, 160, True))
    harness.send(ev.AttemptReported(alone.attempt, 0, 0, (), 0.0, 0, True))
    (again,) = harness.send(ev.WorkerJoined(2, 2))
    assert harness.send(ev.AttemptReported(again.attempt, 0, 0, (), 0.0, 0, True)) == [
        ev.Assign(2, 0, again.attempt + 1, 1, alone.chunk, 0, 1)
    ]
    (revoke,) = harness.send(ev.Ticked(), after=1.0)
    assert (revoke.attempt, revoke.stop) == (behind.attempt, 1)


def test_a_waiting_chunk_behind_an_overdue_one_is_taken(harness: Any, pick: Any) -> None:
    """However soon it was expected to begin."""
    harness.send(ev.WorkerJoined(1, 1))
    _running, waiting = harness.job(size=2, chunksize=1)
    assert harness.send(ev.WorkerJoined(2, 1), after=60.0) == [ev.Revoke(1, 0, waiting.attempt, 0)]


def test_a_fixed_chunk_that_runs_is_not_cut(harness: Any, pick: Any) -> None:
    """`chunksize=` fixes it; only what waits may move."""
    harness.send(ev.WorkerJoined(1, 1))
    first, _second = harness.job(size=4, chunksize=2)
    harness.now += 0.02
    harness.report(first, seconds=0.02)
    assert harness.send(ev.WorkerJoined(2, 1)) == []


def test_nothing_is_taken_from_the_silent(harness: Any, pick: Any) -> None:
    """A suspect worker would not answer."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(size=2, chunksize=1)
    harness.send(ev.WorkerSuspected(1))
    assert pick(harness.send(ev.WorkerJoined(2, 1), after=5.0), ev.Revoke) == []


# --- work that is sent ahead ------------------------------------------------------------------------------------------


def far(harness: Any, worker: int, ahead: float = 6.0) -> None:
    """The worker's connection has dropped lately."""
    harness.send(ev.WorkerMeasured(worker, 0.001, 0.1, 0.1, ahead))


def held(harness: Any, worker: int, slot: int = 0) -> list[Any]:
    """What the slot holds, as the scheduler knows it."""
    return list(harness.state.worker_index.workers[worker].slots[slot].queue)


def work(harness: Any, todo: list[Any], chunks: int, item_time: float, nbytes: int = 8) -> None:
    """So many chunks are done and consumed."""
    for _ in range(chunks):
        assign = todo.pop(0)
        count = assign.hi - assign.lo
        todo += harness.feed(harness.report(assign, seconds=item_time * count), nbytes=nbytes)
        if harness.state.jobs[assign.job].streaming:
            todo += harness.feed(harness.send(ev.Consumed(assign.job, count, 8)), nbytes=nbytes)


def seconds_waiting(harness: Any, worker: int, item_time: float, slot: int = 0) -> float:
    return sum(attempt.hi - attempt.lo for attempt in held(harness, worker, slot)[1:]) * item_time


def test_a_worker_that_was_out_of_reach_gets_work_ahead(harness: Any) -> None:
    """Enough chunks wait there to cover the outage, in a bounded number; elsewhere one waits as ever."""
    harness.send(ev.WorkerJoined(1, 2), ev.WorkerJoined(2, 1))
    todo = harness.job(size=10_000)
    assert all(len(held(harness, worker)) == 2 for worker in (1, 2))
    far(harness, 1)
    work(harness, todo, 60, 0.05)
    for slot in (0, 1):
        assert 6.0 <= seconds_waiting(harness, 1, 0.05, slot) <= 6.0 + 2 * 6.0 / LIMITS.ahead_chunks
        assert len(held(harness, 1, slot)) <= 1 + LIMITS.ahead_chunks
    assert len(held(harness, 2)) == 2


def test_chunks_of_tiny_items_are_sent_ahead_everywhere(harness: Any) -> None:
    """Their process does not wait for the loop after each of them."""
    harness.send(ev.WorkerJoined(1, 1, ahead=LIMITS.ahead_least))
    work(harness, harness.job(chunksize=1), 20, 0.0002)
    assert LIMITS.ahead_least <= seconds_waiting(harness, 1, 0.0002) < LIMITS.ahead_least + 0.0003


def test_what_tiny_items_are_sent_ahead_opens_no_window(harness: Any) -> None:
    """A stream has two chunks for each slot, as ever."""
    harness.send(ev.WorkerJoined(1, 1, ahead=LIMITS.ahead_least))
    work(harness, harness.job(gather="ordered", chunksize=1), 20, 0.0002)
    assert len(held(harness, 1)) == 2


def test_without_a_measured_item_nothing_is_sent_ahead(harness: Any) -> None:
    """A chunk of unknown length may be all that there is to do."""
    harness.send(ev.WorkerJoined(1, 1))
    far(harness, 1)
    harness.job(size=100)
    assert len(held(harness, 1)) == 2


def test_what_is_left_is_dealt_out_fairly(harness: Any) -> None:
    """Work that another slot could do is not sent ahead: each slot has its share of what is left."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    far(harness, 1, ahead=15.0)
    todo = harness.job(size=60)
    work(harness, todo, 6, 0.2)
    left = 60 - harness.snapshot().done
    assert 2 < len(held(harness, 1))
    assert seconds_waiting(harness, 1, 0.2) <= left * 0.2 / 2 + 1.0


def test_bytes_bound_what_is_sent_ahead(make_harness: Any) -> None:
    """Large items wait in the notebook, where they are once."""
    harness = make_harness(LIMITS._replace(ahead_bytes=2000))
    harness.send(ev.WorkerJoined(1, 1))
    far(harness, 1)
    todo = harness.feed(harness.send(ev.JobSubmitted(1, ev.JobSpec())), nbytes=500)
    work(harness, todo, 4, 0.5, nbytes=500)
    assert 4 <= sum(attempt.chunk.nbytes for attempt in held(harness, 1)[1:]) / 500 <= 5


def test_an_idle_slot_takes_half_of_what_was_sent_ahead(harness: Any, pick: Any) -> None:
    """Several waiting chunks come back at once, those that would begin last; what is left is shared."""
    harness.send(ev.WorkerJoined(1, 1))
    far(harness, 1)
    todo = harness.job(size=40, chunksize=2)
    work(harness, todo, 4, 0.2)
    waiting = held(harness, 1)[1:]
    assert len(waiting) >= 10
    revokes = pick(harness.send(ev.WorkerJoined(2, 1)), ev.Revoke)
    assert len(revokes) == len(waiting) - len(waiting) // 2
    assert {one.attempt for one in revokes} == {attempt.id for attempt in waiting[len(waiting) // 2 :]}


def test_what_was_sent_ahead_makes_way_for_another_job(harness: Any, pick: Any) -> None:
    """A job that comes later does not wait behind seconds of work: it takes a place, and the rest makes way."""
    harness.send(ev.WorkerJoined(1, 1))
    far(harness, 1)
    todo = harness.job(chunksize=2, feed=True)
    work(harness, todo, 4, 0.2)
    behind = held(harness, 1)[1:]
    assert len(behind) > 5
    out = harness.send(ev.JobSubmitted(2, ev.JobSpec(size=1)))
    out += harness.send(ev.ChunkRead(2, pick(out, ev.Read)[0].chunk, 1, 8, True))
    revokes = pick(out, ev.Revoke)
    assert {one.attempt for one in revokes} == {attempt.id for attempt in behind}
    for revoke in revokes:
        back = ev.AttemptReported(revoke.attempt, revoke.stop, revoke.stop, (), 0.0, 0, True)
        out += harness.send(back)
    assert pick(out, ev.Assign)[0].job == 2
    assert held(harness, 1)[1].job.id == 2


def test_a_silent_worker_keeps_what_it_has_and_gives_back_when_it_is_heard(harness: Any, pick: Any) -> None:
    """It may run it: nothing is computed twice. When it is back, an idle slot takes its share at once."""
    harness.send(ev.WorkerJoined(1, 1))
    far(harness, 1)
    todo = harness.job(size=40, chunksize=2)
    work(harness, todo, 4, 0.2)
    count = len(held(harness, 1))
    harness.send(ev.WorkerSuspected(1))
    harness.finish(harness.feed(harness.send(ev.WorkerJoined(2, 1))))
    assert len(held(harness, 1)) == count
    assert held(harness, 2) == []
    assert pick(harness.commands, ev.Revoke) == []
    assert pick(harness.send(ev.WorkerTrusted(1), after=0.1), ev.Revoke)


def test_a_stream_is_sent_ahead_too(harness: Any) -> None:
    """The window of a stream has room for what is sent ahead, as long as its consumer takes that much."""
    harness.send(ev.WorkerJoined(1, 1))
    todo = harness.job(gather="ordered")
    work(harness, todo, 3, 0.1)
    assert len(held(harness, 1)) == 2
    far(harness, 1)
    todo += harness.feed(harness.commands[-1:])
    work(harness, todo, 12, 0.1)
    assert seconds_waiting(harness, 1, 0.1) >= 6.0
