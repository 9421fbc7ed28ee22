"""What the scheduler makes of each event, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.limits import LIMITS
from distmap.errors import InvalidTransition


def test_a_job_from_end_to_end(desk: Any, pick: Any) -> None:
    """All items are read, assigned and delivered, every chunk is released, and Finish comes once and last."""
    desk.tell(ev.WorkerJoined(1, 2))
    desk.finish(desk.job(size=100))
    assert sum(deliver.hi - deliver.lo for deliver in pick(desk.said, ev.Deliver)) == 100
    assert len(pick(desk.said, ev.Release)) == len(pick(desk.said, ev.Read))
    assert pick(desk.said, ev.Finish) == [ev.Finish(1, "done")]
    assert isinstance(desk.said[-1], ev.Finish)


def test_an_empty_input_is_done_at_once(desk: Any) -> None:
    """A size of nothing needs no worker."""
    assert desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=0))) == [ev.Finish(1, "done")]


def test_an_input_of_unknown_length_ends_when_it_ends(desk: Any, pick: Any) -> None:
    """The answer that nothing is left ends the job when the rest is delivered."""
    desk.tell(ev.WorkerJoined(1, 1))
    (read,) = desk.tell(ev.JobSubmitted(1, ev.JobSpec()))
    (assign, read) = desk.tell(ev.ChunkRead(1, read.chunk, 1, 8, False))
    assert desk.tell(ev.ChunkRead(1, read.chunk, 0, 0, True)) == []
    assert pick(desk.report(assign), ev.Finish) == [ev.Finish(1, "done")]


def test_a_known_length_may_be_too_long(desk: Any, pick: Any) -> None:
    """An input that ends before its announced length is done then."""
    desk.tell(ev.WorkerJoined(1, 1))
    (read,) = desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=10)))
    (assign,) = pick(desk.tell(ev.ChunkRead(1, read.chunk, 1, 8, True)), ev.Assign)
    assert pick(desk.report(assign), ev.Finish) == [ev.Finish(1, "done")]
    assert desk.snapshot().total == 1


def test_failed_input_lets_what_was_read_complete(desk: Any, pick: Any) -> None:
    """The job fails only when the items that were read are delivered."""
    desk.tell(ev.WorkerJoined(1, 1))
    (read,) = desk.tell(ev.JobSubmitted(1, ev.JobSpec()))
    (assign, read) = desk.tell(ev.ChunkRead(1, read.chunk, 1, 8, False))
    assert desk.tell(ev.InputFailed(1, read.chunk)) == []
    assert desk.report(assign)[-1] == ev.Finish(1, "failed")
    assert desk.tell(ev.InputFailed(1, 7)) == []


def test_pushed_items_are_sent_when_added(desk: Any) -> None:
    """One step from the item to its slot, nothing to wait for; closing ends the job when all are delivered."""
    desk.tell(ev.WorkerJoined(1, 2))
    assert desk.job(pushed=True) == []
    take, assign = desk.tell(ev.ItemsAdded(1, 1, 80))
    assert take == ev.Take(1, assign.chunk, 1)
    assert assign == ev.Assign(1, 0, assign.attempt, 1, take.chunk, 0, 1)
    assert desk.tell(ev.InputClosed(1)) == []
    assert desk.report(assign)[-1] == ev.Finish(1, "done")


def test_an_idle_pushed_job_ends_when_closed(desk: Any) -> None:
    """Nothing to wait for."""
    desk.job(pushed=True)
    assert desk.tell(ev.InputClosed(1)) == [ev.Finish(1, "done")]


def test_a_closed_pushed_job_runs_what_it_has(desk: Any, pick: Any) -> None:
    """What waits for a place when the input is closed is run first."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(pushed=True)
    todo = pick(desk.tell(ev.ItemsAdded(1, 4), ev.InputClosed(1)), ev.Assign)
    while todo:
        todo += pick(desk.report(todo.pop(0), seconds=1.0), ev.Assign)
    assert sum(take.count for take in pick(desk.said, ev.Take)) == 4
    assert desk.said[-1] == ev.Finish(1, "done")


