"""What the scheduler makes of each event, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from distmap.core import events as ev
from distmap.core.limits import LIMITS
from distmap.errors import InvalidTransition


def test_a_job_from_end_to_end(harness: Any, pick: Any) -> None:
    """All items are read, assigned and delivered, every chunk is released, and Finish comes once and last."""
    harness.send(ev.WorkerJoined(1, 2))
    harness.finish(harness.job(size=100))
    assert sum(deliver.hi - deliver.lo for deliver in pick(harness.commands, ev.Deliver)) == 100
    assert len(pick(harness.commands, ev.Release)) == len(pick(harness.commands, ev.Read))
    assert pick(harness.commands, ev.Finish) == [ev.Finish(1, "done")]
    assert isinstance(harness.commands[-1], ev.Finish)


def test_an_empty_input_is_done_at_once(harness: Any) -> None:
    """A size of nothing needs no worker."""
    assert harness.send(ev.JobSubmitted(1, ev.JobSpec(size=0))) == [ev.Finish(1, "done")]


def test_an_input_of_unknown_length_ends_when_it_ends(harness: Any, pick: Any) -> None:
    """The answer that nothing is left ends the job when the rest is delivered."""
    harness.send(ev.WorkerJoined(1, 1))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec()))
    (assign, read) = harness.send(ev.ChunkRead(1, read.chunk, 1, 8, False))
    assert harness.send(ev.ChunkRead(1, read.chunk, 0, 0, True)) == []
    assert pick(harness.report(assign), ev.Finish) == [ev.Finish(1, "done")]


def test_a_known_length_may_be_too_long(harness: Any, pick: Any) -> None:
    """An input that ends before its announced length is done then."""
    harness.send(ev.WorkerJoined(1, 1))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec(size=10)))
    (assign,) = pick(harness.send(ev.ChunkRead(1, read.chunk, 1, 8, True)), ev.Assign)
    assert pick(harness.report(assign), ev.Finish) == [ev.Finish(1, "done")]
    assert harness.snapshot().total == 1


def test_failed_input_lets_what_was_read_complete(harness: Any, pick: Any) -> None:
    """The job fails only when the items that were read are delivered."""
    harness.send(ev.WorkerJoined(1, 1))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec()))
    (assign, read) = harness.send(ev.ChunkRead(1, read.chunk, 1, 8, False))
    assert harness.send(ev.InputFailed(1, read.chunk)) == []
    assert harness.report(assign)[-1] == ev.Finish(1, "failed")
    assert harness.send(ev.InputFailed(1, 7)) == []


def test_pushed_items_are_sent_when_added(harness: Any) -> None:
    """One step from the item to its slot, nothing to wait for; closing ends the job when all are delivered."""
    harness.send(ev.WorkerJoined(1, 2))
    assert harness.job(pushed=True) == []
    take, assign = harness.send(ev.ItemsAdded(1, 1, 80))
    assert take == ev.Take(1, assign.chunk, 1)
    assert assign == ev.Assign(1, 0, assign.attempt, 1, take.chunk, 0, 1)
    assert harness.send(ev.InputClosed(1)) == []
    assert harness.report(assign)[-1] == ev.Finish(1, "done")


def test_an_idle_pushed_job_ends_when_closed(harness: Any) -> None:
    """Nothing to wait for."""
    harness.job(pushed=True)
    assert harness.send(ev.InputClosed(1)) == [ev.Finish(1, "done")]


def test_a_closed_pushed_job_runs_what_it_has(harness: Any, pick: Any) -> None:
    """What waits for a place when the input is closed is run first."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(pushed=True)
    todo = pick(harness.send(ev.ItemsAdded(1, 4), ev.InputClosed(1)), ev.Assign)
    while todo:
        todo += pick(harness.report(todo.pop(0), seconds=1.0), ev.Assign)
    assert sum(take.count for take in pick(harness.commands, ev.Take)) == 4
    assert harness.commands[-1] == ev.Finish(1, "done")