def test_large_pushed_items_wait_for_room(make_desk: Any, pick: Any) -> None:
    """No more is taken than the limits on bytes allow; with nothing under way one item always is."""
    desk = make_desk(LIMITS._replace(job_bytes=100, chunk_bytes=50))
    desk.tell(ev.WorkerJoined(1, 2))
    desk.job(pushed=True)
    todo = pick(desk.tell(ev.ItemsAdded(1, 3, 180)), ev.Assign)
    assert len(todo) == 2
    while todo:
        todo += pick(desk.report(todo.pop(0), seconds=1e-6), ev.Assign)
    assert [take.count for take in pick(desk.said, ev.Take)] == [1, 1, 1]


def test_pause_takes_back_what_waits(desk: Any, pick: Any) -> None:
    """A paused job lets run what runs, gets nothing new, and goes on when resumed."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=3)
    assert desk.tell(ev.PauseRequested(1)) == [ev.Revoke(1, 0, waiting.attempt, 0)]
    assert desk.snapshot().state == "paused"
    assert pick(desk.report(running), ev.Assign) == []
    assert desk.report(waiting, hi=0) == []
    assert pick(desk.tell(ev.ResumeRequested(1)), ev.Assign)


def test_cancel_stops_everything_and_finishes(desk: Any, pick: Any) -> None:
    """What waits is revoked, what runs interrupted; Finish comes with the last answer, what was done is delivered."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=9)
    out = desk.tell(ev.CancelRequested(1))
    assert out == [ev.Revoke(1, 0, waiting.attempt, 0), ev.Interrupt(1, 0, running.attempt)]
    assert desk.tell(ev.CancelRequested(1), ev.PauseRequested(1)) == []
    assert pick(desk.report(running), ev.Deliver)
    assert desk.report(waiting, hi=0)[-1] == ev.Finish(1, "cancelled")
    assert desk.scheduler.deadline() is None
    assert desk.snapshot().state == "cancelled"


def test_cancel_after_pause(desk: Any, pick: Any) -> None:
    """What is being taken back already is not asked for twice; it may even have begun meanwhile."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=9)
    desk.tell(ev.PauseRequested(1))
    assert desk.tell(ev.CancelRequested(1)) == [ev.Interrupt(1, 0, running.attempt)]
    desk.report(running)
    assert desk.report(waiting)[-1] == ev.Finish(1, "cancelled")


def test_an_old_timer_means_nothing(desk: Any, pick: Any) -> None:
    """A job that ended within its grace is not looked at again; the one after it is."""
    desk.tell(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1, tags=frozenset({"x"})))
    (first,) = desk.job(1, size=1)
    desk.job(2, size=1, tags=frozenset({"x"}) if first.worker == 1 else frozenset())
    desk.tell(ev.CancelRequested(1), ev.CancelRequested(2))
    assert desk.report(first)[-1] == ev.Finish(1, "cancelled")
    assert desk.tell(ev.Ticked(), after=1.0)[-1] == ev.Finish(2, "cancelled")


def test_a_heartbeat_moves_a_worker(desk: Any, pick: Any) -> None:
    """Measured figures count from then on."""
    desk.tell(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    desk.tell(ev.WorkerMeasured(1, 0.0, 0.1, 0.99))
    assert {assign.worker for assign in desk.job(size=2)} == {2}


def test_a_chunk_consumed_bit_by_bit(desk: Any, pick: Any) -> None:
    """It leaves the window with its last item."""
    desk.tell(ev.WorkerJoined(1, 1))
    first, _second = desk.job(gather="ordered", chunksize=3)
    assert desk.report(first)[-1] == ev.Release(1, first.chunk)
    assert desk.tell(ev.Consumed(1, 1, 1), ev.Consumed(1, 1, 1)) == []
    assert pick(desk.tell(ev.Consumed(1, 1, 1)), ev.Read)


def test_a_slot_that_does_not_stop_is_killed(desk: Any, pick: Any) -> None:
    """After the grace: Kill and Finish together; what the slot still says is discarded; then it is usable again."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=9)
    desk.tell(ev.CancelRequested(1))
    assert desk.scheduler.deadline() == pytest.approx(0.5)
    assert desk.tell(ev.Ticked(), after=0.4) == []
    out = desk.tell(ev.Ticked(), after=0.2)
    assert pick(out, ev.Kill) == [ev.Kill(1, 0)]
    assert out[-1] == ev.Finish(1, "cancelled")
    assert desk.report(running, ended=False) == [ev.Discard(running.attempt, 0, running.hi)]
    assert desk.report(running, lo=1, hi=1) == []
    assert desk.job(2, size=1, feed=False) == []
    desk.tell(ev.SlotDied(1, 0, waiting.attempt, 0, "killed"))
    assert pick(desk.tell(ev.SlotReady(1, 0)), ev.Read)


def test_the_answer_to_a_cancelled_read(desk: Any, pick: Any) -> None:
    """While the job is being stopped its chunk is released; after Finish the answer is dropped."""
    desk.tell(ev.WorkerJoined(1, 1))
    reads = pick(desk.tell(ev.JobSubmitted(3, ev.JobSpec())), ev.Read)
    (assign,) = pick(desk.tell(ev.ChunkRead(3, reads[0].chunk, 1, 8, False)), ev.Assign)
    asked = desk.said[-1]
    assert isinstance(asked, ev.Read)
    desk.tell(ev.CancelRequested(3))
    assert desk.tell(ev.ChunkRead(3, asked.chunk, 1, 8, False)) == [ev.Release(3, asked.chunk)]
    assert desk.report(assign)[-1] == ev.Finish(3, "cancelled")


def test_an_empty_answer_to_a_cancelled_read(desk: Any, pick: Any) -> None:
    """There is nothing to release."""
    desk.tell(ev.WorkerJoined(1, 1))
    (read,) = desk.tell(ev.JobSubmitted(1, ev.JobSpec()))
    (_, asked) = desk.tell(ev.ChunkRead(1, read.chunk, 1, 8, False))
    desk.tell(ev.CancelRequested(1))
    assert desk.tell(ev.ChunkRead(1, asked.chunk, 0, 0, True)) == []


def test_a_refused_attempt_fails_the_job(desk: Any, pick: Any) -> None:
    """Code that does not load ends the job, once everything else of it has stopped."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=9)
    assert pick(desk.tell(ev.AttemptRefused(running.attempt)), ev.Interrupt)
    assert desk.tell(ev.AttemptRefused(waiting.attempt))[-1] == ev.Finish(1, "failed")
    assert desk.tell(ev.AttemptRefused(waiting.attempt)) == []


def test_draining_takes_back_what_waits(desk: Any, pick: Any) -> None:
    """A worker that wants to leave finishes what runs, gets nothing new, and nobody is charged."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=3)
    assert desk.tell(ev.WorkerDraining(1)) == [ev.Revoke(1, 0, waiting.attempt, 0)]
    assert pick(desk.report(running), ev.Deliver)
    assert desk.report(waiting, hi=0) == []
    assert desk.tell(ev.WorkerLost(1, charged=False)) == []
    assert desk.snapshot().losses == 0
    desk.finish(desk.feed(desk.tell(ev.WorkerJoined(2, 1))))
    assert desk.said[-1] == ev.Finish(1, "done")


def test_a_suspect_worker_gets_nothing_new(desk: Any, pick: Any) -> None:
    """Until it is trusted again; what it reports meanwhile counts."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, _waiting = desk.job(size=9)
    desk.tell(ev.WorkerSuspected(1))
    out = desk.report(running)
    assert pick(out, ev.Deliver)
    assert not pick(out, ev.Read)
    assert desk.snapshot().lanes[0].state == "suspect"
    assert pick(desk.tell(ev.WorkerTrusted(1)), ev.Read)


def test_what_a_lost_worker_still_says_changes_nothing(desk: Any, pick: Any) -> None:
    """Late news of a worker that was given up is legal; its results are refused and counted."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, _waiting = desk.job(size=2)
    desk.tell(ev.WorkerLost(1))
    late = [
        *(ev.WorkerLost(1), ev.WorkerSuspected(1), ev.WorkerTrusted(1), ev.WorkerDraining(1)),
        *(ev.WorkerMeasured(1, 0.1, 0.1, 0.1), ev.SlotDied(1, 0, None, None, "idle"), ev.SlotReady(1, 0)),
        ev.AttemptProgressed(running.attempt, 0),
    ]
    assert desk.tell(*late) == []
    assert desk.report(running) == [ev.Discard(running.attempt, 0, 1)]
    assert desk.report(running, hi=0) == []
    assert desk.snapshot().duplicates == 1