def test_pause_takes_back_what_waits(harness: Any, pick: Any) -> None:
    """A paused job lets run what runs, gets nothing new, and goes on when resumed."""
    harness.send(ev.WorkerJoined(1, 1))
    running, waiting = harness.job(size=3)
    assert harness.send(ev.PauseRequested(1)) == [ev.Revoke(1, 0, waiting.attempt, 0)]
    assert harness.snapshot().state == "paused"
    assert pick(harness.report(running), ev.Assign) == []
    assert harness.report(waiting, hi=0) == []
    assert pick(harness.send(ev.ResumeRequested(1)), ev.Assign)


def test_cancel_stops_everything_and_finishes(harness: Any, pick: Any) -> None:
    """What waits is revoked, what runs interrupted; Finish comes with the last answer, what was done is delivered."""
    harness.send(ev.WorkerJoined(1, 1))
    running, waiting = harness.job(size=9)
    out = harness.send(ev.CancelRequested(1))
    assert out == [ev.Revoke(1, 0, waiting.attempt, 0), ev.Interrupt(1, 0, running.attempt)]
    assert harness.send(ev.CancelRequested(1), ev.PauseRequested(1)) == []
    assert pick(harness.report(running), ev.Deliver)
    assert harness.report(waiting, hi=0)[-1] == ev.Finish(1, "cancelled")
    assert harness.scheduler.deadline() is None
    assert harness.snapshot().state == "cancelled"


def test_cancel_after_pause(harness: Any, pick: Any) -> None:
    """What is being taken back already is not asked for twice; it may even have begun meanwhile."""
    harness.send(ev.WorkerJoined(1, 1))
    running, waiting = harness.job(size=9)
    harness.send(ev.PauseRequested(1))
    assert harness.send(ev.CancelRequested(1)) == [ev.Interrupt(1, 0, running.attempt)]
    harness.report(running)
    assert harness.report(waiting)[-1] == ev.Finish(1, "cancelled")


def test_an_old_timer_means_nothing(harness: Any, pick: Any) -> None:
    """A job that ended within its grace is not looked at again; the one after it is."""
    harness.send(ev.WorkerJoined(1, 1), ev.WorkerJoined(2, 1, tags=frozenset({"x"})))
    (first,) = harness.job(1, size=1)
    harness.job(2, size=1, tags=frozenset({"x"}) if first.worker == 1 else frozenset())
    harness.send(ev.CancelRequested(1), ev.CancelRequested(2))
    assert harness.report(first)[-1] == ev.Finish(1, "cancelled")
    assert harness.send(ev.Ticked(), after=1.0)[-1] == ev.Finish(2, "cancelled")


def test_a_chunk_consumed_bit_by_bit(harness: Any, pick: Any) -> None:
    """It leaves the window with its last item."""
    harness.send(ev.WorkerJoined(1, 1))
    first, _second = harness.job(gather="ordered", chunksize=3)
    assert harness.report(first)[-1] == ev.Release(1, first.chunk)
    assert harness.send(ev.Consumed(1, 1, 1), ev.Consumed(1, 1, 1)) == []
    assert pick(harness.send(ev.Consumed(1, 1, 1)), ev.Read)


def test_a_slot_that_does_not_stop_is_killed(harness: Any, pick: Any) -> None:
    """After the grace: Kill and Finish together; what the slot still says is discarded; then it is usable again."""
    harness.send(ev.WorkerJoined(1, 1))
    running, waiting = harness.job(size=9)
    harness.send(ev.CancelRequested(1))
    assert harness.scheduler.deadline() == pytest.approx(0.5)
    assert harness.send(ev.Ticked(), after=0.4) == []
    out = harness.send(ev.Ticked(), after=0.2)
    assert pick(out, ev.Kill) == [ev.Kill(1, 0)]
    assert out[-1] == ev.Finish(1, "cancelled")
    assert harness.report(running, ended=False) == [ev.Discard(running.attempt, 0, running.hi)]
    assert harness.report(running, lo=1, hi=1) == []
    assert harness.job(2, size=1, feed=False) == []
    harness.send(ev.SlotDied(1, 0, waiting.attempt, 0, "killed"))
    assert pick(harness.send(ev.SlotReady(1, 0)), ev.Read)