def test_hints_move_the_bar_only(desk: Any) -> None:
    """A hint counts items inside a running chunk; nonsense is ignored."""
    desk.tell(ev.WorkerJoined(1, 1))
    running, waiting = desk.job(size=30, chunksize=10)
    for attempt, at in ((running.attempt, 4), (running.attempt, 3), (running.attempt, 99), (waiting.attempt, 5)):
        assert desk.tell(ev.AttemptProgressed(attempt, at), after=0.1) == []
    assert desk.snapshot().done == 4


def test_late_news_of_a_job_that_is_over(desk: Any) -> None:
    """It crossed Finish on its way: legal, and without effect."""
    desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=0)))
    late = [
        *(ev.ItemsAdded(1, 1), ev.InputClosed(1), ev.ChunkRead(1, 0, 1, 8, False), ev.Consumed(1, 1, 8)),
        *(ev.CancelRequested(1), ev.PauseRequested(1), ev.ResumeRequested(1)),
    ]
    assert desk.tell(*late) == []


def test_jobs_that_are_over_leave_nothing_behind(desk: Any) -> None:
    """However many there were, what is remembered is bounded; late news even of the first is still legal."""
    for job in range(400):
        desk.tell(ev.JobSubmitted(job, ev.JobSpec(size=0)))
    state = desk.scheduler._state
    sizes = {name: len(value) for name, value in vars(state).items() if hasattr(value, "__len__")}
    assert max(sizes.values()) == sizes["last_snapshots"] == 256
    assert desk.tell(ev.CancelRequested(0), ev.Consumed(3, 1, 8)) == []


def test_items_pushed_while_stopping_are_ignored(desk: Any, pick: Any) -> None:
    """The owner may not know yet that the job was cancelled."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(pushed=True)
    desk.feed(desk.tell(ev.ItemsAdded(1, 1)))
    desk.tell(ev.CancelRequested(1))
    assert desk.tell(ev.ItemsAdded(1, 5), ev.InputClosed(1)) == []


def test_snapshots_of_the_past_are_kept_for_a_while(desk: Any) -> None:
    """The last 256 jobs can still be asked for."""
    for job in range(300):
        desk.tell(ev.JobSubmitted(job, ev.JobSpec(size=0)))
    assert desk.snapshot(299).state == "done"
    with pytest.raises(InvalidTransition, match="job 3 is not known"):
        desk.snapshot(3)


ILLEGAL = [
    "no event",
    ev.WorkerJoined(1, 2),
    ev.WorkerJoined(9, 0),
    ev.WorkerLost(9),
    ev.WorkerSuspected(9),
    ev.WorkerMeasured(9, 0.0, 0.0, 0.0),
    ev.SlotDied(1, 5, None, None, "idle"),
    ev.SlotDied(1, 0, 99, 0, "died"),
    ev.SlotReady(1, 0),
    ev.JobSubmitted(1, ev.JobSpec()),
    ev.JobSubmitted(9, ev.JobSpec(size=-1)),
    ev.JobSubmitted(9, ev.JobSpec(chunksize=0)),
    ev.JobSubmitted(9, ev.JobSpec(buffer=0)),
    ev.JobSubmitted(9, ev.JobSpec(retries=-1)),
    ev.JobSubmitted(9, ev.JobSpec(size=3, pushed=True)),
    ev.ItemsAdded(1, 1),
    ev.ItemsAdded(2, 0),
    ev.ItemsAdded(2, 1, -1),
    ev.ItemsAdded(3, 1),
    ev.ItemsAdded(9, 1),
    ev.InputClosed(1),
    ev.InputClosed(3),
    ev.ChunkRead(1, 99, 1, 8, False),
    ev.ChunkRead(1, 2, 99, 8, False),
    ev.ChunkRead(1, 2, 1, -8, False),
    ev.ChunkRead(1, 2, 0, 0, False),
    ev.ChunkRead(2, 3, 1, 8, False),
    ev.InputFailed(1, 99),
    ev.Consumed(1, 1, 8),
    ev.Consumed(1, -1, 8),
    ev.CancelRequested(9),
    ev.AttemptProgressed(99, 0),
    ev.AttemptLost(99),
    ev.AttemptRefused(99),
    ev.AttemptReported(99, 0, 1, (), 0.0, 0, True),
    ev.AttemptReported(-1, 0, 1, (), 0.0, 0, True),
    ev.AttemptReported(0, 1, 0, (), 0.0, 0, True),
    ev.AttemptReported(0, 1, 1, (), 0.0, 0, True),
    ev.AttemptReported(0, 0, 9, (), 0.0, 0, True),
    ev.AttemptReported(0, 0, 1, (1,), 0.0, 0, True),
    ev.AttemptReported(0, 0, 1, (0, 0), 0.0, 0, True),
    ev.AttemptReported(0, 0, 1, (), -1.0, 0, True),
]


def frozen(thing: Any, seen: dict[int, int]) -> Any:
    """Everything that the scheduler remembers, as plain values."""
    if isinstance(thing, int | float | str | bool | None | type):
        return thing
    if id(thing) in seen:
        return ("seen", seen[id(thing)])
    seen[id(thing)] = len(seen)
    if isinstance(thing, dict):
        return [(frozen(key, seen), frozen(value, seen)) for key, value in thing.items()]
    if isinstance(thing, list | tuple | set | frozenset) or type(thing).__name__ == "deque":
        return [frozen(each, seen) for each in thing]
    if hasattr(thing, "__slots__"):
        return [(name, frozen(getattr(thing, name), seen)) for name in thing.__slots__]
    return frozen(vars(thing), seen) if hasattr(thing, "__dict__") else repr(thing)


@pytest.mark.parametrize("event", ILLEGAL, ids=repr)
def test_an_illegal_event_raises_and_changes_nothing(desk: Any, event: Any) -> None:
    """Whatever cannot follow is refused as if it had not been said."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(1, size=None, feed=False)
    desk.tell(ev.ChunkRead(1, 0, 1, 8, False))
    desk.tell(ev.ChunkRead(1, 1, 1, 8, False))
    desk.tell(ev.JobSubmitted(2, ev.JobSpec(pushed=True)), ev.JobSubmitted(3, ev.JobSpec(pushed=True)))
    desk.tell(ev.ItemsAdded(3, 5), ev.InputClosed(3), ev.WorkerJoined(2, 1))
    state = desk.scheduler._state
    before = frozen(state, {})
    with pytest.raises(InvalidTransition):
        desk.tell(copy.copy(event), after=1.0)
    desk.now -= 1.0
    assert frozen(state, {}) == before


def test_time_does_not_go_back(desk: Any) -> None:
    """The clock is monotonic."""
    desk.tell(ev.Ticked(), after=5.0)
    with pytest.raises(InvalidTransition, match="time went back"):
        desk.tell(ev.Ticked(), after=-1.0)


def test_input_that_grows_holds_up_reading(desk: Any, pick: Any, make_desk: Any) -> None:
    """Bytes that a chunk is found to hold count until it is released; nothing counts of what is over."""
    desk = make_desk(LIMITS._replace(job_bytes=100))
    desk.tell(ev.WorkerJoined(1, 2))
    (read,) = desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=10, chunksize=1)))
    assign, second = desk.tell(ev.ChunkRead(1, read.chunk, 1, 8, False))
    assert desk.tell(ev.InputGrew(1, read.chunk, 92)) == []
    (other,) = desk.tell(ev.ChunkRead(1, second.chunk, 1, 8, False))  # no further Read: the window is full
    assert pick(desk.report(other), ev.Read) == []
    assert len(pick(desk.report(assign), ev.Read)) == 1
    assert desk.tell(ev.InputGrew(1, read.chunk, 92)) == []
    desk.tell(ev.CancelRequested(1))
    assert desk.tell(ev.InputGrew(1, second.chunk, 92)) == []
    with pytest.raises(InvalidTransition, match="expected at least 0"):
        desk.tell(ev.InputGrew(1, second.chunk, -1))


# --- set-ups ----------------------------------------------------------------------------------------------------------