def test_the_answer_to_a_cancelled_read(harness: Any, pick: Any) -> None:
    """While the job is being stopped its chunk is released; after Finish the answer is dropped."""
    harness.send(ev.WorkerJoined(1, 1))
    reads = pick(harness.send(ev.JobSubmitted(3, ev.JobSpec())), ev.Read)
    (assign,) = pick(harness.send(ev.ChunkRead(3, reads[0].chunk, 1, 8, False)), ev.Assign)
    asked = harness.commands[-1]
    assert isinstance(asked, ev.Read)
    harness.send(ev.CancelRequested(3))
    assert harness.send(ev.ChunkRead(3, asked.chunk, 1, 8, False)) == [ev.Release(3, asked.chunk)]
    assert harness.report(assign)[-1] == ev.Finish(3, "cancelled")


def test_an_empty_answer_to_a_cancelled_read(harness: Any, pick: Any) -> None:
    """There is nothing to release."""
    harness.send(ev.WorkerJoined(1, 1))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec()))
    (_, asked) = harness.send(ev.ChunkRead(1, read.chunk, 1, 8, False))
    harness.send(ev.CancelRequested(1))
    assert harness.send(ev.ChunkRead(1, asked.chunk, 0, 0, True)) == []


def test_late_news_of_a_job_that_is_over(harness: Any) -> None:
    """It crossed Finish on its way: legal, and without effect."""
    harness.send(ev.JobSubmitted(1, ev.JobSpec(size=0)))
    late = [
        *(ev.ItemsAdded(1, 1), ev.InputClosed(1), ev.ChunkRead(1, 0, 1, 8, False), ev.Consumed(1, 1, 8)),
        *(ev.CancelRequested(1), ev.PauseRequested(1), ev.ResumeRequested(1)),
    ]
    assert harness.send(*late) == []


def test_jobs_that_are_over_leave_nothing_behind(harness: Any) -> None:
    """However many there were, what is remembered is bounded; late news even of the first is still legal."""
    for job in range(400):
        harness.send(ev.JobSubmitted(job, ev.JobSpec(size=0)))
    state = harness.state
    sizes = {name: len(value) for name, value in vars(state).items() if hasattr(value, "__len__")}
    assert max(sizes.values()) == sizes["last_snapshots"] == 256
    assert harness.send(ev.CancelRequested(0), ev.Consumed(3, 1, 8)) == []


def test_items_pushed_while_stopping_are_ignored(harness: Any, pick: Any) -> None:
    """The owner may not know yet that the job was cancelled."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(pushed=True)
    harness.feed(harness.send(ev.ItemsAdded(1, 1)))
    harness.send(ev.CancelRequested(1))
    assert harness.send(ev.ItemsAdded(1, 5), ev.InputClosed(1)) == []


def test_snapshots_of_the_past_are_kept_for_a_while(harness: Any) -> None:
    """The last 256 jobs can still be asked for."""
    for job in range(300):
        harness.send(ev.JobSubmitted(job, ev.JobSpec(size=0)))
    assert harness.snapshot(299).state == "done"
    with pytest.raises(InvalidTransition, match="job 3 is not known"):
        harness.snapshot(3)


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
def test_an_illegal_event_raises_and_changes_nothing(harness: Any, event: Any) -> None:
    """Whatever cannot follow is refused as if it had not been said."""
    harness.send(ev.WorkerJoined(1, 1))
    harness.job(1, size=None, feed=False)
    harness.send(ev.ChunkRead(1, 0, 1, 8, False))
    harness.send(ev.ChunkRead(1, 1, 1, 8, False))
    harness.send(ev.JobSubmitted(2, ev.JobSpec(pushed=True)), ev.JobSubmitted(3, ev.JobSpec(pushed=True)))
    harness.send(ev.ItemsAdded(3, 5), ev.InputClosed(3), ev.WorkerJoined(2, 1))
    state = harness.state
    before = frozen(state, {})
    with pytest.raises(InvalidTransition):
        harness.send(copy.copy(event), after=1.0)
    harness.now -= 1.0
    assert frozen(state, {}) == before


def test_a_costly_dispatch_makes_larger_chunks(harness: Any) -> None:
    """What a chunk costs the loop is averaged; beyond half a millisecond it is taken for bytes; it is never below 0."""
    harness.send(ev.WorkerJoined(1, 100))
    for _ in range(20):
        harness.send(ev.DispatchMeasured(3.0))
    todo = harness.job(1)
    for _ in range(4):
        todo += harness.feed(harness.report(todo.pop(0), seconds=0.001))
    assert todo[-1].hi - todo[-1].lo == 64, "as many as its growth allows; 100 ms are aimed at"
    for assign in todo[:300]:
        todo += harness.feed(harness.report(assign, seconds=0.001 * (assign.hi - assign.lo)))
    assert todo[-1].hi - todo[-1].lo in (99, 100)
    with pytest.raises(InvalidTransition, match="expected at least 0"):
        harness.send(ev.DispatchMeasured(-0.1))


def test_a_read_that_cannot_be_answered_so(harness: Any) -> None:
    """The answer has at most what was asked for, no negative size, and at least one item unless the input ends."""
    harness.send(ev.WorkerJoined(1, 1))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec(chunksize=2)))
    for count, nbytes, match in ((3, 0, "3 items read, expected 0 to 2"), (1, -1, "-1 bytes"), (0, 0, "did not end")):
        with pytest.raises(InvalidTransition, match=match):
            harness.send(ev.ChunkRead(1, read.chunk, count, nbytes, False))


def test_items_that_cannot_be_added(harness: Any) -> None:
    """Only a pushed job takes items, at least one, of no negative size."""
    harness.send(ev.JobSubmitted(1, ev.JobSpec()), ev.JobSubmitted(2, ev.JobSpec(pushed=True)))
    for event, match in (
        (ev.ItemsAdded(1, 1), "only a pushed job takes ItemsAdded"),
        (ev.ItemsAdded(2, 0), "0 items added"),
        (ev.ItemsAdded(2, 1, -1), "-1 bytes"),
    ):
        with pytest.raises(InvalidTransition, match=match):
            harness.send(event)


def test_time_does_not_go_back(harness: Any) -> None:
    """The clock is monotonic."""
    harness.send(ev.Ticked(), after=5.0)
    with pytest.raises(InvalidTransition, match="time went back"):
        harness.send(ev.Ticked(), after=-1.0)


def test_input_that_grows_holds_up_reading(harness: Any, pick: Any, make_harness: Any) -> None:
    """Bytes that a chunk is found to hold count until it is released; nothing counts of what is over."""
    harness = make_harness(LIMITS._replace(job_bytes=100))
    harness.send(ev.WorkerJoined(1, 2))
    (read,) = harness.send(ev.JobSubmitted(1, ev.JobSpec(size=10, chunksize=1)))
    assign, second = harness.send(ev.ChunkRead(1, read.chunk, 1, 8, False))
    assert harness.send(ev.InputGrew(1, read.chunk, 92)) == []
    (other,) = harness.send(ev.ChunkRead(1, second.chunk, 1, 8, False))  # no further Read: the window is full
    assert pick(harness.report(other), ev.Read) == []
    assert len(pick(harness.report(assign), ev.Read)) == 1
    assert harness.send(ev.InputGrew(1, read.chunk, 92)) == []
    harness.send(ev.CancelRequested(1))
    assert harness.send(ev.InputGrew(1, second.chunk, 92)) == []
    with pytest.raises(InvalidTransition, match="expected at least 0"):
        harness.send(ev.InputGrew(1, second.chunk, -1))