def set_up(desk: Any, job: int = 1, each: str = "slot", **spec: Any) -> list[Any]:
    """Submit a set-up; give what the scheduler answers."""
    made = ev.JobSpec(pushed=True, stop_on_failure=False, each=each, **spec)  # type: ignore[arg-type]
    out: list[Any] = desk.tell(ev.JobSubmitted(job, made))
    return out


def places(commands: list[Any], pick: Any) -> list[tuple[int, int]]:
    return [(one.worker, one.slot) for one in pick(commands, ev.SetUp)]


def test_a_set_up_runs_once_in_each_slot(desk: Any, pick: Any) -> None:
    """Every slot of every worker with the tags gets one call of its own; with the last handle it ends."""
    desk.tell(ev.WorkerJoined(1, 2, tags=frozenset(["gpu"])), ev.WorkerJoined(2, 1), ev.WorkerJoined(3, 1))
    desk.tell(ev.WorkerDraining(3))
    out = set_up(desk)
    assigns = pick(out, ev.Assign)
    assert places(out, pick) == [(one.worker, one.slot) for one in assigns] == [(1, 0), (1, 1), (2, 0)]
    for assign, made in zip(assigns, pick(out, ev.SetUp), strict=True):
        assert assign.chunk == made.chunk
        assert len(pick(desk.report(assign), ev.Deliver)) == 1
    assert places(set_up(desk, 2, tags=frozenset(["gpu"])), pick) == [(1, 0), (1, 1)]
    assert desk.tell(ev.InputClosed(1)) == [ev.Finish(1, "done")]
    assert not desk.scheduler.unready(1)
    assert desk.snapshot(1).done == 3


def test_a_set_up_of_workers_takes_the_slot_that_is_free(desk: Any, pick: Any) -> None:
    """It runs once on each worker, where it need not wait."""
    desk.tell(ev.WorkerJoined(1, 2))
    (busy,) = desk.job(2, size=1)
    assert busy.slot == 0
    assert places(set_up(desk, each="worker"), pick) == [(1, 1)]


def test_a_set_up_goes_before_what_waits(desk: Any, pick: Any) -> None:
    """It waits for what the slot has, nothing is taken back for it, and further work waits behind it."""
    desk.tell(ev.WorkerJoined(1, 1))
    first, second = desk.job(1, size=10, chunksize=1)
    out = set_up(desk, 2)
    assert places(out, pick) == [(1, 0)]
    assert pick(out, ev.Assign) == []
    (call,) = pick(desk.feed(desk.report(first)), ev.Assign)
    assert call.job == 2
    assert {one.job for one in desk.feed(desk.report(second))} == {1}
    assert {one.job for one in desk.feed(desk.report(call))} == {1}


def test_what_waits_of_a_set_up_is_not_taken_back_for_others(desk: Any, pick: Any) -> None:
    """Neither an idle slot nor a job of higher priority gets a call that is for another slot."""
    desk.tell(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1))
    desk.job(1, size=1)
    assert len(pick(set_up(desk, 2), ev.Assign)) == 2
    assert pick(desk.tell(ev.JobSubmitted(3, ev.JobSpec(size=9, priority=5)), after=9.0), ev.Revoke) == []


def test_a_worker_that_comes_later_is_set_up_first(desk: Any, pick: Any) -> None:
    """It takes nothing else until all its calls succeeded; a second set-up follows the first."""
    desk.tell(ev.WorkerJoined(1, 1))
    (own,) = pick(set_up(desk, 1), ev.Assign)
    (other,) = pick(set_up(desk, 2, each="worker"), ev.Assign)
    desk.report(own), desk.report(other)
    desk.job(3, size=100, chunksize=1)
    out = desk.tell(ev.WorkerJoined(2, 2))
    assert places(out, pick) == [(2, 0), (2, 1), (2, 0)]
    calls = desk.feed(out)
    assert [(one.job, one.slot) for one in calls] == [(1, 0), (2, 0), (1, 1)]
    for call in calls[:2]:
        assert desk.scheduler.unready(2)
        assert desk.feed(desk.report(call)) == []
    assert {(one.worker, one.job) for one in desk.feed(desk.report(calls[2]))} == {(2, 3)}
    assert not desk.scheduler.unready(2)


def test_all_slots_wait_for_a_set_up_that_runs_in_one(desk: Any, pick: Any) -> None:
    """The other slots of a worker that comes later take nothing before its one call succeeded."""
    desk.tell(ev.WorkerJoined(1, 1))
    (own,) = pick(set_up(desk, 1, each="worker"), ev.Assign)
    desk.report(own)
    desk.job(2, size=100, chunksize=1)
    (call,) = desk.feed(desk.tell(ev.WorkerJoined(2, 3)))
    assert call.job == 1
    assert {one.slot for one in desk.feed(desk.report(call))} == {0, 1, 2}


def test_a_call_of_a_set_up_that_is_over_is_refused(desk: Any, pick: Any) -> None:
    """That it could not be loaded came too late to matter to anybody."""
    desk.tell(ev.WorkerJoined(1, 1))
    (call,) = pick(set_up(desk), ev.Assign)
    desk.tell(ev.CancelRequested(1))
    assert ev.Finish(1, "cancelled") in desk.tell(ev.Ticked(), after=1.0)
    assert desk.tell(ev.AttemptRefused(call.attempt)) == []


def test_a_worker_where_a_set_up_failed_is_left_out_until_it_ends(desk: Any, pick: Any) -> None:
    """The failure is delivered, the worker takes nothing, others go on; with the set-up its demand ends."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.report(pick(set_up(desk), ev.Assign)[0])
    desk.job(2, size=100, chunksize=1)
    (call,) = desk.feed(desk.tell(ev.WorkerJoined(2, 1)))
    out = desk.report(call, failed=(0,))
    assert len(pick(out, ev.Deliver)) == 1
    assert desk.feed(out) == []
    assert desk.scheduler.unready(2)
    assert {one.worker for one in desk.feed(desk.tell(ev.CancelRequested(1)))} == {2}


def test_a_set_up_that_is_cancelled_lets_its_slots_go(desk: Any, pick: Any) -> None:
    """Calls that wait are forgotten, those that run are interrupted, and workers that come meanwhile owe nothing."""
    desk.tell(ev.WorkerJoined(1, 2))
    desk.job(1, size=100, chunksize=1)
    set_up(desk, 2), set_up(desk, 3)
    desk.tell(ev.WorkerJoined(2, 1))
    running = pick(desk.said, ev.Assign)[-2:]
    assert [one.job for one in running] == [2, 3]
    out = desk.tell(ev.CancelRequested(2))
    assert [one.attempt for one in pick(out, ev.Interrupt)] == [running[0].attempt]
    assert places(desk.tell(ev.WorkerJoined(3, 1)), pick) == [(3, 0)]
    out = desk.report(running[0], hi=0)
    assert pick(out, ev.Finish) == [ev.Finish(2, "cancelled")]


def test_a_worker_that_leaves_takes_its_calls_along(desk: Any, pick: Any) -> None:
    """Calls that ran or waited there are lost for that reason, and charged to nobody."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.job(1, size=100, chunksize=1)
    set_up(desk, 2)
    desk.tell(ev.WorkerJoined(2, 1))
    gone = desk.tell(ev.WorkerLost(1), ev.WorkerLost(2))
    assert [(one.job, one.cause) for one in pick(gone, ev.DeliverLoss)] == [(2, "gone")] * 2
    assert desk.tell(ev.InputClosed(2)) == [ev.Finish(2, "done")]


def test_a_slot_that_dies_in_a_set_up_is_set_up_again(desk: Any, pick: Any) -> None:
    """The call is charged as an item is: it runs again in the fresh process, and the third death is its end."""
    desk.tell(ev.WorkerJoined(1, 1))
    (call,) = pick(set_up(desk), ev.Assign)
    for _ in range(2):
        desk.tell(ev.SlotDied(1, 0, call.attempt, 0, "died"))
        (call,) = desk.tell(ev.SlotReady(1, 0))
    out = desk.tell(ev.SlotDied(1, 0, call.attempt, 0, "died"))
    assert [one.cause for one in pick(out, ev.DeliverLoss)] == ["poison"]


def test_a_set_up_that_does_not_load_fails_there_only(desk: Any, pick: Any) -> None:
    """A refusal is the end of that call, and its worker is left out; the set-up itself goes on."""
    desk.tell(ev.WorkerJoined(1, 1))
    desk.report(pick(set_up(desk), ev.Assign)[0])
    (call,) = desk.feed(desk.tell(ev.WorkerJoined(2, 1)))
    out = desk.tell(ev.AttemptRefused(call.attempt))
    assert [one.cause for one in pick(out, ev.DeliverLoss)] == ["refused"]
    assert desk.scheduler.unready(2)
    assert desk.tell(ev.InputClosed(1)) == [ev.Finish(1, "done")]


def test_a_set_up_is_pushed(desk: Any) -> None:
    """It has no input that could be read."""
    with pytest.raises(InvalidTransition, match="counts as pushed"):
        desk.tell(ev.JobSubmitted(1, ev.JobSpec(each="slot")))


def test_the_first_chunk_comes_with_the_job(desk: Any, pick: Any) -> None:
    """Its items are sent at once; the next ones are read."""
    desk.tell(ev.WorkerJoined(1, 1))
    take, assign, read = desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=2), count=1, nbytes=8))
    assert take == ev.Take(1, assign.chunk, 1)
    assert (assign.lo, assign.hi) == (0, 1)
    assert isinstance(read, ev.Read)
    (waiting,) = desk.tell(ev.ChunkRead(1, read.chunk, 1, 8, True))
    desk.report(assign)
    assert desk.report(waiting)[-1] == ev.Finish(1, "done")


def test_all_items_come_with_the_job(desk: Any) -> None:
    """Nothing is read when the first chunk is the last one."""
    desk.tell(ev.WorkerJoined(1, 2))
    take, assign = desk.tell(ev.JobSubmitted(1, ev.JobSpec(chunksize=2), count=2, nbytes=16, last=True))
    assert take == ev.Take(1, assign.chunk, 2)
    assert desk.snapshot().total == 2
    assert desk.report(assign)[-1] == ev.Finish(1, "done")


def test_an_input_known_to_be_empty_ends_the_job(desk: Any) -> None:
    """An iterator without items is done when it is submitted."""
    assert desk.tell(ev.JobSubmitted(1, ev.JobSpec(), last=True)) == [ev.Finish(1, "done")]


def test_the_first_chunk_waits_for_a_worker(desk: Any, pick: Any) -> None:
    """It is taken at once, and sent when a worker comes; a cancelled job releases it."""
    for job in (1, 2):
        (take,) = desk.tell(ev.JobSubmitted(job, ev.JobSpec(gather="ordered", buffer=1), count=1, nbytes=8))
    assert desk.tell(ev.CancelRequested(2)) == [ev.Release(2, take.chunk), ev.Finish(2, "cancelled")]
    (assign,) = desk.tell(ev.WorkerJoined(1, 1))
    assert assign.job == 1


@pytest.mark.parametrize(
    ("spec", "count", "nbytes", "last", "match"),
    [
        pytest.param({}, -1, 0, False, "-1 items, 0 bytes", id="fewer-than-none"),
        pytest.param({}, 1, -1, False, "1 items, -1 bytes", id="negative-bytes"),
        pytest.param({"pushed": True}, 1, 8, False, "none can come with it", id="pushed"),
        pytest.param({"pushed": True}, 0, 0, True, "none can come with it", id="pushed-and-over"),
        pytest.param({"size": 0}, 1, 8, True, "its size is 0", id="of-nothing"),
        pytest.param({"chunksize": 2}, 3, 8, False, "its chunksize is 2", id="over-the-chunksize"),
        pytest.param({"buffer": 2, "gather": "ordered"}, 3, 8, False, "its buffer is 2", id="over-the-buffer"),
    ],
)
def test_a_first_chunk_that_cannot_be(desk: Any, spec: Any, count: int, nbytes: int, last: bool, match: str) -> None:
    """A first chunk that does not fit the job is refused, and the job with it."""
    with pytest.raises(InvalidTransition, match=match):
        desk.tell(ev.JobSubmitted(1, ev.JobSpec(**spec), count, nbytes, last))
    assert desk.tell(ev.JobSubmitted(1, ev.JobSpec(size=0))) == [ev.Finish(1, "done")]
